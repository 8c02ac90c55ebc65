"""Optuna's storage in fewer statements, beside Optuna's own: the same rows."""

from __future__ import annotations

import contextlib
import copy
import datetime
import math
import re
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
import sqlalchemy as sql
from conftest import claimed, in_sqlite, metrics, opened, settings_in
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial
from servers import Postgres
from sqlalchemy.dialects import mysql, postgresql, sqlite

from harness.settings import Settings
from harness.storage.lean_storage import LeanStorage, Outrun, _mark, _store
from harness.studies.claim import Claim
from harness.studies.study import Study
from search_spaces.digits import SPACE

DRAWN_FROM: dict[str, BaseDistribution] = {
    "width": IntDistribution(1, 32, log=True),
    "method": CategoricalDistribution(["hints", "soft"]),
    "alpha": FloatDistribution(0, 1),
}
WHOLE = create_trial(
    state=TrialState.RUNNING,
    params={"width": 8, "method": "soft", "alpha": 0.25},
    distributions=DRAWN_FROM,
    user_attrs={"recipe": "hinton"},
    system_attrs={"generation": 3, "parents": [1, 2]},
)


def test_a_trial_is_stored_whole_in_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = in_sqlite(settings_in(tmp_path, trials=1))
    study = opened(settings)
    storage = study.optuna._storage
    for name in ("set_trial_param", "set_trial_user_attr", "set_trial_system_attr"):
        monkeypatch.setattr(storage, name, None)
    claim = claimed(study, SPACE)
    assert claim is not None
    (stored,) = opened(settings).trials()
    assert stored.params == claim.configuration.params() and stored.user_attrs == {"recipe": "repdistiller"}


def rows(file: Path) -> dict[str, list[Any]]:
    """All that is stored of trials, less when."""
    with contextlib.closing(sqlite3.connect(file)) as database:
        tables = ("trial_params", "trial_user_attributes", "trial_system_attributes")
        found = {table: database.execute(f"select * from {table} order by 1").fetchall() for table in tables}
        found["trials"] = database.execute("select trial_id, number, study_id, state from trials").fetchall()
        return found


def test_a_trial_is_stored_as_optuna_stores_it(tmp_path: Path) -> None:
    for kind in (RDBStorage, LeanStorage):
        storage = kind(f"sqlite:///{tmp_path}/{kind.__name__}.db")
        for name in ("another", "this"):  # studies share the tables
            study = storage.create_new_study([StudyDirection.MAXIMIZE], name)
            for number in range(2):
                if isinstance(storage, LeanStorage):
                    storage.begin(study, WHOLE, number=number)
                else:
                    storage.create_new_trial(study, WHOLE)
    assert rows(tmp_path / "LeanStorage.db") == rows(tmp_path / "RDBStorage.db")


def test_what_a_trial_is_begun_as_is_what_is_read(tmp_path: Path) -> None:
    storage = LeanStorage(f"sqlite:///{tmp_path}/optuna.db")
    study = storage.create_new_study([StudyDirection.MAXIMIZE], "s")
    storage.begin(study, WHOLE, number=0)
    begun = storage.begin(study, WHOLE, number=1)
    assert begun.number == 1 and begun == storage.get_trial(begun._trial_id)
    assert list(begun.params.items()) == list(WHOLE.params.items())


def test_a_trial_that_would_have_another_number_is_not_begun(tmp_path: Path) -> None:
    storage = LeanStorage(f"sqlite:///{tmp_path}/optuna.db")
    study = storage.create_new_study([StudyDirection.MAXIMIZE], "s")
    storage.create_new_trial(study, create_trial(state=TrialState.WAITING))
    with pytest.raises(Outrun, match="0 would be 1"):
        storage.begin(study, WHOLE, number=0)
    assert [trial.state.name for trial in storage.get_all_trials(study)] == ["WAITING"]


