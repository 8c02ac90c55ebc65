"""Define methods that compare the numbers that student and teacher give (regression)."""

from __future__ import annotations

from torch import Tensor

from lightning_modules.batch import Batch
from lightning_modules.features import Features
from lightning_modules.losses import bounded_regression_loss, value_loss
from lightning_modules.methods.base import HardAndSoft, check_positive


class ValueCriterion(HardAndSoft):
    """Regression towards labels and teacher: ``alpha`` · hard_loss + (1 - ``alpha``) · soft_loss, both squared errors.

    Args:
        alpha: Weight of the **hard-label** loss in [0, 1]; the teacher's values get 1 - alpha.

    Raises:
        ValueError: If it is out of its range.
    """

    needs_values = True

    def __init__(self, *, alpha: float) -> None:
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must lie in [0, 1], but got {alpha=}.")
        super().__init__(hard_weight=alpha, soft_weight=1 - alpha)

    def soft_loss(self, logits: Tensor, batch: Batch, features: Features | None) -> Tensor:
        """Return the mean squared difference from the teacher's values."""
        return value_loss(logits, batch.teacher["logits"])


class BoundedRegressionCriterion(HardAndSoft):
    """hard_loss + ``bounded_weight`` · the student's squared error, where it is not better than the teacher's.

    The teacher's error bounds the student's: a student that is better by more than the margin gets no further loss.

    Args:
        bounded_weight: Above 0; 0.5 in the paper.
        margin: By how much the student's squared error must be less than the teacher's, at least 0, in squared units of
            the target.

    Raises:
        ValueError: If a value is out of its range.

    Reference: Chen et al. (2017), Learning Efficient Object Detection Models with Knowledge Distillation, section 3.3.
    """

    needs_values = True
    reads_labels = True  # the teacher's error bounds the student's

    def __init__(self, *, bounded_weight: float, margin: float) -> None:
        check_positive(bounded_weight=bounded_weight)
        if margin < 0:
            raise ValueError(f"margin must be at least 0, but got {margin=}.")
        super().__init__(soft_weight=bounded_weight)
        self.margin = margin

    def soft_loss(self, logits: Tensor, batch: Batch, features: Features | None) -> Tensor:
        """Return the bounded squared error."""
        return bounded_regression_loss(logits, batch.teacher["logits"], batch.target, margin=self.margin)
