"""A study on real storages: it stays what it is, is made once and whole, and its trials go on where they were."""

from __future__ import annotations

import json
import math
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from conftest import claimed, environment, settings_in
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, create_trial

from harness.content import Lease
from harness.errors import HarnessError
from harness.opening import find_study, open_study
from harness.pareto import pareto_front
from harness.proposal import Proposer
from harness.settings import SAMPLERS, Settings
from harness.space import SearchSpace
from harness.storage import open_storage
from harness.study import METRICS, Study
from search_spaces.digits import SPACE

RECIPES = ["repdistiller", "distilbert", "keras", "control"]

WORKER = """
import json, sys
from harness.proposal import Proposer
from harness.settings import SAMPLERS, Settings
from harness.storage import open_storage
from harness.opening import open_study
from pathlib import Path
from search_spaces.digits import SPACE

def answer(**what):
    print(json.dumps(what), flush=True)

answer(ready=True)
for line in sys.stdin:
    word, folder, *rest = json.loads(line)
    if word == "open":
        settings = Settings(space_name="digits", space_file=Path("digits.py"), study="s", trials=rest[0],
                            storage=f"sqlite:///{folder}/optuna.db", runs_dir=Path(folder) / "mlruns")
        storage = open_storage(settings)
        answer(storage=True)
    elif word == "make":
        study = open_study(settings, SPACE, storage)
        proposer = Proposer(SPACE, sampler="tpe", seed=0, directions=study.directions)
        answer(id=study.id)
    elif word == "claim":
        claim = study.claim(proposer)
        answer(number=claim.trial.number, params=claim.configuration.params())
    elif word == "claim all":
        claims = []
        while (claim := study.claim(proposer)) is not None:
            claims.append(claim)
        answer(numbers=[claim.trial.number for claim in claims])
"""


class Worker:
    """Another process that opens studies and claims trials as it is told."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def tell(self, *words: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([str(w) if isinstance(w, Path) else w for w in words]) + "\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None and self.process.stderr is not None
        line = self.process.stdout.readline()
        assert line, self.process.stderr.read()
        found: dict[str, Any] = json.loads(line)
        return found

    def end(self) -> None:
        self.process.kill()  # SIGKILL
        self.process.communicate()


@pytest.fixture(scope="module")
def workers() -> Iterator[list[Worker]]:
    """Two processes that have imported all they need, and wait."""
    started = [Worker(), Worker()]
    for worker in started:
        assert worker.answer() == {"ready": True}
    yield started
    for worker in started:
        worker.end()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Those of a study in a journal file, which is there at once; ``in_sqlite`` is what a person gets."""
    return settings_in(tmp_path, trials=3)


def in_sqlite(settings: Settings) -> Settings:
    return replace(settings, storage=f"sqlite:///{settings.runs_dir.parent}/optuna.db")


def opened(settings: Settings, space: SearchSpace = SPACE) -> Study:
    """The study, as a new process finds it."""
    return open_study(settings, space, open_storage(settings))


def metrics(accuracy: float, cost: float) -> dict[str, float]:
    return {"accuracy": accuracy, **dict.fromkeys(METRICS, cost)}


def begun(settings: Settings) -> Study:
    """The study, with a trial of a process that is gone."""
    study = opened(settings)
    study.optuna.ask(SPACE.distributions)
    return study


def with_student(**student: BaseDistribution) -> SearchSpace:
    return replace(SPACE, student=student)


