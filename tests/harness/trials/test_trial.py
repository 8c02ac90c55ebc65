"""What a trial stands on, and what it must never do: the whole engine in this process."""

from __future__ import annotations

import math
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from conftest import EXAMPLE, claimed
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from harness.core.errors import Interrupted
from harness.networks.digest import answers_of, network_digest, samples_of
from harness.preparation.fingerprint import fingerprint
from harness.preparation.prepare import prepare
from harness.preparation.prepared import Prepared
from harness.reporting.parent import ParentRun
from harness.screen.terminal import Terminal
from harness.settings import Settings
from harness.space import SearchSpace, load_space
from harness.storage.access import open_storage
from harness.studies.claim import Claim
from harness.studies.opening import open_study
from harness.studies.study import Study
from harness.tracking.mirror import Mirror
from harness.tracking.spool import FINISHED_STATES, SPOOL, Spool, curves, last_state
from harness.training.predictions import load_predictions
from harness.trials.context import TrialContext
from harness.trials.progress import SearchDisplay
from harness.trials.runner import PruningListener, run_training
from harness.trials.worker import run_trials, trial_run
from lightning_modules.batch import Inputs, select
from lightning_modules.data.tensors import TensorDataModule
from lightning_modules.data.views import Views, uniforms

pytestmark = pytest.mark.slow


@dataclass
class Session:
    settings: Settings
    space: SearchSpace
    study: Study
    prepared: Prepared
    mirror: Mirror
    terminal: Terminal
    seen: list[Tensor]

    @property
    def context(self) -> TrialContext:
        return TrialContext(
            settings=self.settings, space=self.space, study=self.study, prepared=self.prepared, mirror=self.mirror
        )

    def work(self, trials: int) -> None:
        self.study.settings = settings = replace(self.settings, trials=trials)
        with SearchDisplay(self.terminal, self.study, 2) as display:
            run_trials(replace(self.context, settings=settings), display)


@contextmanager
def a_session(folder: Path, space: SearchSpace, *, trials: int, epochs: int) -> Iterator[Session]:
    """Trials of a space in this process, whose given teacher keeps every input it was called with."""
    seen: list[Tensor] = []
    space = replace(space, epochs=epochs)
    build = space.task.teacher

    def watched_teacher() -> nn.Module:
        network = build()
        network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach().clone()))
        return network

    space.task.teacher = watched_teacher  # type: ignore[method-assign]
    torch.manual_seed(0)
    save_file(build().state_dict(), folder / "teacher.safetensors")
    settings = Settings(
        space_name="cancer",
        space_file=folder / "cancer.py",
        study="cancer",
        trials=trials,
        epochs=epochs,
        storage=f"sqlite:///{folder}/optuna.db",
        runs_dir=folder / "mlruns",
        teachers=(folder / "teacher.safetensors",),
    )
    terminal = Terminal()
    with Mirror(f"sqlite:///{folder}/mlflow.db") as mirror:
        mirror.connect("kd-cancer", folder / "mlruns", say=terminal.say)
        study = open_study(settings, space, open_storage(settings))
        with ParentRun(study, settings, mirror) as parent:
            prepared = prepare(settings, space, study, terminal, mirror)
            parent.start(prepared)
            made = Session(settings, space, study, prepared, mirror, terminal, seen)
            made.work(trials)
            yield made


def example_space(folder: Path) -> SearchSpace:
    """The README's example."""
    (folder / "cancer.py").write_text(EXAMPLE)
    return load_space(folder / "cancer.py")


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """Five trials of the README's example."""
    folder = tmp_path_factory.mktemp("session")
    with a_session(folder, example_space(folder), trials=5, epochs=2) as made:
        yield made


def failure_of(claim: Claim, session: Session, pruner: PruningListener | None = None) -> str:
    """Run a trial, and return the reason for which the study says that it failed."""
    settings = replace(session.settings, trials=99)
    with SearchDisplay(session.terminal, session.study, 2) as display:
        run_training(trial_run(claim, settings), replace(session.context, settings=settings), display, pruner)
    trial = session.study.trials()[claim.trial.number]
    assert trial.state.name == "FAIL"
    return str(trial.user_attrs["reason"])


def rows(inputs: Tensor) -> set[bytes]:
    return {row.numpy().tobytes() for row in inputs}


def test_the_teacher_is_evaluated_once_on_each_training_sample_and_never_in_a_trial(session: Session) -> None:
    train = session.prepared.data.splits["train"].inputs
    assert isinstance(train, Tensor)
    training = rows(train)
    known_by = 2  # calls: it is told from other teachers by what it answers, of a few samples of both splits
    assert [len(call) for call in session.seen[:known_by]] == [32, 32]
    seen = [row.numpy().tobytes() for call in session.seen[known_by:] for row in call]
    assert sorted(row for row in seen if row in training) == sorted(row.numpy().tobytes() for row in train)
    calls = len(session.seen)
    session.work(7)
    assert len(session.study.trials()) == 7
    assert len(session.seen) == calls


