"""A preparation, a trial and its control of a task whose training samples mostly have no label, in this process."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from conftest import Silent, claimed, opened
from rich.console import Console

from harness.core.errors import HarnessError
from harness.preparation.prepare import prepare
from harness.screen.terminal import Terminal
from harness.settings import Settings
from harness.space import load_space
from harness.trials.context import TrialContext
from harness.trials.controls import untrained_controls
from harness.trials.retraining import retrain
from harness.trials.runner import run_training
from harness.trials.worker import trial_run

TASK = """
import torch
from optuna.distributions import FloatDistribution, IntDistribution
from torch import nn
from harness.space import SearchSpace
from harness.task import Task
from lightning_modules.data import TensorDataModule, stratified_splits


class Points(Task):
    teacher_epochs = 3

    def data(self, data_dir):
        labels = torch.arange(150) % 3
        points = nn.functional.one_hot(labels, 8) + torch.rand(150, 8, generator=torch.Generator().manual_seed(0))
        labels[torch.arange(150) // 3 % 2 == 0] = -100
        return TensorDataModule(**stratified_splits(points, labels), batch_size=32)

    def teacher(self):
        return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))

    def student(self, *, width):
        return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 3))


UNIT = FloatDistribution(0.5, 1)
SPACE = SearchSpace(
    task=Points(),
    student={"width": IntDistribution(2, 3)},
    distillation={
        "soft_target": {"temperature": FloatDistribution(1, 10), "alpha": FloatDistribution(0, 0.5)},
        "decoupled": {"temperature": FloatDistribution(1, 10), "target_weight": UNIT, "non_target_weight": UNIT},
    },
    epochs=2,
)
"""


class Display:
    """A display that keeps what it is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def __getattr__(self, name: str) -> object:
        return lambda *arguments: self.calls.append((name, *arguments))


@pytest.mark.filterwarnings("ignore:You have overridden `transfer_batch_to_device`:UserWarning")
def test_a_teacher_a_trial_and_its_control_are_trained_where_most_training_samples_have_no_label(
    tmp_path: Path,
) -> None:
    (tmp_path / "points.py").write_text(TASK)
    space = load_space(tmp_path / "points.py")
    settings = Settings(
        space_name="points",
        space_file=tmp_path / "points.py",
        study="points",
        trials=1,
        epochs=2,
        storage=f"sqlite:///{tmp_path}/optuna.db",
        runs_dir=tmp_path / "mlruns",
        sampler="random",
        controls="plain",
        accelerator="cpu",
    )
    text = io.StringIO()
    screen = Terminal(Console(file=text, width=150))
    study = opened(settings, space.fixed({"method": "soft_target"}))
    study.join()
    with pytest.raises(HarnessError, match=r"method 'decoupled' can't be searched: it needs a label .* but 75 have"):
        prepare(settings, space, study, screen, Silent())
    space = space.fixed({"method": "soft_target"})
    ready = prepare(settings, space, study, screen, Silent())
    # 75 of 150 samples have no label, and 60 % of the others are in train: 45.
    assert "75 of 120 training samples are unlabelled: the teacher alone teaches them" in text.getvalue()
    assert study.unlabelled == 75 and ready.data.teacher_outputs["train"]["logits"].shape == (120, 3)
    context = TrialContext(settings=settings, space=space, study=study, prepared=ready, mirror=Silent())
    claim, display = claimed(study, space), Display()
    assert claim is not None
    run_training(trial_run(claim, settings), context, display)  # type: ignore[arg-type]
    assert display.calls[-1][0] == "finished"
    controls = untrained_controls(study, settings, space, [0], of=[0])
    retrain(controls, context, display)  # type: ignore[arg-type]
    assert 0 <= study.retrained()["controls/0"]["metrics"]["accuracy"] <= 1
    assert torch.isfinite(ready.data.teacher_outputs["train"]["logits"]).all()
    study.lock.release()