def refused(settings: Settings, space: SearchSpace = SPACE) -> str:
    """The one line that a study is refused with."""
    with pytest.raises(HarnessError) as raised:
        opened(settings, space)
    message = str(raised.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"epochs": 5}, "--epochs 20 and cannot be resumed with 5;"),
        ({"seed": 1}, "--seed 0 and cannot be resumed with 1;"),
        ({"fixed": {"alpha": "0.5"}}, "--fix none and cannot be resumed with alpha=0.5;"),
        ({"space_name": "fashion-mnist"}, "--space digits and cannot be resumed with fashion-mnist;"),
        (
            {"objectives": ("accuracy", "macs")},
            "--objectives accuracy,latency_p50_ms,parameters and cannot be resumed with accuracy,macs;",
        ),
        (
            {"objectives": ("accuracy", "parameters", "latency_p50_ms")},
            "--objectives accuracy,latency_p50_ms,parameters and cannot be resumed with "
            "accuracy,parameters,latency_p50_ms;",
        ),
    ],
)
def test_a_study_is_not_resumed_as_another_one(settings: Settings, changed: dict[str, Any], words: str) -> None:
    study = begun(settings)
    assert refused(replace(settings, **changed)) == (
        f"study 's' was created with {words} use --study to name a new one."
    )
    again = opened(settings)
    assert (again.id, again.attrs) == (study.id, study.attrs)
    assert opened(replace(settings, study="t", **changed)).id != study.id


@pytest.mark.parametrize(
    ("space", "shown"),
    [
        (with_student(width=IntDistribution(2, 64, log=True)), "width: 2-64 log, "),
        (with_student(width=IntDistribution(2, 32)), "width: 2-32, "),
        (with_student(depth=IntDistribution(2, 32, log=True)), "depth: 2-32 log, "),
        (replace(SPACE, training={}), "width: 1-32 log, temperature: 1-20 log, alpha: 0-1;"),
    ],
)
def test_a_study_is_not_resumed_with_another_space(settings: Settings, space: SearchSpace, shown: str) -> None:
    begun(settings)
    message = refused(settings, space)
    stored = "width: 1-32 log, temperature: 1-20 log, alpha: 0-1, learning_rate: 0.001-0.03 log"
    assert message.startswith(f"study 's' was created with parameters {stored} and cannot be resumed with {shown}")
    assert message.endswith("use --study to name a new one.")
    assert message.count(stored) == 1


def test_a_value_held_fixed_can_be_neither_changed_nor_let_go(settings: Settings) -> None:
    held = replace(settings, fixed={"alpha": "0.5"})
    begun(held)
    assert "--fix alpha=0.5 and cannot be resumed with none; use --study" in refused(settings)
    assert "with alpha=0.25; use --study" in refused(replace(settings, fixed={"alpha": "0.25"}))
    assert opened(held).attrs["kd.identity"]["fixed"] == {"alpha": "0.5"}


def test_a_budget_a_sampler_and_the_default_said_aloud_are_the_same_study(settings: Settings) -> None:
    study = opened(settings)
    aloud = ("accuracy", "latency_p50_ms", "parameters")
    again = opened(replace(settings, trials=99, sampler="random", timeout_s=1, epochs=20, objectives=aloud))
    assert again.id == study.id


def test_a_study_stands_on_the_data_and_the_networks_that_it_began_with(settings: Settings) -> None:
    begun(settings).bind(dataset="d1", students="s1")
    opened(settings).bind(teacher="t1")
    opened(settings).bind(dataset="d1", students="s1", teacher="t1")
    for given, words in (
        ({"dataset": "d2"}, "other dataset (d1) than what is there now (d2);"),
        ({"dataset": "d1", "students": "s2"}, "other students (s1) than what is there now (s2);"),
        ({"teacher": "t2"}, "other teacher (t1) than what is there now (t2);"),
    ):
        with pytest.raises(HarnessError) as raised:
            opened(settings).bind(**given)
        assert str(raised.value) == f"study 's' was begun with {words} use --study to name a new one."
    assert opened(settings).attrs["kd.prepared"] == {"dataset": "d1", "students": "s1", "teacher": "t1"}


def test_a_first_start_that_failed_binds_nobody(settings: Settings) -> None:
    first = opened(settings)
    first_id = first.id
    first.bind(dataset="d1", students="s1")
    first.keep_costs("a table")
    mended = opened(settings)
    mended.hold()
    mended.bind(dataset="d2", students="s1")
    assert mended.attrs["kd.prepared"] == {"dataset": "d2", "students": "s1"} and mended.costs is None
    mended.lease.release()
    at_work = Lease(settings.study_dir, shared=True)
    assert at_work.acquire()
    assert "--epochs 20 and cannot be resumed with 5;" in refused(replace(settings, epochs=5))
    at_work.release()
    again = opened(replace(settings, epochs=5), with_student(depth=IntDistribution(1, 2)))
    assert again.id != first_id and "depth" in again.attrs["kd.identity"]["parameters"]
    assert optuna.get_all_study_names(open_storage(settings)) == ["s"]


