"""Define methods from labels alone, without a teacher."""

from __future__ import annotations

from torch import Tensor

from lightning_modules.batch import Batch
from lightning_modules.features import Features
from lightning_modules.methods.base import Criterion, Term


class HardLabelCriterion(Criterion):
    """The loss from the labels alone, which trains teachers: cross-entropy, or the output kind's own."""

    needs_teacher, takes_top_k = False, True

    def forward(self, logits: Tensor, batch: Batch, features: Features | None = None) -> dict[str, Term]:
        """Return hard_loss."""
        return {"hard_loss": Term(1.0, self.hard_loss(logits, batch))}


class SmoothedLabelCriterion(Criterion):
    """Label smoothing, a baseline without a teacher: what it gains is no gain of the teacher's.

    The loss is soft_loss, the cross-entropy with the smoothed labels. hard_loss, that with the labels, has weight 0: it
    is logged to be compared with other methods.

    Args:
        smoothing: Fraction of the target that is spread over all classes, in [0, 1).

    Raises:
        ValueError: If it is out of its range.

    Reference: Szegedy et al. (2016), section 7. arXiv:1512.00567.
    """

    needs_classes = True
    needs_teacher, takes_top_k = False, True

    def __init__(self, *, smoothing: float) -> None:
        super().__init__()
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing must lie in [0, 1), but got {smoothing=}.")
        self.smoothing = smoothing

    def forward(self, logits: Tensor, batch: Batch, features: Features | None = None) -> dict[str, Term]:
        """Return hard_loss and soft_loss for student logits of shape (B, C)."""
        beside = self.label_smoothing if self.training else 0.0  # of the training: labels are smoothed twice
        smoothing = 1 - (1 - self.smoothing) * (1 - beside)
        return {
            "hard_loss": Term(0.0, self.hard_loss(logits.detach(), batch)),
            "soft_loss": Term(1.0, self.smoothed_loss(logits, batch, smoothing)),
        }
