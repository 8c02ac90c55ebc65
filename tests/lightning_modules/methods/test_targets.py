"""The form of the targets that a method sees: the same in every batch of a task, of training and of validation."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from lightning_modules.batch import Batch, Inputs
from lightning_modules.classifier import StudentModule
from lightning_modules.data.tensors import Split, TensorDataModule
from lightning_modules.data.views import Views
from lightning_modules.features import Features
from lightning_modules.methods import Criterion, Term
from lightning_modules.outputs import Classification, MultiLabel, Output, Regression

pytestmark = pytest.mark.filterwarnings("ignore:You have overridden `transfer_batch_to_device`:UserWarning")

INPUTS = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
CLASSES = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
LABELS = torch.tensor([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0], [1.0, 0.0]]).repeat(2, 1)


@dataclass(frozen=True)
class Given(Views):
    """The samples themselves, with targets."""

    targets: Tensor = LABELS

    def of(self, inputs: Inputs, ids: Tensor, view: int) -> tuple[Inputs, Tensor]:
        return inputs, self.targets[ids]


class Seen(Criterion):
    """Notes the targets of each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[Tensor] = []

    def forward(self, logits: Tensor, batch: Batch, features: Features | None = None) -> dict[str, Term]:
        self.targets.append(batch.target)
        return {"hard_loss": Term(1.0, self.hard_loss(logits, batch))}


class SeenAsLabels(Seen):
    """Notes the targets of each batch, and needs one class for each row."""

    needs_labels = True


def targets_of(criterion: Seen, output: Output, labels: Tensor, size: int, views: Views | None = None) -> list[Tensor]:
    """Train for an epoch in batches of 2, and validate; return the targets of all batches."""
    split = Split(INPUTS, labels)
    data = TensorDataModule(train=split, val=split, test=split, batch_size=2, eval_batch_size=2)
    data.views = views
    metrics = {name: metric for name, (metric, _) in output.metrics(size).items()}
    module = StudentModule(nn.Linear(4, size), criterion, output=output, metrics=metrics, total_steps=4)
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=data)
    assert len(criterion.targets) == 8  # 4 batches of training, 4 of validation
    return criterion.targets


def in_order(targets: list[Tensor]) -> Tensor:
    """Return the targets of the validation split."""
    return torch.cat(targets[4:])


SOFT = Given(count=1, targets=torch.where(torch.arange(8)[:, None] == 3, 0.25, LABELS))


@pytest.mark.parametrize("labels", [LABELS, LABELS.long(), LABELS.bool()], ids=["floats", "integers", "bools"])
@pytest.mark.parametrize("views", [None, Given(count=1), SOFT], ids=["samples", "hard views", "one soft sample"])
def test_targets_of_several_labels_are_probabilities_in_every_batch(labels: Tensor, views: Views | None) -> None:
    targets = targets_of(Seen(), MultiLabel(2), labels, 2, views)
    assert {(tuple(one.shape), one.dtype) for one in targets} == {((4, 2), torch.float32)}
    expected = torch.stack([1 - LABELS.flatten(), LABELS.flatten()], 1)  # absent and present, label after label
    assert torch.equal(in_order(targets), expected)
    if views is SOFT:
        assert [0.75, 0.25] in torch.cat(targets[:4]).tolist()


@pytest.mark.parametrize("labels", [LABELS, LABELS.long()], ids=["floats", "integers"])
def test_a_method_that_needs_labels_sees_class_indices_of_several_labels(labels: Tensor) -> None:
    targets = targets_of(SeenAsLabels(), MultiLabel(2), labels, 2)
    assert {(tuple(one.shape), one.dtype) for one in targets} == {((4,), torch.int64)}
    assert in_order(targets).tolist() == LABELS.flatten().tolist()


def test_targets_of_a_classifier_are_indices_or_where_views_mix_probabilities_in_validation_too() -> None:
    plain = targets_of(Seen(), Classification(), CLASSES, 3)
    assert {(tuple(one.shape), one.dtype) for one in plain} == {((2,), torch.int64)}
    mixed = torch.full((8, 3), 0.25).scatter(1, CLASSES[:, None], 0.5)
    targets = targets_of(Seen(), Classification(), CLASSES, 3, Given(count=1, targets=mixed))
    assert {(tuple(one.shape), one.dtype) for one in targets} == {((2, 3), torch.float32)}
    assert torch.equal(in_order(targets), torch.eye(3)[CLASSES])
    assert torch.cat(targets[:4]).unique().tolist() == [0.25, 0.5]


def test_targets_of_a_regression_stay_as_they_are() -> None:
    targets = targets_of(Seen(), Regression(), LABELS + 0.5, 2)
    assert torch.equal(in_order(targets), LABELS + 0.5)