def test_of_two_first_starts_at_once_the_second_can_not_put_another_teacher_in(settings: Settings) -> None:
    first, second = opened(settings), opened(settings)
    for study in (first, second):
        study.hold()
    first.bind(teacher="t1")
    first.keep_costs("a table")
    with pytest.raises(HarnessError, match=r"begun with other teacher \(t1\) than what is there now \(t2\)"):
        second.bind(teacher="t2")
    assert first.attrs["kd.prepared"] == {"teacher": "t1"} and first.costs == "a table"
    first.lease.release()
    second.bind(teacher="t2")  # alone now
    assert second.attrs["kd.prepared"] == {"teacher": "t2"} and second.costs is None


def test_a_study_that_is_being_made_in_another_folder_is_not_made_anew(settings: Settings) -> None:
    first = opened(settings)
    first.bind(teacher="t1")
    elsewhere = replace(settings, runs_dir=settings.runs_dir.parent / "elsewhere")
    assert "--epochs 20 and cannot be resumed with 5;" in refused(replace(elsewhere, epochs=5))
    there = opened(elsewhere)
    there.hold()
    with pytest.raises(HarnessError, match="begun with other teacher"):
        there.bind(teacher="t2")
    assert there.id == first.id and first.attrs["kd.prepared"] == {"teacher": "t1"}


def test_a_start_whose_study_was_made_anew_meanwhile_says_so(settings: Settings) -> None:
    early = opened(settings)
    opened(replace(settings, epochs=5))  # before the early one holds it
    with pytest.raises(HarnessError, match="study 's' was made anew by another start at the same time; again"):
        early.hold()


def test_an_unknown_objective_makes_no_study(settings: Settings) -> None:
    message = refused(replace(settings, objectives=("accuracy", "speed")))
    assert message.startswith("--objectives must name some of accuracy, parameters, ")
    assert message.endswith("but got 'speed'.")
    assert optuna.get_all_study_names(open_storage(settings)) == []


def test_each_objective_is_searched_in_its_own_direction(settings: Settings) -> None:
    up = {"accuracy", "throughput_per_s", "agreement", "compression", "speedup"}
    study = opened(replace(settings, objectives=("accuracy", *METRICS)))
    assert {name for name, way in zip(study.objectives, study.directions, strict=True) if way == "maximize"} == up
    assert len(study.objectives) == 11 and (study.primary, study.primary_direction) == ("accuracy", "maximize")


def test_a_study_of_another_program_is_left_alone(settings: Settings) -> None:
    theirs = optuna.create_study(study_name="s", storage=open_storage(settings))
    theirs.set_user_attr("who", "another program")
    assert refused(settings) == (
        f"study 's' in {settings.storage} was not made by this program; use --study to name a new one."
    )
    with pytest.raises(HarnessError, match="study 's' was not made by this program"):
        find_study(settings)
    assert optuna.load_study(study_name="s", storage=open_storage(settings)).user_attrs == {"who": "another program"}


def test_a_study_that_is_read_must_exist_and_no_database_is_made_for_it(settings: Settings, tmp_path: Path) -> None:
    settings = in_sqlite(settings)
    with pytest.raises(HarnessError, match="there is no file"):
        find_study(settings)
    assert not (tmp_path / "optuna.db").exists()
    made = opened(settings)
    assert find_study(settings).id == made.id
    with pytest.raises(HarnessError, match="must hold study 'other', but holds s"):
        find_study(replace(settings, study="other"))


def test_a_study_begins_with_the_recipes_however_often_it_is_opened(settings: Settings) -> None:
    settings = replace(settings, trials=6)
    for name in (*RECIPES, None):
        study = opened(settings)
        claim = claimed(study, SPACE)
        assert claim is not None and claim.recipe == name
        study.complete(claim, metrics(0.5, 1.0))
        claim.lease.release()
    assert study.finished() == 5


