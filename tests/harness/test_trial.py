"""What a trial stands on, and what it must never do: the whole engine in this process."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
import torch
from conftest import EXAMPLE
from safetensors.torch import save_file
from torch import Tensor, nn

from harness.mirror import Mirror
from harness.parent import ParentRun
from harness.prepare import Prepared, prepare
from harness.settings import Settings
from harness.space import SearchSpace, load_space
from harness.storage import open_storage
from harness.study import Study, open_study
from harness.terminal import Terminal
from harness.worker import work
from lightning_modules.batch import select

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

    def work(self, trials: int) -> None:
        self.study.settings = settings = replace(self.settings, trials=trials)
        with self.terminal.search(self.study, 2) as display:
            work(settings, self.space, self.study, self.prepared, self.mirror, display)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """Five trials of the README's example, whose given teacher keeps every input it was called with."""
    folder = tmp_path_factory.mktemp("session")
    (folder / "cancer.py").write_text(EXAMPLE)
    space = load_space(folder / "cancer.py")
    seen: list[Tensor] = []
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
        trials=5,
        epochs=2,
        storage=f"sqlite:///{folder}/optuna.db",
        runs_dir=folder / "mlruns",
        teacher=folder / "teacher.safetensors",
    )
    terminal = Terminal()
    with Mirror() as mirror:
        mirror.connect(f"sqlite:///{folder}/mlflow.db", "kd-cancer", folder / "mlruns", say=terminal.say)
        study = open_study(settings, space, open_storage(settings))
        with ParentRun(study, settings, mirror):
            prepared = prepare(settings, space, study, terminal, mirror)
            made = Session(settings, space, study, prepared, mirror, terminal, seen)
            made.work(5)
            yield made


def rows(inputs: Tensor) -> set[bytes]:
    return {row.numpy().tobytes() for row in inputs}


def test_the_teacher_sees_each_training_sample_once_and_nothing_more_in_a_trial(session: Session) -> None:
    train = session.prepared.data.splits["train"].inputs
    assert isinstance(train, Tensor)
    training = rows(train)
    seen = [row.numpy().tobytes() for call in session.seen for row in call]
    assert sorted(row for row in seen if row in training) == sorted(row.numpy().tobytes() for row in train)
    calls = len(session.seen)
    session.work(7)
    assert len(session.study.trials()) == 7
    assert len(session.seen) == calls


def test_the_test_split_is_shown_to_no_one(session: Session) -> None:
    test = session.prepared.data.splits["test"].inputs
    assert isinstance(test, Tensor)
    assert not rows(test) & {row for call in session.seen for row in rows(call)}
    assert set(session.prepared.data.teacher_outputs) == {"train", "val"}


def test_stored_outputs_are_the_live_teachers_row_by_row(session: Session) -> None:
    data = session.prepared.data
    teacher = session.space.task.teacher().eval()
    from safetensors.torch import load_file

    assert session.settings.teacher is not None
    teacher.load_state_dict(load_file(session.settings.teacher))
    ids = torch.randperm(len(data.splits["train"]))
    with torch.no_grad():
        live = teacher(select(data.splits["train"].inputs, ids))
    torch.testing.assert_close(data.teacher_outputs["train"]["logits"][ids], live)


def test_a_trials_checkpoint_and_student_hold_no_teacher(session: Session) -> None:
    from safetensors.torch import load_file

    trial = session.study.trials()[0]
    folder = session.study.trial_folder(0)
    student = load_file(folder / "student.safetensors")
    fresh = session.space.task.student(width=trial.params["width"])
    assert student.keys() == fresh.state_dict().keys()
    assert not list(folder.glob("checkpoint*"))  # a trial that is over needs it no more


def test_a_kept_student_scores_what_its_trial_says(session: Session) -> None:
    from safetensors.torch import load_file

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


def test_a_teacher_is_frozen_and_in_eval_mode_while_its_outputs_are_made(session: Session) -> None:
    from safetensors.torch import load_file

    assert session.settings.teacher is not None
    before = load_file(session.settings.teacher)
    # BatchNorm statistics would have moved in train mode, and with them the hash that the study stands on.
    from harness.content import digest, tensors_digest

    layers = repr(session.space.task.teacher())
    assert session.prepared.teacher_digest == digest(layers, tensors_digest(before))
