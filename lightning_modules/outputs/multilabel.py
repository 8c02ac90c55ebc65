"""Define the output of a network that gives a sample any number of labels."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor
from torchmetrics.classification import MultilabelAveragePrecision, MultilabelF1Score

from lightning_modules.batch import Batch
from lightning_modules.outputs.base import Metrics, Output, batch_of_rows, cross_entropy, smoothed_targets

_NONE = -1  # in place of each label of a sample that has none


class MultiLabel(Output):
    """Any number of L labels for each sample: targets are 0 or 1, shape (N, L), outputs are logits (B, L).

    A logit z stands for the two classes *absent* and *present* with logits (0, z), so that a sample has L rows of two
    classes. Their cross-entropy is the binary one, and the soft-target loss of a row is the binary divergence of its
    label, with the factor T². The primary metric is ``f1``, the mean over the labels; ``average_precision`` is logged
    too.

    Args:
        labels: Number of labels L; ``None`` reads it from the targets.
        class_weights: Weight of a label's presence beside its absence in the hard-label loss, one for each label;
            ``"balanced"`` takes how many times more often it is absent than present in the training split.

    Raises:
        ValueError: If an argument is out of its range.
    """

    metric_directions: ClassVar[Mapping[str, Literal["maximize", "minimize"]]] = {
        "f1": "maximize",
        "average_precision": "maximize",
    }
    shape = "(B, L)"
    unlabelled_text = "a row of -1, or of NaN"
    labels_text = "0 or 1 for each of L labels, shape (N, L), whole numbers or float32"
    has_classes = True
    row_word = "label"
    numbers_of = "labels"

    def __init__(
        self, labels: int | None = None, *, class_weights: Literal["balanced"] | Sequence[float] | None = None
    ) -> None:
        if labels is not None and (not isinstance(labels, int) or isinstance(labels, bool) or labels < 1):
            raise ValueError(f"labels must be a whole number of at least 1, but got {labels=}.")
        if isinstance(class_weights, str) and class_weights != "balanced":
            raise ValueError(f"class_weights must be 'balanced' or a weight for each label, but got {class_weights!r}.")
        self.size = labels
        self.class_weights: Literal["balanced"] | tuple[float, ...] | None = None
        if class_weights is not None:
            self.class_weights = "balanced" if isinstance(class_weights, str) else tuple(map(float, class_weights))
        given = self.class_weights if isinstance(self.class_weights, tuple) else ()
        if not all(0 < weight < float("inf") for weight in given):
            raise ValueError(f"class_weights must be positive and finite, but got {class_weights!r}.")
        self._presence: Tensor | None = None

    def is_labelled(self, labels: Tensor) -> Tensor:
        """Return which samples have labels, shape (N,), bool: not those with a row of -1, or of NaN."""
        rows = labels.reshape(len(labels), -1)
        is_absent = rows == _NONE
        return ~(is_absent | rows.isnan() if rows.is_floating_point() else is_absent).all(1)

    def labels_fault(self, labels: Tensor) -> str | None:
        """Return why targets are not 0 or 1 for each label; ``None`` if they are."""
        found = f"shape {tuple(labels.shape)} and {labels.dtype}"
        if labels.ndim != 2:
            return f"{found}{': one column a label; .unsqueeze(1) makes one column' if labels.ndim == 1 else ''}"
        if self.size is not None and labels.shape[1] != self.size:
            return f"{found}, but {self.size} labels were declared"
        if labels.dtype not in (torch.int64, torch.float32, torch.bool):
            return f"{found}: call .float()"
        values = labels.float()
        if not bool(((values == 0) | (values == 1)).all()):
            other = values[(values != 0) & (values != 1)][0]
            if other.isnan() or other == _NONE:
                return f"{float(other):g} for some labels of a sample: give all of them, or none by a whole row of it"
            return f"{float(other):g} among them; soft ones are given by views, with the inputs"
        return None

    def size_of(self, labels: Tensor) -> int:
        """Return the number of labels L."""
        return labels.shape[1]

    def row_classes(self, size: int) -> int:
        """Return 2: absent and present."""
        return 2

    def blocks(self, size: int) -> int:
        """Return L: each label is absent or present."""
        return size

    def names_of_classes(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return two names for each label: absent, and present."""
        return tuple(f"{label}: {told}" for label in names for told in ("no", "yes"))

    def view_targets_fault(self, targets: Tensor, labels: Tensor, size: int) -> str | None:
        """Return what targets of a view must be, and are not; ``None`` if they are probabilities of each label."""
        if targets.shape != labels.shape:
            return f"of shape {tuple(labels.shape)} as the labels, but got {tuple(targets.shape)}"
        values = targets.float()
        if not bool(((values >= 0) & (values <= 1)).all()):
            return f"probabilities of each label, from 0 to 1, but got {targets[0].tolist()}"
        return None

    def soft_targets(self, target: Tensor, size: int) -> Tensor:
        """Return the probability of each label (B, L); NaN without labels, and so of each mix with such a sample."""
        return _known(target.float())

    def are_mixed(self, targets: Tensor) -> bool:
        """Return whether some label is neither absent nor present."""
        values = targets.float()
        return bool(((values > 0) & (values < 1)).any())

    def output_shape(self, labels: Tensor, size: int) -> tuple[int, ...]:
        """Return (N, L)."""
        return (len(labels), size)

    def metrics(self, size: int) -> Metrics:
        """Return the F1 score at a threshold of 0.5 and the average precision, means over the labels."""
        return {
            "f1": (MultilabelF1Score(num_labels=size, average="macro", validate_args=False), "maximize"),
            "average_precision": (
                MultilabelAveragePrecision(num_labels=size, average="macro", validate_args=False),
                "maximize",
            ),
        }

    def metric_inputs(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return probabilities, which torchmetrics need not guess, and whole targets."""
        return logits.float().sigmoid(), labels.long()

    def hard_loss(self, logits: Tensor, target: Tensor, *, smoothing: float = 0.0) -> Tensor:
        """Return the binary cross-entropy in nats, averaged over the rows."""
        if self._presence is None:
            return cross_entropy(logits, target, smoothing)
        weights = self._presence.to(logits.device).repeat(len(logits) // len(self._presence))
        logs, given = torch.log_softmax(logits.float(), -1), smoothed_targets(logits, target, smoothing)
        return -(weights * given[:, 1] * logs[:, 1] + given[:, 0] * logs[:, 0]).mean()

    def for_training(self, labels: Tensor, size: int) -> Self:
        """Return the kind with the weights of its labels."""
        if self.class_weights is None:
            return self
        if self.class_weights == "balanced":
            present = labels.float().sum(0).cpu()
            weights = torch.where(present > 0, (len(labels) - present) / present.clamp(min=1), 1.0).clamp(min=1e-3)
        else:
            if len(self.class_weights) != size:
                raise ValueError(
                    f"class_weights must hold a weight for each of the {size} labels, but hold "
                    f"{len(self.class_weights)}."
                )
            weights = torch.tensor(self.class_weights)
        found = copy.copy(self)
        found._presence = weights.float()
        return found

    def as_rows(self, logits: Tensor, batch: Batch) -> tuple[Tensor, Batch]:
        """Return L rows of two classes for each sample; their targets are the probabilities of both, (N · L, 2)."""
        theirs = batch.teacher.get("logits")
        return _pairs(logits), batch_of_rows(batch, _targets(batch.target), None if theirs is None else _pairs(theirs))

    def number_of_rows(self, labels: Tensor) -> int:
        """Return L for each sample."""
        return labels.numel()

    def rows_of(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return L rows of two classes for each sample."""
        return _pairs(logits), labels.flatten().long()

    def perfect(self, labels: Tensor, size: int) -> Tensor:
        """Return logits of 10 and -10."""
        return 20 * labels.float() - 10

    def wrong(self, labels: Tensor, size: int) -> Tensor:
        """Return logits of -10 and 10."""
        return 10 - 20 * labels.float()

    def constants(self, labels: Tensor, size: int) -> Sequence[Tensor]:
        """Return the logits of the labels' frequencies, all labels, and none."""
        frequency = labels.float().mean(0).clamp(1e-6, 1 - 1e-6)
        return [frequency.logit(), torch.full_like(frequency, 10.0), torch.full_like(frequency, -10.0)]

    def ensemble_logits(self, members: Sequence[Tensor], average: str) -> Tensor:
        """Return the logit of the mean probability, or the mean logit."""
        if average == "logits":
            return super().ensemble_logits(members, average)
        present = torch.stack([torch.nn.functional.logsigmoid(member.double()) for member in members]).logsumexp(0)
        absent = torch.stack([torch.nn.functional.logsigmoid(-member.double()) for member in members]).logsumexp(0)
        return (present - absent).to(members[0].dtype)

    def looks_softmaxed(self, logits: Tensor) -> bool:
        """Return whether all are within 0 and 1: logits of labels that are absent are below 0."""
        return bool(((logits >= 0) & (logits <= 1)).all())

    def __str__(self) -> str:
        return f"MultiLabel({self.size or ''})"


def _pairs(logits: Tensor) -> Tensor:
    """Return the logits of absence and presence, shape (N · L, 2), for logits (N, L)."""
    flat = logits.reshape(-1)
    return torch.stack([torch.zeros_like(flat), flat], dim=1)


def _targets(target: Tensor) -> Tensor:
    """Return the probabilities of absence and presence, shape (N · L, 2), float32, for targets (N, L).

    They have one form for every batch: whether some label of a batch lies between 0 and 1 is chance. They are NaN where
    a sample has no labels.
    """
    flat = _known(target.reshape(-1).float())
    return torch.stack([1 - flat, flat], dim=1)


def _known(target: Tensor) -> Tensor:
    """Return float targets, with NaN where there is no label."""
    return target.masked_fill(target < 0, math.nan)