def test_first_starts_at_once_make_one_study(tmp_path: Path, workers: list[Worker]) -> None:
    for n in range(6):
        folder = tmp_path / str(n)
        folder.mkdir()
        for worker in workers:
            worker.tell("open", folder, 6)
        for worker in workers:
            worker.answer()
        for worker in workers:
            worker.tell("make", folder)
        first, second = (worker.answer()["id"] for worker in workers)
        assert first == second
        assert json.loads((folder / "mlruns" / "trials" / "s" / "study.json").read_text()) == {"id": first}
        database = sqlite3.connect(folder / "optuna.db")
        assert database.execute("SELECT count(*) FROM studies").fetchone() == (1,)
        assert database.execute("SELECT count(*) FROM alembic_version").fetchone() == (1,)
        database.close()


def test_processes_side_by_side_begin_exactly_the_trials_asked_for(tmp_path: Path, workers: list[Worker]) -> None:
    for worker in workers:
        worker.tell("open", tmp_path, 25)
        worker.tell("make", tmp_path)
    for worker in workers:
        worker.answer()
        worker.answer()
    for worker in workers:
        worker.tell("claim all", tmp_path)
    first, second = (worker.answer()["numbers"] for worker in workers)
    assert sorted(first + second) == list(range(25)) and first and second
    stored = optuna.load_study(study_name="s", storage=f"sqlite:///{tmp_path}/optuna.db")
    assert len(stored.trials) == 25


def test_a_trial_goes_on_elsewhere_only_when_its_process_is_gone(tmp_path: Path, settings: Settings) -> None:
    worker = Worker()
    worker.tell("open", tmp_path, 3)
    worker.tell("make", tmp_path)
    worker.tell("claim", tmp_path)
    begun = [worker.answer() for _ in range(4)][-1]
    study = opened(in_sqlite(settings))
    second = claimed(study, SPACE)
    assert begun["number"] == 0 and second is not None and (second.trial.number, second.resumed) == (1, False)
    worker.end()
    taken = claimed(study, SPACE)
    assert taken is not None and (taken.trial.number, taken.resumed, taken.recipe) == (0, True, "repdistiller")
    assert taken.configuration.params() == begun["params"]
    third = claimed(study, SPACE)
    assert third is not None and (third.trial.number, third.resumed) == (2, False)
    assert claimed(study, SPACE) is None  # all are begun, and in living hands
    for claim in (second, taken, third):
        claim.lease.release()


class Cut(Exception):
    """What stands for kill -9 between two writes."""


@pytest.mark.parametrize("write", range(2, 6))
def test_a_study_that_was_cut_while_it_was_made_is_made_again_whole(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, write: int
) -> None:
    writes = 0

    def cut(method: Callable[..., Any]) -> Callable[..., Any]:
        def writing(*args: Any, **kwargs: Any) -> Any:
            nonlocal writes
            writes += 1
            if writes == write:
                raise Cut
            return method(*args, **kwargs)

        return writing

    # Five writes: that it is being made, and what it is.
    with monkeypatch.context() as patched:
        patched.setattr(optuna.Study, "set_user_attr", cut(optuna.Study.set_user_attr))
        with pytest.raises(Cut):
            opened(settings)
    left = optuna.load_study(study_name="s", storage=open_storage(settings))
    assert "kd.making" in left.user_attrs and "kd.identity" not in left.user_attrs
    with pytest.raises(HarnessError):
        find_study(settings)
    # Nothing holds it to what it would have been.
    study = opened(replace(settings, seed=7, objectives=("accuracy", "macs")))
    assert optuna.get_all_study_names(open_storage(settings)) == ["s"]
    assert study.attrs["kd.identity"]["seed"] == 7 and study.directions == ("maximize", "minimize")
    assert study.owns_folder() and find_study(settings).id == study.id