STATES = {
    "whole": create_trial(
        state=TrialState.COMPLETE,
        params=WHOLE.params,
        distributions=DRAWN_FROM,
        values=[0.5, float("-inf")],
        intermediate_values={1: float("nan"), 2: float("inf"), 7: 0.4},
        user_attrs={"metrics": {"accuracy": 0.5}, "reason": "none"},
        system_attrs={"generation": 3, "parents": [1, 2]},
    ),
    "failed": create_trial(state=TrialState.FAIL, user_attrs={"reason": "disk full"}),
    "runs": WHOLE,
    "waits": create_trial(state=TrialState.WAITING, system_attrs={"fixed_params": {"width": 2}}),
    "pruned": create_trial(
        state=TrialState.PRUNED, params={"width": 1}, distributions={"width": DRAWN_FROM["width"]}, values=[0.1, 2.0]
    ),
}


def check_reading(address: str, *, ordered: bool) -> None:
    """Every choice of trials is read as Optuna reads it; where rows are ``ordered``, all in the same order."""
    lean, optunas = LeanStorage(address), RDBStorage(address)
    optunas.create_new_study([StudyDirection.MAXIMIZE] * 2, "another")
    study = optunas.create_new_study([StudyDirection.MAXIMIZE] * 2, "this")
    assert lean._get_trials(study, None, set(), -1) == []
    for other in (study, 1, study):
        for trial in STATES.values():
            optunas.create_new_trial(other, trial)
    ids = [trial._trial_id for trial in optunas.get_all_trials(study)]
    choices: list[tuple[Any, set[int], int]] = [
        (None, set(), -1),
        (None, {ids[2], ids[8]}, ids[5]),
        (None, set(), ids[7]),
        (None, {ids[0]}, ids[-1]),
        (None, set(), ids[-1]),
        ((TrialState.RUNNING, TrialState.WAITING), set(), -1),
    ]
    for choice in choices:
        found, expected = lean._get_trials(study, *choice), optunas._get_trials(study, *choice)
        for trial in () if ordered else (*found, *expected):
            for name in ("intermediate_values", "user_attrs", "system_attrs"):
                setattr(trial, name, dict(sorted(getattr(trial, name).items())))
        # No two nan are equal.
        assert [repr(trial) for trial in found] == [repr(trial) for trial in expected], choice
        for one, its in zip(found, expected, strict=True):
            assert list(one.params) == list(its.params) and one.distributions == its.distributions
    for storage in (lean, optunas):
        with pytest.raises(KeyError):
            storage._get_trials(99, None, set(), -1)
        storage.engine.dispose()


def test_trials_are_read_as_optuna_reads_them(tmp_path: Path) -> None:
    check_reading(f"sqlite:///{tmp_path}/optuna.db", ordered=True)


@pytest.mark.service
def test_trials_are_read_from_a_server_as_optuna_reads_them(postgres: Postgres) -> None:
    check_reading(postgres.new_database("read"), ordered=False)


def ended(address: str) -> tuple[LeanStorage, int, int]:
    """A storage with a study of one trial that was ended, and both's ids."""
    storage = LeanStorage(address)
    study = storage.create_new_study([StudyDirection.MAXIMIZE] * 2, "s")
    whole = copy.copy(WHOLE)
    whole.datetime_start = datetime.datetime.now()
    begun = storage.begin(study, whole, number=0)._trial_id
    storage.set_trial_intermediate_value(begun, 1, 0.25)
    attrs = {"metrics": {"accuracy": 0.5}}
    storage.end(begun, TrialState.COMPLETE, values=[0.5, float("inf")], user_attrs=attrs, marks={2: 0.5, 7: 0.75})
    return storage, study, begun


