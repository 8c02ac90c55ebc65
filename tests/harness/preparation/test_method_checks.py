"""Every method in a real training: cut and resumed to the same bits, and nothing of it on the student."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from harness.cost.table import CostTable
from harness.preparation.prepared import Prepared
from harness.space import Configuration, SearchSpace
from harness.training.checkpoint import Checkpoints, epochs_kept
from harness.trials.trial import TrainingSpec, train_student
from lightning_modules.data.tensors import TensorDataModule
from lightning_modules.features import probe_features
from search_spaces.digits_methods import SPACE

# Lightning's, of a choice that is meant: batches are cut on their device, so the module moves none.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:You have overridden `transfer_batch_to_device`:UserWarning"),
]

EPOCHS = 3


class Cut(Exception):
    """What ends a training before its time."""


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    """A fifth of the digits, and what a fresh teacher says of them."""
    whole = SPACE.task.data(None)
    data = TensorDataModule(**{name: part.few(200) for name, part in whole.splits.items()}, batch_size=64)
    torch.manual_seed(0)
    teacher, outputs = SPACE.task.teacher(), {}
    for split in ("train", "val"):
        inputs = data.splits[split].inputs
        assert isinstance(inputs, Tensor)
        logits, features = probe_features(teacher, inputs, ["block1", "block2"])
        outputs[split] = {"logits": logits, **features}
    data.attach(outputs)
    no_costs = cast(CostTable, None)  # a training asks for none
    return Prepared(data=data, classes=10, dataset="", teacher_digest="", costs=no_costs)


def configuration_of(method: str, space: SearchSpace = SPACE) -> Configuration:
    middle = space.middle(method)
    distillation = {"method": method} | {name: middle[name] for name in space.methods[method]}
    return Configuration({"width": 3}, distillation, {"learning_rate": 0.01})


def trained(method: str, prepared: Prepared, folder: Path, *, cut_after: int | None = None) -> tuple[nn.Module, list]:
    """A student trained to the end, and its metrics by epoch; ``Cut`` if it is to be cut at the start of an epoch."""
    folder.mkdir(exist_ok=True)
    logged: list = []

    def on_epoch(epoch: int, metrics: dict[str, float]) -> None:
        logged.append((epoch, metrics))
        if epoch == cut_after:
            raise Cut

    student = train_student(
        TrainingSpec(configuration=configuration_of(method), seed=7, order_seed=0),
        replace(SPACE, epochs=EPOCHS),
        prepared,
        folder=folder,
        accelerator="cpu",
        listeners=[on_epoch],
    )
    return student, logged


@pytest.mark.usefixtures("kept_each_epoch")
@pytest.mark.parametrize("method", SPACE.methods)
def test_a_training_that_is_cut_goes_on_to_the_same_bits(method: str, prepared: Prepared, tmp_path: Path) -> None:
    whole, logged = trained(method, prepared, tmp_path / "whole")
    with pytest.raises(Cut):  # told of, and not kept: the last epoch is trained again
        trained(method, prepared, tmp_path / "cut", cut_after=EPOCHS - 1)
    resumed, rest = trained(method, prepared, tmp_path / "cut")
    assert [epoch for epoch, _ in rest] == [EPOCHS - 1]
    assert rest[0][1] == logged[-1][1]
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


@pytest.mark.parametrize("method", SPACE.methods)
def test_short_epochs_that_are_not_kept_are_trained_again_to_the_same_bits(
    method: str, prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.training.fit.CHECKPOINTS_APART_S", math.inf)
    whole, logged = trained(method, prepared, tmp_path / "whole")
    assert epochs_kept(tmp_path / "whole") == EPOCHS  # the last one always: what follows may take long
    with pytest.raises(Cut):
        trained(method, prepared, tmp_path / "cut", cut_after=EPOCHS - 1)
    assert epochs_kept(tmp_path / "cut") == 1
    resumed, again = trained(method, prepared, tmp_path / "cut")
    assert again == logged[1:]
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


@pytest.mark.parametrize("method", SPACE.methods)
def test_a_student_keeps_nothing_of_its_method(method: str, prepared: Prepared, tmp_path: Path) -> None:
    student, logged = trained(method, prepared, tmp_path)
    assert student.state_dict().keys() == SPACE.task.student(width=3).state_dict().keys()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in student.modules())
    kept = Checkpoints(tmp_path).newest
    assert kept is not None
    of_criterion = {name.split(".")[1] for name in kept["module"] if name.startswith("criterion.")}
    assert of_criterion == {
        "hint": {"regressor"},
        "contrastive": {"student_embedding", "teacher_embedding"},
        "self_distillation": {"earlier", "_extra_state"},
    }.get(method, set())
    assert logged[-1][1]["train/loss"] < logged[0][1]["train/loss"]
