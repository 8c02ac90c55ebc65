"""Trainings by a module's own code: any form of optimizers and schedules, logged, scored, cut and resumed."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchmetrics.classification import MulticlassAccuracy

from harness.core.content import derived_seed, tensors_digest
from harness.core.errors import TrialFailed
from harness.training.checkpoint import Checkpoints, epochs_kept
from harness.training.fit_module import ModuleConfig, fit_module, seed_all
from lightning_modules.batch import Batch
from lightning_modules.data import DatasetDataModule
from lightning_modules.data.tensors import Split, TensorDataModule
from lightning_modules.losses import distillation_loss
from lightning_modules.outputs import Classification
from lightning_modules.random_states import random_states_restored

EPOCHS, SAMPLES, BATCH, BATCHES = 4, 26, 4, 7


class Cut(Exception):
    """What ends a training before its time."""


class Own(pl.LightningModule):
    """Distils with dropout, by SGD with a schedule that advances by epoch."""

    cut_at: int | None = None  # the call in training at which it ends

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.2), nn.ReLU(), nn.Linear(5, 3))
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        if self.training and torch.is_grad_enabled():
            self.calls += 1
            if self.calls == self.cut_at:
                raise Cut
        return torch.as_tensor(self.net(x))

    def loss(self, batch: Batch) -> Tensor:
        return distillation_loss(self(batch.inputs), batch.teacher["logits"], batch.target, alpha=0.3, temperature=4.0)

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        return self.loss(batch)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)]


class Plain(Own):
    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


class ByStep(Own):
    """Has a schedule over all steps, of which it asks the trainer, and draws from NumPy and ``random``."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters())
        steps = int(self.trainer.estimated_stepping_batches)
        assert steps == EPOCHS * BATCHES
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.05, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        return {"loss": self.loss(batch) * (0.5 + np.random.rand() + random.random())}


class EveryOther(Own):
    """Has a schedule that advances at every third step."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.8)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step", "frequency": 3}}


class OnPlateau(Own):
    """Has a schedule that follows the validation score."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.3)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="max", patience=0, factor=0.1)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "val/accuracy"}}


class Milestones(Own):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.05)
        return [optimizer], [torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 3])]


class ByHand(Own):
    """Steps two optimizers itself, and counts its epochs and steps by Lightning's counters."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.seen = nn.Parameter(torch.zeros(2), requires_grad=False)

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        body, head = self.optimizers()  # type: ignore[attr-defined, misc]
        loss = self.loss(batch) / (1 + self.current_epoch)
        body.zero_grad()
        head.zero_grad()
        self.manual_backward(loss)
        body.step()
        head.step()
        self.seen += torch.tensor([self.current_epoch, self.global_step])

    def on_train_epoch_end(self) -> None:
        for schedule in self.lr_schedulers():  # type: ignore[union-attr]
            schedule.step()

    def configure_optimizers(self) -> Any:
        optimizers = [torch.optim.SGD(part.parameters(), lr=0.1, momentum=0.9) for part in (self.net[0], self.net[4])]
        return optimizers, [torch.optim.lr_scheduler.StepLR(one, 1, gamma=0.7) for one in optimizers]


class Keeps(Own):
    """Keeps a number of its own in its checkpoints, and averages its weights in a hook."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = 1.0
        self.average = copy.deepcopy(self.net).requires_grad_(False)

    def on_before_zero_grad(self, optimizer: Any) -> None:
        with torch.no_grad():
            for mine, theirs in zip(self.average.parameters(), self.net.parameters(), strict=True):
                mine.lerp_(theirs, 0.1)

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        self.factor *= 0.99
        return self.loss(batch) * self.factor

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["factor"] = self.factor

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.factor = checkpoint["factor"]


class Ends(Own):
    """Changes its weights when it begins an epoch, and when all are over."""

    def on_train_epoch_start(self) -> None:
        nn.init.normal_(self.net[4].bias)

    def on_train_end(self) -> None:
        self.net[0].weight.data *= 0.5