def check_end(address: str) -> None:
    storage, study, begun = ended(address)
    optunas = RDBStorage(address)
    (trial,) = optunas.get_all_trials(study)
    optunas.engine.dispose()
    assert trial.state == TrialState.COMPLETE and trial.values == [0.5, float("inf")]
    assert trial.user_attrs == {"recipe": "hinton", "metrics": {"accuracy": 0.5}}
    assert trial.intermediate_values == {1: 0.25, 2: 0.5, 7: 0.75}
    assert trial.datetime_start is not None and trial.datetime_complete is not None
    assert 0 <= (trial.datetime_complete - trial.datetime_start).total_seconds() < 600  # both in the same time zone
    with pytest.raises(UpdateFinishedTrialError):
        storage.end(begun, TrialState.FAIL, values=None, user_attrs={"reason": "late"}, marks={9: 0.1})
    assert storage.get_all_trials(study) == [trial]
    storage.engine.dispose()


def test_an_end_is_stored_as_optuna_stores_it_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    try:
        check_end(f"sqlite:///{tmp_path}/optuna.db")
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.service
def test_an_end_is_stored_on_a_server_as_optuna_stores_it_and_once(postgres: Postgres) -> None:
    check_end(postgres.new_database("ends"))


def check_marks(address: str) -> None:
    storage = LeanStorage(address)
    study = storage.create_new_study([StudyDirection.MAXIMIZE], "marked")
    trials = [storage.begin(study, WHOLE, number=number)._trial_id for number in range(2)]
    storage.set_study_user_attr(study, "kd.id", {"a": [1, None]})
    marks = ({1: 0.5, 3: math.nan}, {3: math.inf, 9: -math.inf}, {1: 0.25})
    for some in marks:
        storage.mark(trials[0], some)
        for step, value in some.items():
            storage.set_trial_intermediate_value(trials[1], step, value)
    optunas = RDBStorage(address)
    ours, theirs = optunas.get_all_trials(study)
    assert ours.intermediate_values == theirs.intermediate_values == {1: 0.25, 3: math.inf, 9: -math.inf}
    assert storage.get_study_user_attrs(study) == optunas.get_study_user_attrs(study) == {"kd.id": {"a": [1, None]}}
    for asked in (storage.get_study_user_attrs, storage.get_all_trials):
        with pytest.raises(KeyError):
            asked(study + 1)
    for one in (storage, optunas):
        one.engine.dispose()


def test_marks_are_stored_as_optuna_stores_them(tmp_path: Path) -> None:
    check_marks(f"sqlite:///{tmp_path}/optuna.db")


@pytest.mark.service
def test_marks_are_stored_on_a_server_as_optuna_stores_them(postgres: Postgres) -> None:
    check_marks(postgres.new_database("marks"))


@pytest.mark.parametrize("dialect", [mysql, postgresql, sqlite])
def test_a_mark_is_one_statement(dialect: Any) -> None:
    # One that updates nothing, and inserts then, made workers on MySQL wait for each other.
    asked = list[Any]()
    connection: Any = SimpleNamespace(dialect=dialect.dialect(), execute=asked.append)
    _store(connection, _mark, {"trial_id": 1, "step": 2}, {"intermediate_value": 0.5})
    (statement,) = asked
    text = str(statement.compile(dialect=connection.dialect))
    assert text.startswith("INSERT") and ("ON CONFLICT" in text or "ON DUPLICATE KEY UPDATE" in text)


def test_an_end_that_is_cut_leaves_nothing_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = LeanStorage(f"sqlite:///{tmp_path}/optuna.db")
    study = storage.create_new_study([StudyDirection.MAXIMIZE], "s")
    begun = storage.begin(study, WHOLE, number=0)

    commits = []

    def cut(connection: Any) -> None:
        commits.append(connection)
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patched, statements(storage.engine) as asked:
        patched.setattr(storage.engine.dialect, "do_commit", cut)
        with pytest.raises(sql.exc.OperationalError):
            storage.end(begun._trial_id, TrialState.FAIL, values=None, user_attrs={"reason": "x"}, marks={2: 0.5})
    written = [statement.split()[0] for statement in asked if not statement.startswith("SELECT")]
    assert len(commits) == 1 and written == ["UPDATE", "INSERT", "INSERT"]  # all of it was cut at once
    assert storage.get_all_trials(study) == [begun]
    storage.end(begun._trial_id, TrialState.FAIL, values=None, user_attrs={"reason": "x"}, marks={2: 0.5})
    assert storage.get_trial(begun._trial_id).state == TrialState.FAIL