@pytest.mark.parametrize("storage", ["sqlite:///{}/optuna.db", "{}/optuna.journal"])
def test_exactly_the_trials_asked_for_are_claimed(settings: Settings, tmp_path: Path, storage: str) -> None:
    settings = replace(settings, trials=6, storage=storage.format(tmp_path))
    study, claims = opened(settings), []
    while (claim := claimed(study, SPACE)) is not None:
        claims.append(claim)
        if claim.trial.number == 2:
            study.fail(claim, "loss is nan")  # a trial that failed is spent too
        else:
            study.complete(claim, metrics(0.5, 1.0))
        claim.lease.release()
    assert [claim.trial.number for claim in claims] == list(range(6))
    assert [claim.recipe for claim in claims] == [*RECIPES, None, None]
    assert not any(claim.resumed for claim in claims)
    assert [claim.folder for claim in claims] == [study.folder / str(number) for number in range(6)]
    again = opened(settings)
    assert claimed(again, SPACE) is None and again.finished() == len(again.trials()) == 6
    assert again.trials()[2].user_attrs["reason"] == "loss is nan"
    more = claimed(opened(replace(settings, trials=7)), SPACE)
    assert more is not None and more.trial.number == 6
    more.lease.release()


def test_the_recipes_are_claimed_as_they_were_published(settings: Settings) -> None:
    study = opened(replace(settings, trials=4))
    tried = []
    while (claim := claimed(study, SPACE)) is not None:
        tried.append((claim.configuration.distillation["temperature"], claim.configuration.distillation["alpha"]))
        assert claim.configuration.student == {"width": 6}  # sqrt(1 x 32)
        claim.lease.release()
        study.complete(claim, metrics(0.5, 1.0))
    # T of the control is the middle of its range, sqrt(1 x 20).
    assert tried == [(4.0, 0.1), (2.0, 2 / 7), (10.0, 0.1), (pytest.approx(4.4721359), 1.0)]


def test_a_trial_that_was_cut_goes_on_with_its_number_and_parameters(settings: Settings) -> None:
    settings = replace(settings, trials=6)
    study = opened(settings)
    for _ in range(5):
        claim = claimed(study, SPACE)
        assert claim is not None
        study.complete(claim, metrics(0.5, 1.0))
        claim.lease.release()
    begun = claimed(study, SPACE)
    assert begun is not None and (begun.trial.number, begun.recipe, begun.resumed) == (5, None, False)
    other = opened(settings)
    assert claimed(other, SPACE) is None  # its process lives
    begun.lease.release()
    taken = claimed(other, SPACE)
    assert taken is not None and (taken.trial.number, taken.resumed) == (5, True)
    assert taken.configuration == begun.configuration and taken.folder == begun.folder
    assert not Lease(taken.folder).acquire()
    other.complete(taken, metrics(0.5, 1.0))
    taken.lease.release()
    assert claimed(opened(settings), SPACE) is None


def test_what_a_trial_reached_is_stored_in_the_order_of_the_objectives(settings: Settings) -> None:
    study = opened(replace(settings, objectives=("macs", "accuracy")))
    claim = claimed(study, SPACE)
    assert claim is not None
    study.complete(claim, metrics(0.75, 1.0) | {"macs": 1234.0})
    claim.lease.release()
    (trial,) = [t for t in opened(study.settings).trials() if t.state.name == "COMPLETE"]
    assert trial.values == [1234.0, 0.75] and trial.user_attrs["metrics"]["accuracy"] == 0.75


def drawn(settings: Settings, *, cut: bool) -> list[dict[str, Any]]:
    """The parameters of a search's trials; ``cut`` after each claim, if asked for."""
    study = opened(settings)
    while (claim := claimed(study, SPACE)) is not None:
        if cut:
            claim.lease.release()
            study = opened(settings)
            again = claimed(study, SPACE)
            assert again is not None and again.resumed and again.configuration == claim.configuration
            claim = again
        params = claim.configuration.params()
        study.complete(claim, metrics(1 - (params["alpha"] - 0.4) ** 2 / params["width"], params["width"]))
        claim.lease.release()
    return [trial.params for trial in study.trials()]