class Validates(Own):
    """Has a validation step of its own, which draws."""

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.log("val/own_loss", self.loss(batch) + torch.rand(()))


FORMS: list[type[Own]] = [Own, Plain, ByStep, EveryOther, OnPlateau, Milestones, ByHand, Keeps, Ends, Validates]


def some_data() -> TensorDataModule:
    draw = torch.Generator().manual_seed(1)

    def split(size: int) -> Split:
        return Split(torch.randn(size, 4, generator=draw), torch.randint(3, (size,), generator=draw))

    data = TensorDataModule(train=split(SAMPLES), val=split(7), test=split(2), batch_size=BATCH)
    data.attach({name: {"logits": torch.randn(n, 3, generator=draw)} for name, n in (("train", SAMPLES), ("val", 7))})
    return data


def trained(
    form: Callable[[], Own],
    folder: Path,
    *,
    cut_at: int | None = None,
    listener: Callable[[int, dict[str, float]], None] = lambda epoch, metrics: None,
    data: TensorDataModule | None = None,
    **config: Any,
) -> Own:
    folder.mkdir(exist_ok=True)
    seed_all(7, torch.device("cpu"))
    module = form()
    module.cut_at = cut_at
    given: dict[str, Any] = {
        "epochs": EPOCHS,
        "seed": 5,
        "output": Classification(3),
        "metrics": {"accuracy": MulticlassAccuracy(3, average="micro")},
    }
    settings = ModuleConfig(folder=folder, accelerator="cpu", **{**given, **config})
    fit_module(module, some_data() if data is None else data, settings, listeners=[listener])
    return module


def digest_of(module: nn.Module) -> str:
    return tensors_digest(module.state_dict())


@pytest.mark.usefixtures("kept_each_epoch")
@pytest.mark.parametrize("form", FORMS)
def test_a_training_that_is_cut_within_an_epoch_goes_on_to_the_same_bits(form: type[Own], tmp_path: Path) -> None:
    curves: dict[str, dict[int, dict[str, float]]] = {"whole": {}, "cut": {}}
    whole = trained(form, tmp_path / "whole", listener=curves["whole"].__setitem__)
    with pytest.raises(Cut):
        trained(form, tmp_path / "cut", cut_at=2 * BATCHES + 4, listener=curves["cut"].__setitem__)
    assert epochs_kept(tmp_path / "cut") == 2 and list(curves["cut"]) == [0, 1]
    resumed = trained(form, tmp_path / "cut", listener=curves["cut"].__setitem__)
    assert digest_of(resumed) == digest_of(whole) and resumed.calls == 2 * BATCHES
    assert curves["cut"] == curves["whole"] and list(curves["whole"]) == [0, 1, 2, 3]
    again = trained(form, tmp_path / "cut")
    assert digest_of(again) == digest_of(whole) and again.calls == BATCHES  # the last epoch
    states = [Checkpoints(tmp_path / name).newest for name in ("whole", "cut")]
    assert [one and one["epoch"] for one in states] == [2, 2]
    for part in ("optimizer_states", "lr_schedulers"):
        assert str(states[0]["trainer"][part]) == str(states[1]["trainer"][part])  # type: ignore[index]


def test_each_of_them_is_another_training(tmp_path: Path) -> None:
    assert len({digest_of(trained(form, tmp_path / form.__name__)) for form in FORMS[:6]}) == 6


def test_it_is_what_a_loop_of_torch_alone_gives(tmp_path: Path) -> None:
    found = trained(Own, tmp_path)
    seed_all(7, torch.device("cpu"))
    module, data = Own(), some_data()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    loader = data.train_dataloader()
    for epoch in range(EPOCHS):
        torch.manual_seed(derived_seed(5, epoch))
        loader.set_epoch(epoch)
        for batch in (batch for item in loader for batch in item):
            optimizer.zero_grad()
            module.loss(batch).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        for group in optimizer.param_groups:
            group["lr"] *= 0.5
    for name, value in module.state_dict().items():
        assert torch.equal(value, found.state_dict()[name]), name