def test_of_two_that_end_a_trial_at_once_one_does(tmp_path: Path) -> None:
    address, ends = f"sqlite:///{tmp_path}/optuna.db", {"done": TrialState.COMPLETE, "stopped": TrialState.FAIL}
    study = LeanStorage(address).create_new_study([StudyDirection.MAXIMIZE], "s")
    for number in range(20):
        trial_id = LeanStorage(address).begin(study, WHOLE, number=number)._trial_id
        start, late = threading.Barrier(2), []

        def end(word: str, trial_id: int = trial_id, start: Any = start, late: list[str] = late) -> None:
            storage, values = LeanStorage(address), [1.0] if word == "done" else None
            start.wait()
            try:
                storage.end(trial_id, ends[word], values=values, user_attrs={word: True}, marks={})
            except UpdateFinishedTrialError:
                late.append(word)

        threads = [threading.Thread(target=end, args=(word,)) for word in ends]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (word,) = ends.keys() - late
        trial = LeanStorage(address).get_trial(trial_id)
        assert (trial.state, trial.user_attrs) == (ends[word], {"recipe": "hinton", word: True})
        assert trial.values == ([1.0] if word == "done" else None)


@pytest.mark.service
@pytest.mark.parametrize("in_flight", [False, True])
def test_a_trial_whose_end_was_stored_but_not_answered_has_ended(
    on_server: Settings, monkeypatch: pytest.MonkeyPatch, in_flight: bool
) -> None:
    study = opened(on_server)
    claim = claimed(study, SPACE)
    assert claim is not None
    storage, engine = study.optuna._storage, engine_of(study)
    running = storage.get_trial(claim.trial._trial_id)
    with losing_an_answer(engine, monkeypatch, to="UPDATE trials ") as lost:
        if in_flight:  # the first attempt's commit ends after the second has looked
            monkeypatch.setattr(storage, "get_trial", lambda trial_id: running)
        claim.complete(metrics(0.75, 1.0))
    monkeypatch.undo()
    (trial,) = study.trials()
    assert lost and trial.state == TrialState.COMPLETE and trial.user_attrs["metrics"]["accuracy"] == 0.75
    claim.hold.release()
    study.claims.close()
    engine.dispose()


@pytest.fixture
def on_server(tmp_path: Path, postgres: Postgres, request: pytest.FixtureRequest) -> Settings:
    return replace(
        settings_in(tmp_path, trials=1), storage=postgres.new_database(re.sub(r"\W", "_", request.node.name)[-60:])
    )


def engine_of(study: Study) -> sql.Engine:
    return study.optuna._storage._backend.engine  # type: ignore[attr-defined,no-any-return]