def test_a_search_does_not_evaluate_the_test_split(session: Session) -> None:
    test = session.prepared.data.splits["test"].inputs
    assert isinstance(test, Tensor)
    assert not rows(test) & {row for call in session.seen for row in rows(call)}
    assert set(session.prepared.data.teacher_outputs) == {"train", "val"}


def test_stored_outputs_equal_the_live_teachers_row_by_row(session: Session) -> None:
    data = session.prepared.data
    teacher = session.space.task.teacher().eval()
    assert session.settings.teacher is not None
    teacher.load_state_dict(load_file(session.settings.teacher))
    ids = torch.randperm(len(data.splits["train"]))
    with torch.no_grad():
        live = teacher(select(data.splits["train"].inputs, ids))
    torch.testing.assert_close(data.teacher_outputs["train"]["logits"][ids], live)


def test_a_trials_checkpoint_and_student_hold_no_teacher(session: Session) -> None:
    trial = session.study.trials()[0]
    folder = session.study.trial_folder(0)
    student = load_file(folder / "student.safetensors")
    fresh = session.space.task.student(width=trial.params["width"])
    assert student.keys() == fresh.state_dict().keys()
    assert not list(folder.glob("checkpoint*"))  # a trial that is over needs it no more


def test_a_saved_student_has_the_metrics_of_its_trial(session: Session) -> None:
    val = session.prepared.data.splits["val"]
    for trial in session.study.trials()[:5]:
        student = session.space.task.student(width=trial.params["width"])
        student.load_state_dict(load_file(session.study.trial_folder(trial.number) / "student.safetensors"))
        with torch.no_grad():
            logits = student.eval()(val.inputs)
        metrics = trial.user_attrs["metrics"]
        assert float((logits.argmax(-1) == val.labels).double().mean()) == pytest.approx(metrics["accuracy"])
        assert sum(p.numel() for p in student.parameters()) == metrics["parameters"]
        assert metrics["compression"] == pytest.approx((60 + 31 * 256 + 257 * 2) / metrics["parameters"])


def test_saved_predictions_are_those_of_teacher_and_saved_student(session: Session) -> None:
    data = session.prepared.data
    val, teacher = data.splits["val"], data.teacher_outputs["val"]["logits"]
    for trial in session.study.trials()[:5]:
        folder, metrics = session.study.trial_folder(trial.number), trial.user_attrs["metrics"]
        student = session.space.task.student(width=trial.params["width"])
        student.load_state_dict(load_file(folder / "student.safetensors"))
        with torch.no_grad():
            logits = student.eval()(val.inputs)
        found = load_predictions(folder / "answers.safetensors")
        assert found is not None and found.classes == 2
        assert found.labels.tolist() == val.labels.tolist()
        assert found.student.tolist() == logits.argmax(-1).tolist()
        assert found.teacher.tolist() == teacher.argmax(-1).tolist()
        assert float((found.student == found.teacher).double().mean()) == pytest.approx(metrics["agreement"])
        p, q = teacher.double().softmax(-1), logits.double().softmax(-1)
        assert metrics["teacher_kl"] == pytest.approx(float((p * (p / q).log()).sum(-1).mean()), rel=1e-4)


def test_a_teacher_is_frozen_and_in_eval_mode_while_its_outputs_are_made(session: Session) -> None:
    assert session.settings.teacher is not None
    before = load_file(session.settings.teacher)
    # BatchNorm statistics would have moved in train mode, and with them the hash that the study stands on.
    live = session.space.task.teacher()
    live.load_state_dict(before)
    answers = answers_of(live, samples_of(session.prepared.data))
    assert session.prepared.teacher_digest == network_digest(live, answers)


def test_a_loss_that_is_not_finite_fails_a_trial_before_the_pruner_is_called(session: Session) -> None:
    settings, space, study = replace(session.settings, trials=99), session.space, session.study
    study.settings = settings
    claim = claimed(study, space)
    assert claim is not None
    build = space.task.student
    space.task.student = lambda **given: nn.Sequential(build(**given), nn.Threshold(1e9, math.nan))  # type: ignore[method-assign]

    class Refusing:
        def restore(self, spool: Spool) -> None:
            raise AssertionError("it goes on")

        def __call__(self, epoch: int, metrics: dict[str, float]) -> None:
            raise AssertionError("it is judged")

    try:
        assert "loss is nan in epoch 0" in failure_of(claim, session, Refusing())
    finally:
        space.task.student = build  # type: ignore[method-assign]
    assert len(curves(claim.folder)["val/accuracy"]) == 1  # its curve shows where


