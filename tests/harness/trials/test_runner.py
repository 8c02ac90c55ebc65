"""A trial or a retraining from its claim to its result, in this process: what study, log and display are told."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from conftest import Silent, claimed, opened
from safetensors.torch import load_file, save_file
from torch import nn

from harness.core.errors import HarnessError, LeaseLost, TrialPruned
from harness.preparation.prepare import prepare
from harness.screen.terminal import Terminal
from harness.settings import Settings
from harness.space import load_space
from harness.storage.leases import Lease
from harness.studies.claim import Claim
from harness.tracking.spool import SPOOL, Spool, curves, last_state, read_events
from harness.trials.context import TrialContext
from harness.trials.controls import untrained_controls
from harness.trials.retraining import Retraining, mark_waiting_runs, retrain
from harness.trials.runner import FAILURE, PruningListener, begin_spool, run_training
from harness.trials.trial import STUDENT, TrainingSpec
from harness.trials.worker import run_trials, trial_run
from lightning_modules.data.reading import UnreadableData

TASK = """
import torch
from optuna.distributions import FloatDistribution, IntDistribution
from torch import nn
from harness.space import SearchSpace
from harness.task import Task
from lightning_modules.data import TensorDataModule, stratified_splits


class Points(Task):
    def data(self, data_dir):
        labels = torch.arange(150) % 3
        points = torch.nn.functional.one_hot(labels, 8) + torch.rand(150, 8, generator=torch.Generator().manual_seed(0))
        return TensorDataModule(**stratified_splits(points, labels), batch_size=32)

    def teacher(self):
        return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))

    def student(self, *, width):
        return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 3))