@pytest.mark.service
def test_a_trial_whose_beginning_was_stored_but_not_answered_is_begun_once(
    on_server: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = opened(on_server)
    engine = engine_of(study)
    with losing_an_answer(engine, monkeypatch, to="INSERT INTO trials ") as lost:
        claim = claimed(study, SPACE)
    assert lost and claim is not None and claim.trial.number == 0
    assert len(study.trials()) == 1
    claim.hold.release()
    study.claims.close()
    engine.dispose()


@pytest.mark.service
def test_who_loses_its_turn_to_another_right_before_it_begins_a_trial_begins_none(
    on_server: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, fast = opened(on_server), opened(on_server)
    database = slow.optuna._storage._backend  # type: ignore[attr-defined]
    begin, claims = database.begin, []

    def stalled(*arguments: Any, **named: Any) -> Any:
        if not claims:
            with engine_of(fast).connect() as connection:  # as the server does with one that it hears nothing of
                holders = "select pid from pg_locks where locktype = 'advisory'"
                here = "datname = current_database() and pid <> pg_backend_pid()"
                ended = f"select pg_terminate_backend(pid) from pg_stat_activity where {here} and pid in ({holders})"
                connection.execute(sql.text(ended))
            claims.append(claimed(fast, SPACE))
        return begin(*arguments, **named)

    monkeypatch.setattr(database, "begin", stalled)
    assert claimed(slow, SPACE) is None  # it was the last one
    assert claims[0] is not None and claims[0].trial.number == 0
    assert len(slow.trials()) == 1
    for study in (slow, fast):
        study.claims.close()
        engine_of(study).dispose()


def test_trials_are_counted_by_state(tmp_path: Path) -> None:
    storage = LeanStorage(f"sqlite:///{tmp_path}/optuna.db")
    study, other = (storage.create_new_study([StudyDirection.MAXIMIZE], name) for name in "ab")
    assert storage.tally(study) == Counter()
    for state, values in ((TrialState.WAITING, None), (TrialState.COMPLETE, [1.0]), (TrialState.COMPLETE, [2.0])):
        storage.create_new_trial(study, create_trial(state=state, values=values))
    storage.create_new_trial(other, WHOLE)
    assert storage.tally(study) == {TrialState.WAITING: 1, TrialState.COMPLETE: 2}
    assert storage.tally(study)[TrialState.RUNNING] == 0


@contextlib.contextmanager
def losing_an_answer(engine: sql.Engine, monkeypatch: pytest.MonkeyPatch, *, to: str) -> Iterator[list[Any]]:
    """The first commit after a statement that begins so is made, and not answered; where it was, once it was."""
    commit, lost = engine.dialect.do_commit, list[Any]()
    with statements(engine) as asked:

        def lose(connection: Any) -> None:
            commit(connection)
            if not lost and any(statement.startswith(to) for statement in asked):
                lost.append(connection)
                raise psycopg.OperationalError("server closed the connection unexpectedly")

        monkeypatch.setattr(engine.dialect, "do_commit", lose)
        yield lost


@contextlib.contextmanager
def statements(engine: sql.Engine) -> Iterator[list[str]]:
    """What a database is asked meanwhile."""
    asked: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        asked.append(statement)

    sql.event.listen(engine, "before_cursor_execute", note)
    yield asked
    sql.event.remove(engine, "before_cursor_execute", note)


def asked_for_a_trial(settings: Settings) -> dict[str, int]:
    """Statements of a trial, by what they are for; the one after a trial that has ended."""
    study: Study = opened(replace(settings, objectives=("accuracy", "macs")))
    engine = study.optuna._storage._backend.engine  # type: ignore[attr-defined]
    for _ in range(2):
        counts = {}
        with statements(engine) as asked:
            claim = claimed(study, SPACE)
            assert isinstance(claim, Claim)
            counts["claim"] = len(asked)
            claim.mark(2, 0.5)
            counts["mark"] = len(asked) - counts["claim"]
        with statements(engine) as asked:
            claim.complete(metrics(0.5, 1.0))
            counts["end"] = len(asked)
        claim.hold.release()
    study.claims.close()
    engine.dispose()
    return counts


# By Optuna's own means it would be 33 for a claim and 20 for an end, of a server 35 and 21.
def test_a_trial_takes_few_statements(tmp_path: Path) -> None:
    counts = asked_for_a_trial(in_sqlite(settings_in(tmp_path, trials=9)))
    assert counts["claim"] <= 14 and counts["mark"] <= 2 and counts["end"] <= 3, counts


@pytest.mark.service
def test_a_trial_takes_few_statements_of_a_server(tmp_path: Path, postgres: Postgres) -> None:
    storage = postgres.new_database("few_statements")
    counts = asked_for_a_trial(replace(settings_in(tmp_path, trials=9), storage=storage))
    assert counts["claim"] <= 16 and counts["mark"] <= 2 and counts["end"] <= 4, counts
