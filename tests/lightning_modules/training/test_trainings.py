"""Whole trainings under a real Trainer: the default to the bit, and each keyword where it has a say."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from lightning_modules.batch import Batch
from lightning_modules.classifier import ClassifierModule, StudentModule
from lightning_modules.data.tensors import Split, TensorDataModule
from lightning_modules.features import Features
from lightning_modules.losses import hard_label_loss, soft_target_loss
from lightning_modules.methods import Criterion, DistillationCriterion, HardLabelCriterion, Term
from lightning_modules.training import Training
from lightning_modules.training.values import KEYWORDS

# Lightning's, of a choice that is meant: batches are cut on their device, so the module moves none.
pytestmark = pytest.mark.filterwarnings("ignore:You have overridden `transfer_batch_to_device`:UserWarning")

TRAIN, FEATURES, CLASSES, BATCH, EPOCHS = 26, 4, 3, 4, 2
ALPHA, TEMPERATURE = 0.3, 4.0
BATCHES = 7  # six of 4 samples, and one of 2


def some_data() -> TensorDataModule:
    draw = torch.Generator().manual_seed(1)

    def split(size: int) -> Split:
        return Split(torch.randn(size, FEATURES, generator=draw), torch.randint(CLASSES, (size,), generator=draw))

    data = TensorDataModule(train=split(TRAIN), val=split(7), test=split(2), batch_size=BATCH)
    data.attach({name: {"logits": 3 * torch.randn(size, CLASSES, generator=draw)} for name, size in SIZES.items()})
    return data


SIZES = {"train": TRAIN, "val": 7}


def a_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(FEATURES, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, CLASSES))


def trained(training: Training, criterion: Criterion | None = None, batch_size: int = BATCH) -> StudentModule:
    data = some_data()
    data.batch_size = training.batch_size or batch_size
    module = StudentModule(
        a_network(),
        DistillationCriterion(temperature=TEMPERATURE, alpha=ALPHA) if criterion is None else criterion,
        metrics={"accuracy": MulticlassAccuracy(num_classes=CLASSES, average="micro")},
        total_steps=EPOCHS * training.steps_per_epoch(data.steps_per_epoch),
        settings=training,
    )
    fit(module, data)
    return module


def fit(module: ClassifierModule, data: TensorDataModule) -> None:
    trainer = pl.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, datamodule=data)


def batches(data: TensorDataModule) -> Iterator[Batch]:
    """The batches of all epochs: the order is that of epoch 0 each time, for a Trainer alone sets none."""
    for _ in range(EPOCHS):
        yield from (batch for item in data.train_dataloader() for batch in item)


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def test_the_default_is_fused_adamw_on_one_cycle_over_all_parameters_to_the_bit() -> None:
    data, bare = some_data(), a_network()
    optimizer = torch.optim.AdamW(bare.parameters(), lr=1e-2, weight_decay=1e-4, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=BATCHES * EPOCHS, pct_start=0.3)
    for batch in batches(data):
        logits = bare(batch.inputs)
        hard = hard_label_loss(logits, batch.target)
        soft = soft_target_loss(logits, batch.teacher["logits"], temperature=TEMPERATURE)
        optimizer.zero_grad()
        (ALPHA * hard + (1 - ALPHA) * soft).backward()
        optimizer.step()
        schedule.step()
    assert same(bare, trained(Training()).network)


def test_sgd_with_all_that_is_usual_ends_where_a_bare_loop_does() -> None:
    """Cosine with a warm-up, two batches a step, clipped, smoothed, averaged, the last layer three times as fast."""
    training = Training(
        optimizer="sgd", momentum=0.8, learning_rate=0.2, weight_decay=0.05, schedule="cosine", warmup=0.25,
        accumulate=2, clip_norm=0.5, label_smoothing=0.2, ema_decay=0.6, groups={"3.*": {"learning_rate": 3.0}},
    )  # fmt: skip
    bare, data, steps = a_network(), some_data(), 4 * EPOCHS  # of 7 batches
    first, norm, last = bare[0], bare[1], bare[3]
    optimizer = torch.optim.SGD(
        [
            {"params": [first.weight], "weight_decay": 0.05, "lr": 0.2},
            {"params": [first.bias, norm.weight, norm.bias], "weight_decay": 0.0, "lr": 0.2},
            {"params": [last.weight], "weight_decay": 0.05, "lr": 0.6},
            {"params": [last.bias], "weight_decay": 0.0, "lr": 0.6},
        ],
        momentum=0.8,
    )
    peaks = [group["lr"] for group in optimizer.param_groups]
    average = {name: value.clone() for name, value in bare.named_parameters()}
    each = list(batches(data))
    groups = [each[start : start + 2] for epoch in (0, 7) for start in range(epoch, epoch + 6, 2)]
    groups[3:3], groups[7:7] = [each[6:7]], [each[13:14]]
    for step, group in enumerate(groups):
        rate = (step + 1) / 3 if step < 2 else (1 + math.cos(math.pi * (step - 2) / (steps - 2))) / 2
        for settings, peak in zip(optimizer.param_groups, peaks, strict=True):
            settings["lr"] = rate * peak
        loss: Any = 0.0
        for batch in group:
            logits = bare(batch.inputs)
            hard = F.cross_entropy(logits, batch.target, label_smoothing=0.2, reduction="sum")
            target = (batch.teacher["logits"] / TEMPERATURE).softmax(1)
            soft = F.kl_div((logits / TEMPERATURE).log_softmax(1), target, reduction="sum") * TEMPERATURE**2
            loss = loss + (ALPHA * hard + (1 - ALPHA) * soft) / sum(len(batch.ids) for batch in group)
        optimizer.zero_grad()
        loss.backward()
        norm_of_all = torch.sqrt(sum((p.grad**2).sum() for p in bare.parameters()))  # type: ignore[arg-type, operator]
        for parameter in bare.parameters():
            parameter.grad *= min(1.0, 0.5 / float(norm_of_all))
        optimizer.step()
        decay = min(0.6, (2 + step) / (11 + step))
        for name, value in bare.named_parameters():
            average[name] = decay * average[name] + (1 - decay) * value.detach()
    module = trained(training)
    for name, value in bare.named_parameters():
        torch.testing.assert_close(module.network.get_parameter(name), value, rtol=1e-4, atol=1e-5)
    for name, value in module.trained_network().named_parameters():
        torch.testing.assert_close(value, average[name], rtol=1e-4, atol=1e-5)


BASE: dict[str, dict[str, Any]] = {
    "momentum": {"optimizer": "sgd"},
    "decay_on": {"weight_decay": 0.5},
    "milestones": {"schedule": "step"},
    "step_factor": {"schedule": "step"},
}
"""What else is set, for a keyword to have an effect."""
OTHER: dict[str, tuple[Any, ...]] = {
    "optimizer": ("adamw", "adam", "sgd", torch.optim.RMSprop),
    "learning_rate": (0.01, 0.02),
    "momentum": (0.0, 0.5),
    "weight_decay": (0.0, 0.1),
    "decay_on": ("weights", "all"),
    "schedule": ("one_cycle", "cosine", "step", "constant"),
    "warmup": (0.2, 0.5),
    "milestones": ((0.5,), (0.25, 0.75)),
    "step_factor": (0.1, 0.5),
    "batch_size": (None, 2, 13, 100),
    "accumulate": (1, 2, 3),
    "clip_norm": (None, 1e-3, 1e-2),
    "precision": ("32", "bf16-mixed"),
    "ema_decay": (None, 0.3, 0.5),
    "label_smoothing": (0.0, 0.1, 0.2),
    "groups": ({}, {"3.*": {"learning_rate": 2.0}}, {"3.*": {"weight_decay": 500.0}}),
}


def test_every_keyword_is_tried_here() -> None:
    assert list(OTHER) == list(KEYWORDS)


@pytest.mark.parametrize("name", KEYWORDS)
def test_every_keyword_changes_the_trained_weights(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_modules.classifier.used_precision", lambda precision, device: precision)
    if name == "clip_norm":  # AdamW's steps hardly depend on the size of a gradient
        BASE[name] = {"optimizer": "sgd"}
    ends = [trained(Training(**{**BASE.get(name, {}), name: value})).trained_network() for value in OTHER[name]]
    again = trained(Training(**{**BASE.get(name, {}), name: OTHER[name][0]})).trained_network()
    assert same(ends[0], again)
    for place, one in enumerate(ends):
        for other in ends[place + 1 :]:
            assert (
                max(
                    float((a - b).detach().abs().max())
                    for a, b in zip(one.parameters(), other.parameters(), strict=True)
                )
                > 1e-6
            )


def test_the_averaged_weights_are_validated_and_the_networks_own_are_trained_on() -> None:
    module, plain = trained(Training(ema_decay=0.5)), trained(Training())
    assert same(module.network, plain.network)  # what is averaged has no say in how it is trained
    val, network = some_data().splits["val"], copy.deepcopy(module).trained_network().eval()
    expected = float(F.cross_entropy(network(val.inputs), val.labels).detach())
    assert module.epoch_metrics["val/hard_loss"] == pytest.approx(expected, rel=1e-5)
    assert module.epoch_metrics["val/hard_loss"] != pytest.approx(plain.epoch_metrics["val/hard_loss"], rel=1e-4)
    assert not same(network, plain.network)


def test_only_a_training_that_averages_keeps_an_average() -> None:
    averaged, plain = trained(Training(ema_decay=0.5)).state_dict(), trained(Training()).state_dict()
    assert not any(name.startswith("average") for name in plain)
    own = {name for name in averaged if name.startswith("average.")}
    assert own == {f"average.{name}" for name in AVERAGED} | {"average._extra_state"}
    assert averaged.keys() - own == plain.keys()


AVERAGED = [
    "0/weight", "0/bias", "1/weight", "1/bias", "1/running_mean", "1/running_var", "3/weight", "3/bias",
]  # fmt: skip


def test_validation_losses_are_of_the_labels_as_they_are() -> None:
    smooth = trained(Training(label_smoothing=0.3))
    val = some_data().splits["val"]
    expected = float(F.cross_entropy(smooth.network.eval()(val.inputs), val.labels).detach())
    assert smooth.epoch_metrics["val/hard_loss"] == pytest.approx(expected, rel=1e-5)


class Watching(HardLabelCriterion):
    """Keeps the types of what it is given."""

    student_layers = ("0",)

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[bool, torch.dtype, torch.dtype]] = set()

    def forward(self, logits: Tensor, batch: Batch, features: Features | None = None) -> dict[str, Term]:
        assert features is not None
        self.seen.add((self.training, logits.dtype, features["0"].dtype))
        return super().forward(logits, batch, features)


@pytest.mark.parametrize("has", [True, False])
def test_the_network_alone_is_trained_in_bfloat16(has: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_modules.training.precision.has_bfloat16", lambda device: has)
    inside: set[tuple[bool, torch.dtype]] = set()
    monkeypatch.setattr(
        nn.ReLU, "forward", lambda self, x: inside.add((torch.is_grad_enabled(), x.dtype)) or torch.relu(x)
    )
    criterion = Watching()
    module = trained(Training(precision="bf16-mixed"), criterion)
    full = torch.float32
    assert inside == {(True, torch.bfloat16 if has else full), (False, full)}
    assert criterion.seen == {(True, full, full), (False, full, full)}
    state = module.state_dict()
    assert {value.dtype for value in state.values()} == {full, torch.int64}
    plain = trained(Training(), HardLabelCriterion())
    assert same(module.network, plain.network) is not has
