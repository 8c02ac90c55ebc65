"""Define the base classes of output kinds.

An output kind is the only place that knows what a network's output means. Kinds whose outputs are scores of classes
give them as *rows*: logits (R, C) with a target each, R of them for a batch, without those that have no label. So every
method of distillation that compares rows of logits works on all of these kinds, and so do agreement, divergence and
calibration.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

from lightning_modules.batch import UNLABELLED, Batch, labelled_rows
from lightning_modules.ensemble import mean_of_logits, mean_of_probabilities
from lightning_modules.losses import hard_label_loss, smoothed_label_loss
from lightning_modules.outputs.errors import Errors
from lightning_modules.top_k import TopKLogits

Metrics = Mapping[str, tuple[Metric, Literal["maximize", "minimize"]]]
"""Metrics by name, each with the direction that is better; the first one is the primary metric."""


class TeacherFault(NamedTuple):
    """Why a teacher's outputs can't be what an output kind means.

    Attributes:
        found: What they are, as it follows on "the teacher gives".
        remedy: What to do.
    """

    found: str
    remedy: str


class Output(ABC):
    """What a network's output means.

    Below, ``size`` is the number of classes, labels or values that a network's output has for each place.

    Attributes:
        metric_directions: Names of the default metrics, each with its direction; the first one is the primary metric.
        shape: Shape of a batch's output, in words.
        labels_text: What the labels of a split must be, in words.
        size_axis: Axis of an output that has ``size`` entries, counted from the last one.
        least_size: Least ``size`` that is meaningful.
        has_classes: Whether an output is scores of classes, which can be compared as rows of logits.
        has_one_row: Whether each sample has one row, so that a method may keep something by sample.
        may_exceed_labels: Whether an output may have more entries than the labels need.
        row_word: What one of the rows is called in reports: a sample, a pixel, a token, a label.
        numbers_of: What the row of numbers is of that each sample has, for teachers that are no network: classes that
            exclude one another, labels that do not, or values; empty where a sample has no such row.
        compares_overlap: Whether reports compare classes by their intersection over union too.
        may_be_blank: Whether samples without any label may be evaluated, where they count in nothing.
        unlabelled_text: What marks a training sample that the teacher alone labels, in words.
        size: Number that was declared; ``None`` reads it from the labels.
        has_unlabelled: Whether training batches may hold rows without a label.
    """

    metric_directions: ClassVar[Mapping[str, Literal["maximize", "minimize"]]]
    shape: ClassVar[str]
    labels_text: ClassVar[str]
    size_axis: ClassVar[int] = -1
    least_size: ClassVar[int] = 1
    has_classes: ClassVar[bool] = False
    has_one_row: ClassVar[bool] = False
    may_exceed_labels: ClassVar[bool] = False
    row_word: ClassVar[str] = "sample"
    compares_overlap: ClassVar[bool] = False
    numbers_of: ClassVar[Literal["", "classes", "labels", "values"]] = ""
    may_be_blank: ClassVar[bool] = False
    unlabelled_text: ClassVar[str] = f"{UNLABELLED}, or NaN in place of floats"
    size: int | None = None
    has_unlabelled: bool = False

    def is_labelled(self, labels: Tensor) -> Tensor:
        """Return which samples have a label, shape (N,), bool; the others are taught by the teacher alone.

        Args:
            labels: Labels of a split, or targets of a batch, first dimension N.
        """
        rows = labels.reshape(len(labels), -1)
        return ~rows.isnan().all(1) if rows.is_floating_point() else (rows != UNLABELLED).any(1)

    @abstractmethod
    def labels_fault(self, labels: Tensor) -> str | None:
        """Return why labels are not of this kind, and how to convert them; ``None`` if they are.

        Args:
            labels: The labels of a split, first dimension N.
        """

    @abstractmethod
    def size_of(self, labels: Tensor) -> int:
        """Return the size that the labels of a split need."""

    def counts(self, labels: Tensor, size: int) -> Tensor:
        """Return how often each class occurs, shape (C,)."""
        raise NotImplementedError(f"{self} has no classes that exclude one another")

    @abstractmethod
    def output_shape(self, labels: Tensor, size: int) -> tuple[int, ...]:
        """Return the shape of an output for samples with these labels."""

    @abstractmethod
    def hard_loss(self, logits: Tensor, target: Tensor, *, smoothing: float = 0.0) -> Tensor:
        """Return the loss from the labels, a scalar, averaged over the rows.

        Args:
            logits: Rows of logits (R, C), or the network's output where it has no classes.
            target: The targets of the rows, or of the batch.
            smoothing: Share of the target that is spread over all classes, in [0, 1): Szegedy et al. (2016), section 7.
                arXiv:1512.00567. An output without classes has none.
        """

    @abstractmethod
    def metrics(self, size: int) -> Metrics:
        """Return new default metrics, updated with ``metric_inputs``."""

    @abstractmethod
    def perfect(self, labels: Tensor, size: int) -> Tensor:
        """Return an output that is right for every sample."""

    @abstractmethod
    def wrong(self, labels: Tensor, size: int) -> Tensor:
        """Return an output that is wrong for every sample."""

    @abstractmethod
    def constants(self, labels: Tensor, size: int) -> Sequence[Tensor]:
        """Return the best outputs that do not depend on the sample, each for one sample: without its dimension."""

    def row_classes(self, size: int) -> int:
        """Return the number of classes C of a row; 0 where an output has no classes."""
        return 0

    def blocks(self, size: int) -> int:
        """Return the number of rows, one after the other, that have classes of their own: 1 where all have the same."""
        return 1

    def names_of_classes(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return the names of the classes of all rows, for the names that a task gives its classes or labels."""
        return tuple(names)

    def metric_inputs(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return what metrics are updated with, for an output and its labels."""
        return logits, labels

    def as_rows(self, logits: Tensor, batch: Batch) -> tuple[Tensor, Batch]:
        """Return a batch's rows of logits, and the batch with targets and teacher's logits of the same rows.

        Outputs without classes are returned as they are.
        """
        return logits, batch

    def taught_rows(self, logits: Tensor, batch: Batch) -> tuple[Tensor, Batch]:
        """Return rows as ``as_rows`` does, those of samples without any label among them, which the teacher labels.

        Their targets are ``UNLABELLED``, or NaN.
        """
        return self.as_rows(logits, batch)

    def labelled_loss(self, logits: Tensor, target: Tensor, *, smoothing: float = 0.0) -> Tensor:
        """Return ``hard_loss`` over the rows that have a label, a scalar: their mean, or 0 where none has one.

        It is the mean over these rows alone, and not over all: so the weight of the labels, as alpha, is that of two
        means whatever share of a batch is labelled, and means what it does where all are.

        Args:
            logits: Rows of logits (R, C), or the network's output where it has no classes.
            target: The targets of the rows.
            smoothing: As of ``hard_loss``.
        """
        known = labelled_rows(target)
        if bool(known.all()):
            return self.hard_loss(logits, target, smoothing=smoothing)
        if not bool(known.any()):
            return logits.masked_fill(~logits.isfinite(), 0.0).sum() * 0.0
        return self.hard_loss(logits[known], target[known], smoothing=smoothing)

    def count_rows(self, target: Tensor, rows: Tensor) -> int:
        """Return how many of a batch's rows count; less than there are if the batch has no label.

        Args:
            target: The targets of the batch.
            rows: Its rows, from ``as_rows``.
        """
        return len(rows)

    def number_of_rows(self, labels: Tensor) -> int:
        """Return how many rows an output for samples with these labels has, of ``rows_of``."""
        return len(labels)

    def rows_of(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows of logits (R, C) and labels (R,) of an output; of a teacher's ``TopKLogits`` likewise."""
        raise NotImplementedError(f"{self} has no classes")

    def describe_errors(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Errors | None:
        """Return how a student errs beside its teacher, for reports; ``None`` if nothing is to be said.

        It is asked where an output has no classes: those of classes are compared row by row.

        Args:
            student: The student's output for every sample of a split, first dimension N.
            teacher: The teacher's output for the same samples.
            labels: Their labels.
        """
        return None

    def teacher_fault(self, answers: Tensor, labels: Tensor) -> TeacherFault | None:
        """Return why a teacher's outputs have another meaning than the labels; ``None`` if they are not seen to have.

        Args:
            answers: Its outputs for the samples of a split.
            labels: The labels of these samples.
        """
        return None

    @property
    def maps_teacher(self) -> bool:
        """Return whether a teacher's outputs are mapped (``teacher_map``): they must be stored, for a fit to them."""
        return False

    def teacher_map(self, answers: Tensor, labels: Tensor) -> Callable[[Tensor], Tensor] | None:
        """Return the map of a teacher's outputs to what students are to give; ``None`` if they are the same.

        Its text, ``str(map)``, is shown.

        Args:
            answers: The teacher's outputs for the training samples.
            labels: The labels of these samples.
        """
        return None

    def view_targets_fault(self, targets: Tensor, labels: Tensor, size: int) -> str | None:
        """Return what targets that a view gives in place of labels must be, and are not; ``None`` if they are right.

        Args:
            targets: The view's targets of some samples.
            labels: The labels of these samples.
            size: Size of the output.
        """
        if targets.shape == labels.shape and targets.dtype == labels.dtype:
            return None
        found = f"shape {tuple(targets.shape)} and {targets.dtype}"
        return f"as the labels, shape {tuple(labels.shape)} and {labels.dtype}, but got {found}"

    def soft_targets(self, target: Tensor, size: int) -> Tensor:
        """Return targets of a batch as floats, of which weighted sums are targets too: samples are mixed with them.

        Args:
            target: The targets of a batch.
            size: Size of the output.

        Raises:
            ValueError: If samples of this kind can't be mixed.
        """
        raise ValueError(f"samples can't be mixed where the output is {self}: leave out mix=.")

    def are_mixed(self, targets: Tensor) -> bool:
        """Return whether targets that a view gives are probabilities in place of labels."""
        return self.has_classes and targets.is_floating_point()

    def for_training(self, labels: Tensor, size: int) -> Self:
        """Return the kind with what it takes from the labels of the training split, as weights of the classes."""
        return self

    def ensemble_logits(self, members: Sequence[Tensor], average: str) -> Tensor:
        """Return the mean output of several networks.

        Args:
            members: The output of each.
            average: ``"probabilities"`` or ``"logits"``; the same for outputs without classes.
        """
        return torch.stack([*members]).mean(0)

    def looks_softmaxed(self, logits: Tensor) -> bool:
        """Return whether supposed logits are probabilities already."""
        return False

    def __str__(self) -> str:
        return type(self).__name__


class CategoricalOutput(Output):
    """Base class of outputs whose rows are scores of classes that exclude one another.

    Args:
        classes: Number of classes C; ``None`` reads it from the labels.
        class_weights: Weights of the classes in the hard-label loss, one for each; ``"balanced"`` takes the inverse of
            how often each occurs in the training split. They are scaled to a mean of 1 over the training split.

    Raises:
        ValueError: If an argument is out of its range.
    """

    least_size = 2
    has_classes = True
    may_exceed_labels = True

    def __init__(
        self, classes: int | None = None, *, class_weights: Literal["balanced"] | Sequence[float] | None = None
    ) -> None:
        if classes is not None and (not isinstance(classes, int) or isinstance(classes, bool) or classes < 2):
            raise ValueError(f"classes must be a whole number of at least 2, but got {classes=}.")
        self.size = classes
        self.class_weights = _checked_weights(class_weights, classes)
        self._weights: Tensor | None = None

    def row_classes(self, size: int) -> int:
        return size

    def hard_loss(self, logits: Tensor, target: Tensor, *, smoothing: float = 0.0) -> Tensor:
        """Return the cross-entropy with the labels, in nats, weighted by class if there are weights."""
        if self._weights is None:
            return cross_entropy(logits, target, smoothing)
        weighted = smoothed_targets(logits, target, smoothing) * self._weights.to(logits.device)
        logs = torch.log_softmax(logits.float(), -1)
        return -(logs.masked_fill(weighted == 0, 0.0) * weighted).sum() / len(logits)

    def for_training(self, labels: Tensor, size: int) -> Self:
        if self.class_weights is None:
            return self
        counts = self.counts(labels, size)
        if self.class_weights == "balanced":
            weights = torch.where(counts > 0, counts.sum() / (counts.clamp(min=1) * (counts > 0).sum()), 0.0)
        else:
            if len(self.class_weights) != size:
                raise ValueError(
                    f"class_weights must hold a weight for each of the {size} classes, but hold "
                    f"{len(self.class_weights)}."
                )
            weights = torch.tensor(self.class_weights, dtype=torch.float32)
        weights = weights.float().cpu()
        found = copy.copy(self)
        found._weights = weights * counts.sum().cpu() / (weights * counts.cpu()).sum()
        return found

    def counts(self, labels: Tensor, size: int) -> Tensor:
        """Return how often each class occurs, shape (C,)."""
        return torch.bincount(self._valid(labels), minlength=size)

    def _valid(self, labels: Tensor) -> Tensor:
        """Return the labels that count, shape (R,)."""
        return labels.flatten()

    def constants(self, labels: Tensor, size: int) -> Sequence[Tensor]:
        """Return the most frequent class alone, and the frequencies of all classes, as logits."""
        counts = self.counts(labels, size).float()
        alone = torch.zeros(size, device=labels.device)
        alone[counts.argmax()] = 1.0
        frequent = (counts / counts.sum()).clamp_min(1e-6).log()
        return [self._everywhere(row, labels) for row in (alone, frequent)]

    def _everywhere(self, row: Tensor, labels: Tensor) -> Tensor:
        """Return a row of logits as the output for one sample."""
        return row

    def ensemble_logits(self, members: Sequence[Tensor], average: str) -> Tensor:
        mean = mean_of_logits if average == "logits" else mean_of_probabilities
        rows = mean([member.movedim(self.size_axis, -1) for member in members])
        return rows.movedim(-1, self.size_axis)

    def looks_softmaxed(self, logits: Tensor) -> bool:
        sums = logits.sum(self.size_axis)
        return bool((logits >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-3)

    def __str__(self) -> str:
        return f"{type(self).__name__}({self.size or ''})"


def cross_entropy(logits: Tensor, target: Tensor, smoothing: float) -> Tensor:
    """Return the cross-entropy of rows with targets, smoothed if ``smoothing`` is above 0; a scalar in nats."""
    if smoothing:
        return smoothed_label_loss(logits, target, smoothing=smoothing)
    return hard_label_loss(logits, target)


def one_hot(target: Tensor, classes: int) -> Tensor:
    """Return class indices as probabilities, shape (R, C), float32; NaN where a row has no label."""
    known = labelled_rows(target)
    return F.one_hot(target.where(known, 0), classes).float().masked_fill(~known[:, None], math.nan)


def smoothed_targets(logits: Tensor, target: Tensor, smoothing: float) -> Tensor:
    """Return targets as probabilities, shape (R, C), of which a share is spread over the classes that are possible."""
    given = target if target.is_floating_point() else F.one_hot(target, logits.shape[1]).float()
    if not smoothing:
        return given
    possible = (logits.detach() != -math.inf).to(given)
    return (1 - smoothing) * given + smoothing * possible / possible.sum(1, keepdim=True)


def batch_of_rows(batch: Batch, target: Tensor, teacher_logits: Tensor | TopKLogits | None) -> Batch:
    """Return a batch whose target and teacher's logits are of rows."""
    teacher = dict(batch.teacher)
    if teacher_logits is not None:
        teacher["logits"] = teacher_logits
    return replace(batch, target=target, teacher=teacher)


def _checked_weights(given: Any, classes: int | None) -> Literal["balanced"] | tuple[float, ...] | None:
    if given is None or given == "balanced":
        return given  # type: ignore[no-any-return]
    if isinstance(given, str):
        raise ValueError(f"class_weights must be 'balanced' or a weight for each class, but got {given!r}.")
    weights = tuple(float(weight) for weight in given)
    if not weights or min(weights) < 0 or not 0 < sum(weights) < float("inf"):
        raise ValueError(f"class_weights must be at least 0, finite and not all 0, but got {given!r}.")
    if classes is not None and len(weights) != classes:
        raise ValueError(
            f"class_weights must hold a weight for each of the {classes} classes, but hold {len(weights)}."
        )
    return weights