SPACE = SearchSpace(
    task=Points(),
    student={"width": IntDistribution(2, 3)},
    distillation={"temperature": FloatDistribution(1, 10), "alpha": FloatDistribution(0, 1)},
    training={"learning_rate": FloatDistribution(1e-3, 1e-1, log=True)},
)
"""
EPOCHS = 2


@dataclass
class Recorder:
    """A display that records its calls."""

    calls: list[tuple[Any, ...]] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: self.calls.append((name, *arguments))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrialContext]:
    """A study in SQLite, prepared with a given teacher."""
    folder = tmp_path_factory.mktemp("runner")
    (folder / "points.py").write_text(TASK)
    space = replace(load_space(folder / "points.py"), epochs=EPOCHS)
    torch.manual_seed(0)
    save_file(space.task.teacher().state_dict(), folder / "teacher.safetensors")
    settings = Settings(
        space_name="points",
        space_file=folder / "points.py",
        study="points",
        trials=99,
        epochs=EPOCHS,
        storage=f"sqlite:///{folder}/optuna.db",
        runs_dir=folder / "mlruns",
        teachers=(folder / "teacher.safetensors",),
        sampler="random",
        accelerator="cpu",
    )
    study = opened(settings, space)
    study.join()
    mirror = Silent()
    ready = prepare(settings, space, study, Terminal(), mirror)
    yield TrialContext(settings=settings, space=space, study=study, prepared=ready, mirror=mirror)
    study.lock.release()


@pytest.fixture
def context(prepared: TrialContext) -> Iterator[TrialContext]:
    """The prepared study, with no training left over from another test."""
    yield prepared
    prepared.study.leases.close()


def claim_of(context: TrialContext) -> Claim:
    claim = claimed(context.study, context.space)
    assert claim is not None
    return claim


def run(context: TrialContext, claim: Claim, pruner: PruningListener | None = None) -> list[tuple[Any, ...]]:
    """Run a claimed trial; return what the display was told."""
    display = Recorder()
    run_training(trial_run(claim, context.settings), context, display, pruner)
    return display.calls


def with_student(context: TrialContext, error: Exception) -> TrialContext:
    """Return a context whose students raise an error when they are trained, and not when they are measured."""

    class Failing(nn.Sequential):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            if torch.is_grad_enabled():
                raise error
            output: torch.Tensor = super().forward(input)
            return output

    task = load_space(context.settings.file_of_space).task
    build = task.student
    task.student = lambda **given: Failing(*build(**given))  # type: ignore[method-assign]
    return replace(context, space=replace(context.space, task=task))


def test_a_search_runs_trials_until_the_study_has_as_many_as_requested(context: TrialContext) -> None:
    study, display, before = context.study, Recorder(), context.study.finished()
    settings = study.settings = replace(context.settings, trials=before + 2)
    run_trials(replace(context, settings=settings), display)
    study.settings = context.settings
    assert study.finished() == before + 2
    for trial in study.trials()[before:]:
        events = [call for call in display.calls if call[1] == trial.number]
        assert [call[0] for call in events] == ["started", "epoch", "epoch", "finished"]
        assert [call[2] for call in events[1:3]] == [0, 1] and events[-1][2] == trial.user_attrs["metrics"]
        folder = study.trial_folder(trial.number)
        assert last_state(folder / SPOOL) == "COMPLETE" and not list(folder.glob("checkpoint*"))
        assert load_file(folder / STUDENT)["0.weight"].shape == (trial.params["width"], 8)


def test_each_listener_is_called_once_an_epoch_and_the_log_comes_before_the_pruner(context: TrialContext) -> None:
    claim = claim_of(context)
    seen: list[tuple[int, int]] = []

    class Listening:
        def restore(self, spool: Spool) -> None:
            raise AssertionError("it is new")

        def __call__(self, epoch: int, metrics: dict[str, float]) -> None:
            seen.append((epoch, len(curves(claim.folder)["val/accuracy"])))

    run(context, claim, Listening())
    assert seen == [(0, 1), (1, 2)]
    steps = [event["step"] for event in read_events(claim.folder / SPOOL) if event["event"] == "metrics"]
    assert [step for step in steps if step is not None] == [0, 1]


def test_a_pruned_trial_stores_its_costs_and_the_reason(context: TrialContext) -> None:
    class Pruning:
        def restore(self, spool: Spool) -> None:
            raise AssertionError("it is new")

        def __call__(self, epoch: int, metrics: dict[str, float]) -> None:
            raise TrialPruned("no chance")

    claim = claim_of(context)
    calls = run(context, claim, Pruning())
    trial = context.study.trials()[claim.trial.number]
    width = trial.params["width"]
    assert trial.state.name == "PRUNED" and trial.user_attrs["reason"] == "no chance"
    assert trial.user_attrs["metrics"]["parameters"] == 8 * width + width + 3 * width + 3
    assert calls[-1] == ("pruned", trial.number, "no chance")
    assert last_state(claim.folder / SPOOL) == "PRUNED" and not list(claim.folder.glob("checkpoint*"))


KILLED = RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")


@pytest.mark.parametrize("error", [UnreadableData("sample 3 of train can't be read"), KILLED])
def test_data_that_can_not_be_read_leave_a_trial_to_be_resumed(context: TrialContext, error: Exception) -> None:
    claim = claim_of(context)
    number = claim.trial.number
    with pytest.raises(
        HarnessError, match=rf"trial {number} waits, for its data can't be read: .*goes on where it was"
    ):
        run(with_student(context, error), claim)
    assert context.study.trials()[number].state.name == "RUNNING"
    assert last_state(claim.folder / SPOOL) == "WAITING" and not (claim.folder / FAILURE).exists()
    again = claim_of(context)
    assert again.trial.number == number
    assert run(context, again)[-1][0] == "finished"


def test_an_error_in_the_users_code_ends_the_search_and_leaves_a_traceback_without_passwords(
    context: TrialContext,
) -> None:
    claim = claim_of(context)
    number = claim.trial.number
    broken = with_student(context, ValueError("no postgresql://user:secret@host/db"))
    with pytest.raises(HarnessError, match=rf"trial {number} failed: ValueError: no .* the same command goes on"):
        run(broken, claim)
    text = (claim.folder / FAILURE).read_text()
    assert "Traceback" in text and "ValueError" in text and "secret" not in text
    assert context.study.trials()[number].state.name == "FAIL"
    assert last_state(claim.folder / SPOOL) == "FAIL"


@pytest.mark.parametrize("error", [MemoryError("8 GB"), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_a_trial_that_runs_out_of_memory_fails_and_the_search_continues(
    context: TrialContext, error: Exception
) -> None:
    claim = claim_of(context)
    calls = run(with_student(context, error), claim)
    trial = context.study.trials()[claim.trial.number]
    assert trial.state.name == "FAIL" and trial.user_attrs["reason"].startswith("out of memory: ")
    assert calls[-1] == ("failed", trial.number, trial.user_attrs["reason"])


def test_a_trial_that_killed_three_workers_in_a_row_fails(context: TrialContext) -> None:
    claim = claim_of(context)
    for _ in range(3):  # a worker that is killed leaves its run in state RUNNING
        with closing(Spool(claim.folder)) as spool:
            begin_spool(spool, trial_run(claim, context.settings), context.study)
    run(context, claim)
    reason = context.study.trials()[claim.trial.number].user_attrs["reason"]
    assert reason == "its worker died 3 times after 0 epochs"


def test_a_trial_that_another_worker_took_over_is_shown_as_interrupted(context: TrialContext) -> None:
    class Lost(Lease):
        def __init__(self, lease: Lease) -> None:
            self.lease = lease

        def __getattribute__(self, name: str) -> Any:
            if name in ("report_progress", "verify"):
                raise LeaseLost("it was taken over")
            return getattr(object.__getattribute__(self, "lease"), name)

    claim, display = claim_of(context), Recorder()
    run_training(replace(trial_run(claim, context.settings), lease=Lost(claim.lease)), context, display)
    assert display.calls[-1] == ("interrupted", claim.trial.number, "it was taken over")
    assert context.study.trials()[claim.trial.number].state.name == "RUNNING"
    run(context, claim_of(context))  # its lease is free again: the trial is resumed
    assert context.study.trials()[claim.trial.number].state.name == "COMPLETE"


def retraining(context: TrialContext, name: str, configuration: Any = None) -> Retraining:
    configuration = configuration or context.space.configuration(context.space.middle())
    return Retraining(
        name=name,
        title=name,
        spec=TrainingSpec(configuration=configuration, seed=1, order_seed=0),
        tags={"kd.role": "control"},
        facts={"training": {}},
    )


def test_controls_are_trained_and_their_results_stored_with_the_study(context: TrialContext) -> None:
    study, display = context.study, Recorder()
    run(context, claim_of(context))
    left = untrained_controls(study, replace(context.settings, controls="plain"), context.space, [])
    assert left
    retrain(left, context, display)
    for index, control in enumerate(left):
        assert 0 <= study.retrained()[control.name]["metrics"]["accuracy"] <= 1
        assert last_state(study.folder / control.name / SPOOL) == "COMPLETE"
        assert [call[0] for call in display.calls if call[1] == index] == ["started", "epoch", "epoch", "finished"]
    assert untrained_controls(study, replace(context.settings, controls="plain"), context.space, []) == []


def test_a_retraining_that_fails_stores_the_reason_with_its_facts(context: TrialContext) -> None:
    retrain([retraining(context, "controls/fails")], with_student(context, MemoryError("8 GB")), Recorder())
    found = context.study.retrained()["controls/fails"]
    assert found == {"training": {}, "reason": "out of memory: 8 GB"}


def test_a_retraining_that_another_worker_runs_is_waited_for_and_its_result_kept(context: TrialContext) -> None:
    study, other = context.study, opened(context.settings, context.space)
    lease = other.acquire_lease(["controls/other"]) or pytest.fail()

    def finish() -> None:
        other.store_retrained("controls/other", {"metrics": {"accuracy": 0.5}})
        lease.release()

    timer = threading.Timer(0.2, finish)
    timer.start()
    display = Recorder()
    retrain([retraining(context, "controls/other")], context, display)
    timer.join()
    assert not display.calls and study.retrained()["controls/other"] == {"metrics": {"accuracy": 0.5}}


def test_a_retraining_whose_result_appears_with_its_lease_is_not_run_again(
    context: TrialContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, acquire = context.study, context.study.acquire_lease

    def late(names: Any) -> Any:
        found = acquire(names)
        study.store_retrained("controls/late", {"metrics": {"accuracy": 0.5}})
        return found

    monkeypatch.setattr(study, "acquire_lease", late)
    display = Recorder()
    retrain([retraining(context, "controls/late")], context, display)
    assert not display.calls
    assert study.leases.acquire(["controls/late"]) is not None  # its lease was released


def test_the_runs_of_killed_retrainings_are_marked_as_waiting(context: TrialContext) -> None:
    study = context.study
    for name, state in (("killed", "RUNNING"), ("stored", "RUNNING"), ("held", "RUNNING"), ("over", "FAIL")):
        with closing(Spool(study.folder / f"controls/{name}")) as spool:
            spool.set_state(state)
    study.store_retrained("controls/stored", {"metrics": {}})
    other = opened(context.settings, context.space)
    lease = other.acquire_lease(["controls/held"]) or pytest.fail()
    mark_waiting_runs(study, Silent())
    lease.release()
    states = {
        name: last_state(study.folder / f"controls/{name}" / SPOOL) for name in ("killed", "stored", "held", "over")
    }
    assert states == {"killed": "WAITING", "stored": "RUNNING", "held": "RUNNING", "over": "FAIL"}
