"""Trainings of every kind, cut within an epoch: they go on to the same bits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from torch import nn

from harness.core.content import tensors_digest
from harness.space import Configuration, SearchSpace
from harness.task import Task
from harness.training.checkpoint import epochs_kept
from harness.trials.trial import TrainingSpec, train_student
from lightning_modules.data.tensors import Split, TensorDataModule
from lightning_modules.initial import Origins
from lightning_modules.training import Training

# Lightning's, of a choice that is meant: batches are cut on their device, so the module moves none.
pytestmark = pytest.mark.filterwarnings("ignore:You have overridden `transfer_batch_to_device`:UserWarning")

EPOCHS, SAMPLES, BATCH = 4, 26, 4
BATCHES = 7


class Cut(Exception):
    """What ends a training before its time."""


def some_data() -> TensorDataModule:
    draw = torch.Generator().manual_seed(1)

    def split(size: int) -> Split:
        return Split(torch.randn(size, 4, generator=draw), torch.randint(3, (size,), generator=draw))

    data = TensorDataModule(train=split(SAMPLES), val=split(7), test=split(2), batch_size=BATCH)
    data.attach({name: {"logits": torch.randn(size, 3, generator=draw)} for name, size in SIZES})
    return data


SIZES = (("train", SAMPLES), ("val", 7))


def trained(
    training: Training, folder: Path, *, cut_at: int | None = None, batch_size: int = BATCH, start: str = "scratch"
) -> str:
    """The digest of a student trained to the end, or until a call of it in training, whose number is given."""
    given, calls = training, 0

    def count(module: nn.Module, inputs: Any) -> None:
        nonlocal calls
        calls += module.training and torch.is_grad_enabled()
        if calls == cut_at:
            raise Cut

    class Own(Task):
        training = given
        data: Callable[..., Any] = lambda self, data_dir: some_data()
        teacher: Callable[..., Any] = lambda self: a_network(9)

        def student(self, *, width: int) -> nn.Module:
            network = a_network(width)
            network.register_forward_pre_hook(count)
            return network

    space = SearchSpace(
        task=Own(),
        student={"width": IntDistribution(2, 8)},
        distillation={"temperature": FloatDistribution(1, 9), "alpha": FloatDistribution(0, 1)},
        initial={"start": CategoricalDistribution(["scratch", "layers", "pruned"])},
        epochs=EPOCHS,
    )
    folder.mkdir(exist_ok=True)
    configuration = Configuration({"width": 5}, {"temperature": 4.0, "alpha": 0.3}, {}, {"start": start})
    prepared: Any = SimpleNamespace(data=some_data(), classes=3)
    prepared.data.batch_size = batch_size
    torch.manual_seed(7)
    prepared.data.origins = Origins(a_network(9).eval())
    network = train_student(
        TrainingSpec(configuration=configuration, seed=1, order_seed=2),
        space,
        prepared,
        folder=folder,
        accelerator="cpu",
    )
    assert prepared.data.batch_size == batch_size and prepared.data.seed == 0  # shared with other trials
    return tensors_digest(network.state_dict())


def a_network(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.Dropout(0.2), nn.ReLU(), nn.Linear(width, 3))


TRAININGS = {
    "adamw": Training(),
    "sgd, averaged": Training(optimizer="sgd", ema_decay=0.7, clip_norm=1.0, schedule="cosine", warmup=0.2),
    "sgd, accumulated": Training(optimizer="sgd", accumulate=3, schedule="step", label_smoothing=0.1),
    "adam, by groups": Training(optimizer="adam", groups={"4.*": {"learning_rate": 3.0}}, weight_decay=0.1),
    "a factory": Training(optimizer=torch.optim.RMSprop, schedule="constant", warmup=0.5, ema_decay=0.5),
    "mixed precision": Training(precision="bf16-mixed", ema_decay=0.7),
}


@pytest.mark.usefixtures("kept_each_epoch")
@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_that_is_cut_within_an_epoch_goes_on_to_the_same_bits(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_modules.training.precision.has_bfloat16", lambda device: True)
    whole = trained(TRAININGS[name], tmp_path / "whole")
    with pytest.raises(Cut):
        trained(TRAININGS[name], tmp_path / "cut", cut_at=2 * BATCHES + 4)
    assert epochs_kept(tmp_path / "cut") == 2
    assert trained(TRAININGS[name], tmp_path / "cut") == whole
    assert trained(TRAININGS[name], tmp_path / "cut") == whole  # nothing is left to be trained


@pytest.mark.usefixtures("kept_each_epoch")
def test_a_training_with_start_weights_that_is_cut_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    whole = {start: trained(Training(), tmp_path / start, start=start) for start in ("scratch", "layers", "pruned")}
    assert len(set(whole.values())) == 3
    with pytest.raises(Cut):
        trained(Training(), tmp_path / "cut", cut_at=2 * BATCHES + 4, start="pruned")
    assert trained(Training(), tmp_path / "cut", start="pruned") == whole["pruned"]


def test_each_of_them_is_another_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_modules.training.precision.has_bfloat16", lambda device: True)
    assert len({trained(training, tmp_path / name) for name, training in TRAININGS.items()}) == len(TRAININGS)


def test_a_batch_size_is_that_of_the_data_whoever_sets_it(tmp_path: Path) -> None:
    own = trained(Training(batch_size=8), tmp_path / "own")
    assert own == trained(Training(), tmp_path / "data", batch_size=8) != trained(Training(), tmp_path / "other")
