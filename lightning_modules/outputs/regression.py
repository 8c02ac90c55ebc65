"""Define the output of a network that gives numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.regression import MeanAbsoluteError, R2Score

from lightning_modules.outputs.base import Metrics, Output, TeacherFault
from lightning_modules.outputs.errors import Errors, value_errors
from lightning_modules.outputs.scale import AffineMap, fit_affine, scale_fault


class Regression(Output):
    """Numbers: targets and outputs have shape (N, V), float32, on the same scale.

    The hard-label loss is the mean squared error. There are no classes, so agreement, divergence and calibration have
    no meaning here, and are absent. The primary metric is ``mae``, the mean absolute error; ``r2`` is logged too.

    A teacher's answers are compared with targets and with a student's answers, so they must be in the targets' units.
    One whose answers are seen not to be is refused, unless ``teacher_scale`` is ``"own"``. Then a line, fitted for
    each value to the training split by least squares, maps them to the targets' units, and everything sees the mapped
    answers: methods, the teacher's scores, the region of interest and the report. A student learns to give targets.
    Where the teacher was trained on the same split, the line inherits its overfitting.

    Args:
        values: Number of values V; ``None`` reads it from the targets.
        teacher_scale: ``"targets"``: the teacher answers in the targets' units. ``"own"``: in others, which are mapped.

    Raises:
        ValueError: If an argument is out of its range.
    """

    metric_directions: ClassVar[Mapping[str, Literal["maximize", "minimize"]]] = {"mae": "minimize", "r2": "maximize"}
    shape = "(B, V)"
    unlabelled_text = "a row of NaN"
    labels_text = "numbers of shape (N, V) and dtype float32"
    numbers_of = "values"

    def __init__(self, values: int | None = None, *, teacher_scale: Literal["targets", "own"] = "targets") -> None:
        if values is not None and (not isinstance(values, int) or isinstance(values, bool) or values < 1):
            raise ValueError(f"values must be a whole number of at least 1, but got {values=}.")
        if teacher_scale not in ("targets", "own"):
            raise ValueError(f"teacher_scale must be 'targets' or 'own', but got {teacher_scale!r}.")
        self.size, self.teacher_scale = values, teacher_scale

    def labels_fault(self, labels: Tensor) -> str | None:
        """Return why targets are no numbers of shape (N, V); ``None`` if they are."""
        found = f"shape {tuple(labels.shape)} and {labels.dtype}"
        if labels.ndim != 2:
            return f"{found}{': .unsqueeze(1) makes one value a sample' if labels.ndim == 1 else ''}"
        if self.size is not None and labels.shape[1] != self.size:
            return f"{found}, but {self.size} values were declared"
        if labels.dtype != torch.float32:
            return f"{found}: call .float()"
        if count := int((labels.isnan().any(1) & ~labels.isnan().all(1)).sum()):
            return f"NaN for some values of {count:,} samples: give all of a sample's values, or none"
        return None

    def size_of(self, labels: Tensor) -> int:
        """Return the number of values V."""
        return labels.shape[1]

    def output_shape(self, labels: Tensor, size: int) -> tuple[int, ...]:
        """Return (N, V)."""
        return (len(labels), size)

    def hard_loss(self, logits: Tensor, target: Tensor, *, smoothing: float = 0.0) -> Tensor:
        """Return the mean squared error, in squared units of the target."""
        return F.mse_loss(logits.float(), target)

    def soft_targets(self, target: Tensor, size: int) -> Tensor:
        """Return the numbers themselves."""
        return target

    def metrics(self, size: int) -> Metrics:
        """Return the mean absolute error, and the share of variance that is explained."""
        return {"mae": (MeanAbsoluteError(), "minimize"), "r2": (R2Score(), "maximize")}

    def describe_errors(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Errors:
        """Return the errors of each value, in units of the target: all, and by range of the target."""
        return value_errors(student, teacher, labels)

    def teacher_fault(self, answers: Tensor, labels: Tensor) -> TeacherFault | None:
        """Return that a teacher's answers are on another scale than the targets, unless that was said."""
        if self.maps_teacher or (found := scale_fault(answers, labels)) is None:
            return None
        return TeacherFault(
            found,
            "let it answer in units of the target (train it longer if it is to learn them), or say "
            f"Regression({self.size or ''}{', ' if self.size else ''}teacher_scale='own') to have its answers mapped",
        )

    @property
    def maps_teacher(self) -> bool:
        """Return whether the teacher has a scale of its own."""
        return self.teacher_scale == "own"

    def teacher_map(self, answers: Tensor, labels: Tensor) -> AffineMap | None:
        """Return the line from the teacher's answers to the targets, if it has a scale of its own."""
        return fit_affine(answers, labels) if self.maps_teacher else None

    def perfect(self, labels: Tensor, size: int) -> Tensor:
        """Return the targets."""
        return labels

    def wrong(self, labels: Tensor, size: int) -> Tensor:
        """Return the targets, moved by more than they vary."""
        return labels + 3 * labels.std(0, correction=0) + 1

    def constants(self, labels: Tensor, size: int) -> Sequence[Tensor]:
        """Return the mean and the median of the targets."""
        return [labels.mean(0), labels.median(0).values]

    def __str__(self) -> str:
        return f"Regression({self.size or ''})"