@pytest.mark.parametrize(("sampler", "trials"), [("tpe", 14), ("nsga2", 19), ("gp", 11), ("random", 8)])
def test_a_search_that_is_cut_draws_what_one_that_is_not_would(settings: Settings, sampler: str, trials: int) -> None:
    # Past the first ten of TPE and GP, and the first generation (16) of NSGA-II.
    settings = replace(settings, sampler=sampler, trials=trials)
    folder = settings.runs_dir.parent
    whole, cut, other = (
        drawn(
            replace(settings, storage=f"{folder}/{name}.journal", runs_dir=folder / name, seed=seed), cut=name == "cut"
        )
        for name, seed in (("whole", 3), ("cut", 3), ("other", 4))
    )
    assert len(whole) == settings.trials and cut == whole
    assert other[:4] == whole[:4]  # recipes
    assert all(theirs != ours for theirs, ours in zip(other[4:], whole[4:], strict=True))
    assert len({json.dumps(params) for params in whole[4:]}) == settings.trials - 4


def test_a_study_with_a_trial_begun_elsewhere_is_refused(settings: Settings, tmp_path: Path) -> None:
    study = opened(settings)
    elsewhere = replace(settings, runs_dir=tmp_path / "elsewhere")
    assert opened(elsewhere).id == study.id  # nothing runs: it can be moved
    claim = claimed(study, SPACE)
    assert claim is not None
    third = replace(settings, runs_dir=tmp_path / "third")
    for cut in (False, True):
        if cut:
            claim.lease.release()  # its checkpoint is in the other folder all the same
        assert refused(third) == (
            "study 's' has a trial that was begun with another --runs-dir or in another folder than "
            f"{tmp_path.resolve()}/third/trials/s; go on there."
        )
        assert not (tmp_path / "third" / "trials" / "s").exists()
    again = opened(settings)
    taken = claimed(again, SPACE)
    assert taken is not None and taken.resumed
    again.complete(taken, metrics(0.5, 1.0))
    taken.lease.release()
    assert opened(third).owns_folder()


def test_namesakes_in_two_storages_take_turns_in_the_folder(settings: Settings, tmp_path: Path) -> None:
    other = replace(settings, storage=f"{tmp_path}/other.journal")
    first = opened(settings)
    (first.folder / "0").mkdir()
    (first.folder / "0" / "spool.jsonl").write_text("first's")
    second = opened(other)
    assert second.id != first.id and second.folder == first.folder
    assert second.owns_folder() and not first.owns_folder()
    assert sorted(path.name for path in second.folder.iterdir()) == ["study.json"]
    aside = second.folder.with_name(f"s.{first.id[:8]}")
    assert (aside / "0" / "spool.jsonl").read_text() == "first's"
    (second.folder / "0").mkdir()
    (second.folder / "0" / "spool.jsonl").write_text("second's")
    for one, content in ((settings, "first's"), (other, "second's"), (settings, "first's")):
        study = opened(one)
        assert study.owns_folder() and (study.folder / "0" / "spool.jsonl").read_text() == content
    assert not aside.exists() and (second.folder.with_name(f"s.{second.id[:8]}")).is_dir()


def test_a_namesake_s_trial_that_was_cut_goes_on_after_the_turns(settings: Settings, tmp_path: Path) -> None:
    claim = claimed(opened(settings), SPACE)
    assert claim is not None
    claim.lease.release()
    opened(replace(settings, storage=f"{tmp_path}/other.journal"))
    taken = claimed(opened(settings), SPACE)
    assert taken is not None and taken.resumed and taken.configuration == claim.configuration
    taken.lease.release()


def test_a_folder_in_which_a_namesake_is_searched_is_not_taken_away(settings: Settings, tmp_path: Path) -> None:
    first = opened(settings)
    lease = Lease(first.folder, shared=True)  # what a search holds
    assert lease.acquire()
    other = replace(settings, storage=f"{tmp_path}/other.journal")
    message = refused(other)
    assert message.startswith("another study of the name 's', in another storage, is being searched in ")
    assert message.endswith("use --study or --runs-dir to keep them apart.")
    assert first.owns_folder()
    lease.release()
    assert opened(other).owns_folder()


