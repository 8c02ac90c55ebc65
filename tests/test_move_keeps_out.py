"""Moves of a study in PostgreSQL while machines without a shared folder work on it, or start to."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import psycopg
import pytest
import sqlalchemy as sql
from conftest import Moving, claimed, ended, opened, settings_in, wait_for
from forked import Forked
from optuna.trial import TrialState, create_trial
from servers import Postgres
from sqlalchemy.engine import Engine
from test_moved_study import moved, moving
from test_storm import begin

import harness.studies.move
from harness.core.errors import HarnessError
from harness.screen.terminal import Terminal
from harness.space import load_space
from harness.storage.access import open_storage
from harness.storage.database_leases import DatabaseLeases
from harness.studies.move import move
from search_spaces.digits import SPACE

pytestmark = [pytest.mark.slow, pytest.mark.service]


@pytest.fixture(autouse=True)
def nothing_left_open() -> Iterator[None]:
    """Connections to PostgreSQL are closed at a test's end, whoever opened them."""
    connections: list[Any] = []

    def note(connection: Any, record: Any) -> None:
        if isinstance(connection, psycopg.Connection):
            connections.append(connection)

    sql.event.listen(Engine, "connect", note)
    yield
    sql.event.remove(Engine, "connect", note)
    for connection in connections:
        connection.close()


@pytest.fixture(params=["to sqlite", "to postgres"])
def settings(request: pytest.FixtureRequest, tmp_path: Path, postgres: Postgres) -> Moving:
    """Those of a study in PostgreSQL, with a trial, that is to be moved."""
    source, target = (postgres.new_database(f"{name} {tmp_path.name}"[:60]) for name in ("from", "to"))
    to = target if request.param == "to postgres" else f"sqlite:///{tmp_path}/moved.db"
    made = Moving(**{**vars(settings_in(tmp_path, trials=9)), "storage": source}, to=to)
    study = opened(made)
    study.optuna.add_trial(create_trial(state=TrialState.FAIL, user_attrs={"reason": "none"}))
    return made


def test_a_study_with_a_worker_on_another_machine_is_not_moved_and_the_worker_is_named(settings: Moving) -> None:
    other = opened(replace(settings, runs_dir=settings.runs_dir / "other"))
    with contextlib.closing(other.leases):
        claim = claimed(other, SPACE)
        assert claim is not None
        for _ in ("at a trial", "between two"):
            with pytest.raises(HarnessError, match=rf"is being worked on by process {os.getpid()} on \S+; stop that"):
                move(settings, settings.to, Terminal())
            claim.lease.release()
    move(settings, settings.to, Terminal())
    with pytest.raises(HarnessError, match="was moved to"):  # it had opened the study before
        claimed(other, SPACE)