def test_training_that_changes_the_shapes_of_what_is_deployed_fails_the_trial(session: Session) -> None:
    settings, space, study = replace(session.settings, trials=99), session.space, session.study
    study.settings = settings
    claim = claimed(study, space)
    assert claim is not None
    width = claim.configuration.student["width"]

    def without_what_was_not_learnt(student: nn.Module) -> nn.Module:
        if not getattr(student, "trained", False):
            return student
        last = student[-1]  # type: ignore[index]
        last.weight = nn.Parameter(last.weight[:, :1])
        return student

    build = space.task.student

    def student(**given: int) -> nn.Module:
        network = build(**given)
        network.register_forward_pre_hook(mark)
        return network

    def mark(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if torch.is_grad_enabled():
            module.trained = True  # type: ignore[assignment]

    space.task.student = student  # type: ignore[method-assign]
    space.task.deployed = without_what_was_not_learnt  # type: ignore[method-assign]
    words = rf"deployed\(student\(width={width}\)\) must .* '3.weight' is \[2, 1\] .* and \[2, {width}\] .* before"
    try:
        assert re.search(words, failure_of(claim, session))
    finally:
        space.task.student = build  # type: ignore[method-assign]
        del space.task.deployed
    assert not (claim.folder / "student.safetensors").exists()


@dataclass(frozen=True)
class Jittered(Views):
    """Measurements with a little noise: a kind of view of one's own."""

    def of(self, inputs: Inputs, ids: Tensor, view: int) -> Inputs:
        assert isinstance(inputs, Tensor)
        return inputs + torch.from_numpy(uniforms(self.seed, ids, view, draws=inputs.shape[1])).float()


def test_student_and_teacher_see_the_same_views_bit_by_bit(tmp_path: Path) -> None:
    space = example_space(tmp_path)
    make_data, make_student = space.task.data, space.task.student
    shown: list[Tensor] = []

    def viewed_data(data_dir: Path | None) -> TensorDataModule:
        data = make_data(data_dir)
        data.views = Jittered(count=2)
        return data

    def watched_student(*, width: int) -> nn.Module:
        def watch(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if module.training:
                shown.append(inputs[0].detach().clone())

        network = make_student(width=width)
        network.register_forward_pre_hook(watch)
        return network

    space.task.data, space.task.student = viewed_data, watched_student  # type: ignore[method-assign]
    with a_session(tmp_path, space, trials=1, epochs=3) as made:
        data = made.prepared.data
        train = data.splits["train"]
        assert isinstance(train.inputs, Tensor) and data.views is not None
        views = [data.views.of(train.inputs, torch.arange(len(train)), view) for view in range(2)]
        # The teacher, beside what it is known and checked by: once over each view of all training samples.
        asked = torch.cat([call for call in made.seen if len(call) == len(train)])
        assert torch.equal(asked, torch.cat(views))
        live = made.space.task.teacher().eval()
        live.load_state_dict(load_file(tmp_path / "teacher.safetensors"))
        with torch.no_grad():
            torch.testing.assert_close(
                data.teacher_outputs["train"]["logits"], torch.stack([live(v) for v in views], dim=1)
            )
        # Before it trains, students are looked at with a few validation samples.
        epochs = torch.cat(shown)[-3 * len(train) :].split(len(train))
        assert len(epochs) == 3
        for epoch, view in zip(epochs, (0, 1, 0), strict=True):
            assert rows(epoch) == rows(views[view]) and not rows(epoch) & rows(views[1 - view])


def test_views_are_part_of_the_datas_fingerprint(tmp_path: Path) -> None:
    space = example_space(tmp_path)
    data = space.task.data(None)
    found = {fingerprint(data)}
    for views in (Jittered(count=2), Jittered(count=3), Jittered(count=2, seed=1)):
        data.views = views
        found.add(fingerprint(data))
    assert len(found) == 4


def test_a_signal_between_claim_and_training_marks_the_run_as_waiting(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise Interrupted(signal.SIGINT)

    begun = len(session.study.trials())
    with monkeypatch.context() as patch:
        patch.setattr("harness.trials.progress.SearchDisplay.started", stop)
        with pytest.raises(Interrupted):
            session.work(begun + 1)
    assert last_state(session.study.trial_folder(begun) / SPOOL) == "WAITING"
    session.work(begun + 1)  # nobody holds it
    assert last_state(session.study.trial_folder(begun) / SPOOL) in FINISHED_STATES