def test_a_trial_that_ends_while_it_is_looked_at_is_not_taken_up_again(settings: Settings) -> None:
    first, second = opened(settings), opened(settings)
    mine = claimed(first, SPACE)
    assert mine is not None
    lease_of = second._lease

    def after_it_has_ended(number: int) -> Lease:
        if number == 0:
            first.complete(mine, metrics(0.5, 1.0))
            mine.lease.release()
        return lease_of(number)

    second._lease = after_it_has_ended  # type: ignore[method-assign]
    claim = claimed(second, SPACE)
    assert claim is not None and claim.trial.number == 1 and not claim.resumed


def test_a_trial_that_someone_enqueued_comes_next_and_its_rest_is_drawn(settings: Settings) -> None:
    study = opened(replace(settings, trials=2))
    study.optuna.enqueue_trial({"width": 5, "alpha": 0.25})
    claim = claimed(study, SPACE)
    assert claim is not None and (claim.trial.number, claim.recipe) == (0, None)
    assert claim.configuration.student == {"width": 5} and claim.configuration.distillation["alpha"] == 0.25
    assert set(claim.trial.params) == set(SPACE.distributions)
    after = claimed(study, SPACE)
    assert after is not None and after.recipe == RECIPES[0]
    assert claimed(study, SPACE) is None
    for one in (claim, after):
        one.lease.release()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_no_configuration_is_tried_twice_and_a_space_can_be_exhausted(settings: Settings, sampler: str) -> None:
    held = replace(
        SPACE,
        student={"width": IntDistribution(2, 4)},
        distillation={"temperature": CategoricalDistribution([1, 4]), "alpha": FloatDistribution(0, 1, step=0.5)},
        training={},
    )
    study = opened(replace(settings, trials=50, sampler=sampler), held)
    seen = []
    while (claim := claimed(study, held)) is not None:
        params = claim.configuration.params()
        seen.append(tuple(params.values()))
        study.complete(claim, metrics(params["alpha"], params["width"]))
        claim.lease.release()
    assert len(seen) == len(set(seen)) == 3 * 2 * 3 and study.is_exhausted
    # A trial that runs elsewhere is not begun a second time either.
    assert study.finished() == 18 and claimed(study, held) is None


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_space_of_methods_is_exhausted_method_by_method(settings: Settings, sampler: str) -> None:
    methods = {
        "soft_target": {"temperature": CategoricalDistribution([4]), "alpha": FloatDistribution(0, 1, step=0.5)},
        "label_smoothing": {"smoothing": CategoricalDistribution([0.1, 0.2])},
    }
    space = replace(SPACE, student={"width": IntDistribution(2, 4)}, distillation=methods, training={})
    study = opened(replace(settings, trials=50, sampler=sampler), space)
    seen = []
    while (claim := claimed(study, space)) is not None:
        params = claim.configuration.params()
        seen.append(tuple(sorted((name, str(value)) for name, value in params.items())))
        study.complete(claim, metrics(0.5, params["width"]))
        claim.lease.release()
    assert len(seen) == len(set(seen)) == 3 * (3 + 2) and study.is_exhausted


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_a_sampler_keeps_away_from_what_runs_elsewhere(settings: Settings, sampler: str) -> None:
    study = opened(replace(settings, trials=30, sampler=sampler))
    for _ in range(15):
        claim = claimed(study, SPACE)
        assert claim is not None
        params = claim.configuration.params()
        study.complete(claim, metrics(1 - (params["alpha"] - 0.4) ** 2, params["width"]))
        claim.lease.release()
    running = [claimed(study, SPACE) for _ in range(4)]
    places = []
    for claim in running:
        assert claim is not None and not claim.resumed
        params = claim.configuration.params()
        logs = (("width", 3.5), ("temperature", 3), ("learning_rate", 3.4))
        places.append((params["alpha"], *(math.log(params[name]) / span for name, span in logs)))
        claim.lease.release()
    assert min(math.dist(a, b) for n, a in enumerate(places) for b in places[:n]) > 0.03


