"""What is deployed of a student is scored, costed and saved: averaged weights, merged adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import epochs_of_checkpoint, load, search, start, wait_for
from safetensors.torch import load_file
from torch import nn

from harness.doctor import diagnose
from harness.screen.terminal import Terminal
from harness.settings import Settings
from harness.space import load_space
from harness.teachers.assistant import load_assistant

pytestmark = pytest.mark.slow

SPACE = '''\
import torch
from optuna.distributions import FloatDistribution, IntDistribution
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from harness.space import SearchSpace
from harness.task import Task
from lightning_modules.data.tensors import Split, TensorDataModule


def points(samples, seed):
    draws = torch.Generator().manual_seed(seed)
    labels = torch.arange(samples) % 3
    return Split(torch.randn(samples, 8, generator=draws) + 2 * labels[:, None], labels)


def net(width):
    return nn.Sequential(nn.Linear(8, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 3))


class Averaging(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.net = net(width)
        self.average = AveragedModel(self.net, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
        self.average.requires_grad_(False)

    def forward(self, inputs):
        if self.training:
            self.average.update_parameters(self.net)
        return self.net(inputs)


class Adapted(nn.Module):
    """A frozen layer with an adapter of rank 1 beside it."""

    def __init__(self, width):
        super().__init__()
        self.base = nn.Linear(8, width)
        self.base.requires_grad_(False)
        self.down, self.up = nn.Linear(8, 1, bias=False), nn.Linear(1, width, bias=False)
        self.head = nn.Linear(width, 3)

    def forward(self, inputs):
        return self.head(torch.relu(self.base(inputs) + self.up(self.down(inputs))))

    def merged(self):
        layer = nn.Linear(8, self.base.out_features)
        with torch.no_grad():
            layer.weight.copy_(self.base.weight + self.up.weight @ self.down.weight)
            layer.bias.copy_(self.base.bias)
        return nn.Sequential(layer, nn.ReLU(), self.head)


class Points(Task):
    def data(self, data_dir):
        return TensorDataModule(train=points(200, 1), val=points(60, 2), test=points(50, 3), batch_size=32)

    def teacher(self):
        return net(32)

    def student(self, *, width):
        return KIND(width)

    def deployed(self, student):
        return student.average.module if KIND is Averaging else student.merged()


KIND = Averaging
SPACE = SearchSpace(
    task=Points(),
    student={"width": IntDistribution(4, 5)},
    distillation={"temperature": FloatDistribution(1, 10, log=True), "alpha": FloatDistribution(0, 1)},
    training={"learning_rate": FloatDistribution(1e-3, 1e-1, log=True)},
)
'''
COMMAND = ("--space", "points.py", "--no-controls", "--min", "none")


def folder_of(folder: Path, kind: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "points.py").write_text(SPACE.replace("KIND = Averaging", f"KIND = {kind}"))
    return folder


def students(folder: Path) -> list[tuple[Any, Path]]:
    """The trials of a study, each with the file of its student."""
    trials = [trial for trial in load(folder, "points").trials if trial.state.name == "COMPLETE"]
    return [(trial, folder / f"mlruns/trials/points/{trial.number}/student.safetensors") for trial in trials]


@pytest.mark.parametrize("kind", ["Averaging", "Adapted"])
def test_what_is_deployed_is_scored_costed_and_saved(tmp_path: Path, kind: str) -> None:
    folder = folder_of(tmp_path, kind)
    search(folder, *COMMAND, "--trials", "2", "--epochs", "3")
    space = load_space(folder / "points.py")
    data = space.task.data(None)
    val = data.splits["val"]
    found = students(folder)
    assert found
    for trial, file in found:
        width, metrics = trial.params["width"], trial.user_attrs["metrics"]
        state = load_file(file)
        whole = 8 * width + width + 3 * width + 3
        if kind == "Averaging":
            plain: nn.Module = space.task.student(width=width).net  # type: ignore[assignment]
            whole, trained = whole + 2 * width, whole + 2 * width
        else:
            plain = nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 3))
            trained = 8 + width + 3 * width + 3
        plain.load_state_dict(state)
        with torch.no_grad():
            logits = plain.eval()(val.inputs)
        assert metrics["accuracy"] == pytest.approx(float((logits.argmax(-1) == val.labels).double().mean()))
        assert (metrics["parameters"], metrics["trainable_parameters"]) == (whole, trained)
        assert metrics["macs"] == 8 * width + 3 * width
        assert metrics["size_mb"] == pytest.approx(file.stat().st_size / 1e6, abs=3e-4)
        # As the teacher of another study, it is what was deployed.
        assistant = load_assistant(file, space, data, "points").eval()
        with torch.no_grad():
            assert torch.equal(assistant(val.inputs), logits)
    findings = diagnose(
        Settings(space_name="points", space_file=folder / "points.py", study="d", runs_dir=folder / "d"), Terminal()
    )
    assert {finding.name: finding.state for finding in findings}["student kept"] == "ok"


def test_a_trial_that_was_killed_deploys_the_same_weights(tmp_path: Path) -> None:
    command = (*COMMAND, "--trials", "1", "--epochs", "100")
    whole, cut = folder_of(tmp_path / "whole", "Averaging"), folder_of(tmp_path / "cut", "Averaging")
    search(whole, *command)
    process = start(cut, *command)
    wait_for(lambda: epochs_of_checkpoint(cut, "points", 0) > 2)
    process.kill()
    process.wait()
    search(cut, *command)
    ((_, one),) = students(whole)
    ((_, other),) = students(cut)
    straight, resumed = load_file(one), load_file(other)
    assert straight.keys() == resumed.keys() and all(torch.equal(straight[name], resumed[name]) for name in straight)