def test_an_epoch_has_the_means_of_its_losses_and_logged_values_and_the_scores_of_forward(tmp_path: Path) -> None:
    class Logs(Plain):
        def training_step(self, batch: Batch, batch_idx: int) -> Any:
            self.log("size", float(len(batch.ids)))
            self.log("val/accuracy", 0.5)
            self.log("hidden", 1.0, logger=False)
            self.log("l" * 300, 2.0)
            self.log("both", float(batch_idx), on_step=True, on_epoch=True, batch_size=1)
            return self.loss(batch) * 0 + float(batch_idx)

        def on_train_epoch_end(self) -> None:
            self.log("once", 3.0 * self.current_epoch)

    found: dict[int, dict[str, float]] = {}
    taken = frozenset({"val/accuracy"})
    module = trained(Logs, tmp_path, listener=found.__setitem__, taken=taken)
    sizes = [4] * 6 + [2]  # 26 samples in batches of 4
    val = some_data().splits["val"]
    with torch.no_grad():
        right = float((module.eval()(val.inputs).argmax(-1) == val.labels).double().mean())
        theirs = some_data().teacher_outputs["val"]["logits"].argmax(-1)
        agrees = float((module(val.inputs).argmax(-1) == theirs).double().mean())
    assert found[3] == {
        "train/loss": pytest.approx(sum(size * step for step, size in enumerate(sizes)) / 26),
        "size": pytest.approx(26 / 7),
        "own/val/accuracy": 0.5,
        "l" * 200: 2.0,
        "both_step": 3.0,
        "both_epoch": 3.0,
        "once": 9.0,
        "val/accuracy": pytest.approx(right),
        "val/agreement": pytest.approx(agrees),
    }


def test_a_loss_that_a_module_logs_itself_is_the_one_that_is_shown(tmp_path: Path) -> None:
    class Logs(Plain):
        def training_step(self, batch: Batch, batch_idx: int) -> Any:
            self.log("train/loss", 1.25)
            return self.loss(batch)

    found: dict[int, dict[str, float]] = {}
    trained(Logs, tmp_path, listener=found.__setitem__)
    assert found[0]["train/loss"] == 1.25 and "val/loss" not in found[0]


def test_a_module_gets_one_batch_at_a_time_in_train_mode(tmp_path: Path) -> None:
    seen: list[tuple[int, int, int, bool]] = []

    class Sees(Plain):
        def training_step(self, batch: Batch, batch_idx: int) -> Any:
            assert type(batch) is Batch
            seen.append((self.current_epoch, batch_idx, len(batch.inputs), self.training))
            return self.loss(batch)

    trained(Sees, tmp_path, epochs=2)
    sizes = [4, 4, 4, 4, 4, 4, 2]
    assert seen == [(epoch, index, size, True) for epoch in range(2) for index, size in enumerate(sizes)]


def test_a_module_that_reads_the_teacher_where_there_is_none_fails(tmp_path: Path) -> None:
    with pytest.raises(
        TrialFailed, match=r"^no control is possible: with alpha=1, the module still reads batch.teacher\['logits'\]$"
    ):
        trained(Own, tmp_path, is_taught=False)

    class Alone(Plain):
        def loss(self, batch: Batch) -> Tensor:
            assert not batch.teacher and "logits" not in batch.teacher
            return nn.functional.cross_entropy(self(batch.inputs), batch.target)

    trained(Alone, tmp_path, is_taught=False)


def test_a_module_that_stops_early_fails(tmp_path: Path) -> None:
    class Stops(Plain):
        def on_train_epoch_end(self) -> None:
            self.trainer.should_stop = self.current_epoch == 1

    with pytest.raises(TrialFailed, match=r"must train for all 4 epochs, .* but stopped after 2: leave early stopping"):
        trained(Stops, tmp_path)