def test_a_move_waits_for_a_lost_machine_s_heartbeat_and_then_goes_on(
    settings: Moving, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("harness.storage.database_leases.HEARTBEAT_S", 0.2)
    monkeypatch.setattr("harness.storage.database_leases.GRACE_S", 1.0)
    other = opened(replace(settings, runs_dir=settings.runs_dir / "other"))
    claim, leases = claimed(other, SPACE), other.leases
    assert claim is not None and isinstance(leases, DatabaseLeases)
    leases._over.set()  # its heartbeat stops
    wait_for(lambda: leases.workers()[0].silent_s > 0.4)
    began_s = time.monotonic()
    move(settings, settings.to, Terminal())
    assert time.monotonic() - began_s > 1.0
    assert re.search(rf"waiting   up to \d+ s for a sign of life of process {os.getpid()} on", capsys.readouterr().out)
    assert leases.workers() == [] and len(opened(replace(settings, storage=settings.to)).trials()) == 2


def test_a_move_that_loses_its_locks_is_aborted_and_the_study_stays(
    settings: Moving, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, copy = known(settings), harness.studies.move._copy

    def cut_off(*arguments: object) -> None:
        copy(*arguments)  # type: ignore[arg-type]
        engine = open_storage(settings).server
        assert engine is not None
        with engine.connect() as connection:
            lost = (
                "select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory' and pid <> pg_backend_pid()"
            )
            connection.execute(sql.text(lost))

    with monkeypatch.context() as patch:
        patch.setattr(harness.studies.move, "_copy", cut_off)
        with pytest.raises(HarnessError, match="can't be used any more"):
            move(settings, settings.to, Terminal())
    assert known(settings) == before and opened(settings).finished() == 1
    move(settings, settings.to, Terminal())
    assert known(replace(settings, storage=settings.to)) == before


def _with_many_trials(folder: Path, storage: str, trials: int) -> Moving:
    """A study of the example's, with so many trials that are said to have failed."""
    file = folder / "cancer.py"
    settings = replace(settings_in(folder, trials=trials), study="cancer", storage=storage, epochs=1)
    settings = replace(settings, space_name="cancer", space_file=file)
    study = opened(settings, space := load_space(file))
    params = {"width": 2, "temperature": 2.0, "alpha": 0.5, "learning_rate": 1e-2}
    failed = create_trial(
        state=TrialState.FAIL, params=params, distributions=space.distributions, user_attrs={"reason": "none"}
    )
    for _ in range(trials):
        study.optuna.add_trial(failed)
    return settings


def _count_in(address: str, text: str) -> int:
    """What a database answers; 0 before it has tables."""
    with sql.create_engine(address, poolclass=sql.NullPool).connect() as connection:
        try:
            return int(connection.execute(sql.text(text)).scalar_one() or 0)
        except sql.exc.ProgrammingError:
            return 0


def _trials_in(address: str, *, later_than: int = 0) -> int:
    """How many trials the newest study has that came later than another."""
    newest = f"(select max(study_id) from studies where study_id > {later_than})"
    return _count_in(address, f"select count(*) from trials where study_id = {newest}")


def _waiting_in(address: str) -> int:
    """How many wait for a lock of the program's."""
    here = "(select oid from pg_database where datname = current_database())"
    return _count_in(
        address, f"select count(*) from pg_locks where locktype = 'advisory' and not granted and database = {here}"
    )


def test_a_moved_study_is_not_moved_back_to_its_old_storage_under_another_address(
    tmp_path: Path, postgres: Postgres
) -> None:
    storage = postgres.new_database("another_name")
    settings = replace(settings_in(tmp_path, trials=9), storage=storage)
    opened(settings)
    move(settings, f"sqlite:///{tmp_path}/moved.db", Terminal())
    alias = f"{storage}{'&' if '?' in storage else '?'}options=-c%20lock_timeout%3D1000"
    with pytest.raises(HarnessError, match="was moved to"):
        move(settings, alias, Terminal())


def test_a_search_started_during_a_move_waits_for_its_end(example: Path, postgres: Postgres) -> None:
    source, target = postgres.new_database("came from"), postgres.new_database("came to")
    _with_many_trials(example, source, 200)
    process = moving(example, "--storage", source, "--to", target)
    late: list[Forked] = []
    try:
        wait_for(lambda: _trials_in(target) >= 5)
        process.send_signal(signal.SIGSTOP)
        assert _trials_in(target) < 200
        for name, storage in (("to", target), ("from", source)):
            flags = ("--epochs", "1", "--trials", "201", "--workers", "1", "--storage", storage)
            late.append(begin(example, name, *flags, "--runs-dir", str(example / name)))
            wait_for(lambda storage=storage: _waiting_in(storage) == 1)
        process.send_signal(signal.SIGCONT)
        assert "with 200 trials" in ended(process, example / "moved.txt")
        assert [one.wait(60) for one in late] == [0, 2]
    finally:
        for one in (process, *late):
            one.kill()
            one.wait()
    assert "study 'cancer' was moved to" in (example / "from.txt").read_text()
    assert "201/201 done" in (example / "to.txt").read_text() and _trials_in(target) == 201
    assert _trials_in(source) == 200


def test_a_move_killed_at_any_moment_leaves_the_study_complete_in_one_storage(
    example: Path, postgres: Postgres
) -> None:
    source, target = postgres.new_database("killed from"), postgres.new_database("killed to")
    settings = _with_many_trials(example, source, 60)
    there = replace(settings, storage=target)
    before, earlier = known(settings), 0
    for copied in (10, 60):  # of the last it is not known whether the source has said that it went
        process = moving(example, "--storage", source, "--to", target)
        wait_for(lambda copied=copied, earlier=earlier: _trials_in(target, later_than=earlier) >= copied)
        process.kill()
        process.wait()
        earlier = _count_in(target, "select max(study_id) from studies")
        if _is_here(settings):
            assert known(settings) == before
    if _is_here(settings) or not _is_whole(there):
        assert "with 60 trials" in moved(example, "--storage", source, "--to", target)
    assert known(there) == before and _is_whole(there) and not _is_here(settings)


def known(settings: Moving) -> list[Any]:
    """All that a storage says of a study, but for moves."""
    study = optuna.load_study(study_name=settings.study, storage=open_storage(settings).optuna)
    attrs = {name: value for name, value in study.user_attrs.items() if name not in ("kd.moved", "kd.moving")}
    return [attrs, *((trial.number, trial.state, trial.params, trial.user_attrs) for trial in study.trials)]


def _is_here(settings: Moving) -> bool:
    study = optuna.load_study(study_name="cancer", storage=open_storage(settings).optuna)
    return "kd.moved" not in study.user_attrs


def _is_whole(settings: Moving) -> bool:
    study = optuna.load_study(study_name="cancer", storage=open_storage(settings).optuna)
    return study.user_attrs.get("kd.moving") is None
