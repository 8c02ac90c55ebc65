"""Define the output of a classifier: one class for each sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy

from lightning_modules.batch import UNLABELLED
from lightning_modules.outputs.base import CategoricalOutput, Metrics, one_hot


class Classification(CategoricalOutput):
    """One class for each sample: labels are class indices (N,), outputs are logits (B, C).

    Takes and raises what ``CategoricalOutput`` does. The primary metric is ``accuracy``.
    """

    metric_directions: ClassVar[Mapping[str, Literal["maximize", "minimize"]]] = {"accuracy": "maximize"}
    shape = "(B, C)"
    labels_text = "class indices from 0 of shape (N,) and dtype int64"
    has_one_row = True
    numbers_of = "classes"

    def labels_fault(self, labels: Tensor) -> str | None:
        """Return why labels are not class indices, and how to convert them; ``None`` if they are."""
        if labels.dtype == torch.int64 and labels.ndim == 1 and labels.min() >= 0:
            if self.size is None or labels.max() < self.size:
                return None
            return f"{int(labels.max())}, but there are {self.size} classes, counted from 0"
        if labels.ndim == 2 and labels.shape[1] > 1:
            how = ": .argmax(1) makes some of one score or mark a class; soft ones are given by views, with the inputs"
        elif labels.ndim > 1:
            how = ": .flatten() drops the dimensions of 1" if labels.numel() == len(labels) else ""
        elif labels.dtype != torch.int64:
            whole = labels.is_complex() or bool((labels != labels.long()).any())
            how = ", and they are not whole numbers" if whole else ": .long() makes some of whole numbers"
        else:
            how = (
                f", the smallest {int(labels.min())}: count classes from 0, and give {UNLABELLED} to training samples "
                "without a label"
            )
        return f"shape {tuple(labels.shape)} and {labels.dtype}{how}"

    def size_of(self, labels: Tensor) -> int:
        """Return the number of classes in the labels, which count from 0."""
        return int(labels.max()) + 1

    def output_shape(self, labels: Tensor, size: int) -> tuple[int, ...]:
        """Return (N, C)."""
        return (len(labels), size)

    def metrics(self, size: int) -> Metrics:
        """Return the accuracy."""
        return {"accuracy": (MulticlassAccuracy(num_classes=size, average="micro", validate_args=False), "maximize")}

    def rows_of(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return both as they are."""
        return logits, labels

    def view_targets_fault(self, targets: Tensor, labels: Tensor, size: int) -> str | None:
        """Return what probabilities of a view must be, and are not; ``None`` if they are right."""
        if targets.dtype == torch.int64 and targets.shape == labels.shape:
            return None  # of a transform that is given the label
        shape = (len(labels), size)
        if tuple(targets.shape) != shape or not targets.is_floating_point():
            wanted = f"probabilities of the {size} classes, floats of shape {shape} for {len(labels)} samples"
            return f"{wanted}, but got shape {tuple(targets.shape)} and {targets.dtype}"
        sums = targets.sum(1)
        if not bool((targets >= 0).all()) or not torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
            return f"probabilities that sum to 1 for each sample, but got {targets[0].tolist()}"
        return None

    def soft_targets(self, target: Tensor, size: int) -> Tensor:
        """Return probabilities of the classes (B, C); NaN without a label, and so of each mix with such a sample."""
        return target if target.is_floating_point() else one_hot(target, size)

    def perfect(self, labels: Tensor, size: int) -> Tensor:
        """Return a logit of 10 for the true class, and 0 for the others."""
        return 10 * torch.nn.functional.one_hot(labels, size).float()

    def wrong(self, labels: Tensor, size: int) -> Tensor:
        """Return a logit of 10 for the class after the true one, and 0 for the others."""
        return self.perfect((labels + 1) % size, size)