@pytest.mark.parametrize("kind", [EarlyStopping, ModelCheckpoint])
def test_callbacks_that_would_stop_or_save_a_training_are_refused(kind: type[pl.Callback], tmp_path: Path) -> None:
    class Called(Plain):
        def configure_callbacks(self) -> Any:
            return [kind(monitor="val/accuracy")]  # type: ignore[call-arg]

    with pytest.raises(TrialFailed, match=rf"to the engine, but has {kind.__name__}: leave it out of configure_call"):
        trained(Called, tmp_path)


def test_a_module_that_saves_a_checkpoint_itself_fails(tmp_path: Path) -> None:
    class Saves(Plain):
        def on_train_epoch_end(self) -> None:
            self.trainer.save_checkpoint(tmp_path / "mine.ckpt")

    with pytest.raises(TrialFailed, match=r"^the module must leave checkpoints to the engine, .* saves one as .*mine"):
        trained(Saves, tmp_path)
    assert not (tmp_path / "mine.ckpt").exists() and Checkpoints(tmp_path).newest is None


@pytest.mark.usefixtures("kept_each_epoch")
def test_the_state_of_a_modules_own_callback_is_kept(tmp_path: Path) -> None:
    class Counter(pl.Callback):
        def __init__(self) -> None:
            self.epochs = 0

        def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            self.epochs += 1

        def state_dict(self) -> dict[str, Any]:
            return {"epochs": self.epochs}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            self.epochs = state_dict["epochs"]

    class Called(Plain):
        def configure_callbacks(self) -> Any:
            self.counter = Counter()
            return [self.counter]

    with pytest.raises(Cut):
        trained(Called, tmp_path, cut_at=2 * BATCHES + 4)
    assert trained(Called, tmp_path).counter.epochs == EPOCHS


class Rows(Dataset[Any]):
    def __init__(self, split: Split) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> Any:
        assert isinstance(self.split.inputs, Tensor)
        return self.split.inputs[index], self.split.labels[index]


def test_data_that_are_read_sample_by_sample_give_the_same_student(tmp_path: Path) -> None:
    whole = some_data()
    parts: dict[str, Any] = {name: Rows(split) for name, split in whole.splits.items()}
    read = DatasetDataModule(**parts, batch_size=BATCH, workers=1)
    read.attach(whole.teacher_outputs)
    assert digest_of(trained(Own, tmp_path / "a")) == digest_of(trained(Own, tmp_path / "b", data=read))


def test_a_module_whose_answers_are_nan_fails(tmp_path: Path) -> None:
    class Explodes(Plain):
        def on_train_epoch_end(self) -> None:
            if self.current_epoch == 1:
                nn.init.constant_(self.net[4].weight, torch.nan)  # type: ignore[arg-type]

    with pytest.raises(TrialFailed, match=r"^forward gives NaN for validation samples in epoch 1$"):
        trained(Explodes, tmp_path)


def test_a_state_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    class Odd(Plain):
        def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            checkpoint["odd"] = SimpleNamespace()

    with pytest.raises(TrialFailed, match=r"must be tensors, numbers and texts.* but is not: .*SimpleNamespace"):
        trained(Odd, tmp_path)


def test_hyperparameters_of_any_type_are_in_no_checkpoint(tmp_path: Path) -> None:
    class Hyper(Plain):
        def __init__(self, given: Any, width: int) -> None:
            super().__init__()
            self.save_hyperparameters()

    assert trained(lambda: Hyper(SimpleNamespace(), 3), tmp_path).hparams.width == 3


def test_a_trained_module_keeps_no_trainer(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="not attached to a `Trainer`"):
        _ = trained(Plain, tmp_path).trainer


def test_all_generators_are_as_they_were() -> None:
    def draws() -> tuple[float, ...]:
        return float(torch.rand(())), float(np.random.rand()), random.random()

    seed_all(3, torch.device("cpu"))
    expected = draws()
    seed_all(3, torch.device("cpu"))
    with random_states_restored(torch.device("cpu")):
        assert draws() == expected
    assert draws() == expected