def test_a_long_search_of_generations_goes_on_in_a_new_process(settings: Settings) -> None:
    # Parents are chosen from the generation before, and so on back: once by recursion, 600 calls deep.
    study = optuna.create_study(directions=["maximize", "minimize"])
    for number in range(16 * 620):
        params = {name: SPACE.middle()[name] for name in SPACE.distributions} | {"alpha": number / 16 / 620}
        study.add_trial(
            optuna.trial.create_trial(
                values=[params["alpha"] % 0.1, 8],
                params=params,
                distributions=SPACE.distributions,
                system_attrs={"NSGAIISampler:generation": number // 16},
                user_attrs={"recipe": RECIPES[number % 4]},
            )
        )
    proposer = Proposer(SPACE, sampler="nsga2", seed=0, directions=("maximize", "minimize"))
    proposal = proposer.propose(study.get_trials(deepcopy=False))
    assert proposal is not None and proposal.notes["NSGAIISampler:generation"] == 620


@pytest.mark.filterwarnings("ignore:Choices for a categorical distribution")
def test_choices_that_have_no_hash_are_told_apart(settings: Settings) -> None:
    space = replace(SPACE, student={"width": CategoricalDistribution([[8, 16], [16, 32]])})  # type: ignore[list-item]
    proposer = Proposer(space, sampler="random", seed=0, directions=("maximize", "minimize"))
    assert proposer.propose([]) is not None


def test_a_trial_is_stored_whole_in_one_write(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    study = opened(in_sqlite(settings))
    storage = study.optuna._storage
    for name in ("set_trial_param", "set_trial_user_attr", "set_trial_system_attr"):
        monkeypatch.setattr(storage, name, None)
    claim = claimed(study, SPACE)
    assert claim is not None
    (stored,) = opened(in_sqlite(settings)).trials()
    assert stored.params == claim.configuration.params() and stored.user_attrs == {"recipe": RECIPES[0]}


def test_a_running_trial_is_not_taken_up_in_the_folder_of_a_namesake(settings: Settings, tmp_path: Path) -> None:
    claim = claimed(opened(settings), SPACE)
    assert claim is not None
    elsewhere = tmp_path / "elsewhere"
    opened(replace(settings, storage=f"{tmp_path}/other.journal", runs_dir=elsewhere))
    refused(replace(settings, runs_dir=elsewhere))


def test_a_study_that_was_cut_right_after_it_was_created_is_made_whole(settings: Settings) -> None:
    directions = ["maximize", "minimize", "minimize"]
    optuna.create_study(study_name=settings.study, storage=open_storage(settings), directions=directions)
    study = opened(settings)
    assert study.owns_folder() and find_study(settings).id == study.id


def test_a_model_looks_at_the_best_and_the_newest_of_many_trials_whoever_asks(settings: Settings) -> None:
    draw = np.random.default_rng(0)
    directions = ("maximize", "minimize")

    def tried(number: int) -> FrozenTrial:
        width = int(draw.integers(2, 33))
        params = {"width": width, **{name: float(draw.uniform(0.01, 0.02)) for name in ("alpha", "learning_rate")}}
        values = [width / 40 + float(draw.uniform(0, 0.1)), float(width)]
        trial = create_trial(values=values, params={**params, "temperature": 2.0}, distributions=SPACE.distributions)
        trial.number = number
        return trial

    trials = [tried(number) for number in range(1700)]
    living = Proposer(SPACE, sampler="tpe", seed=0, directions=directions)
    for count in (10, 500, 900, 1300, 1700):
        fresh = Proposer(SPACE, sampler="tpe", seed=0, directions=directions)
        assert living.propose(trials[:count]) == fresh.propose(trials[:count])
    # All but one to two blocks of 400 are told by one block.
    seen = set(living._viewed)
    assert len(seen) == 400 + 500 and set(range(1200, 1700)) <= seen
    front = pareto_front([trial.values for trial in trials[:1200]], directions)
    assert set(front.tolist()) <= seen
