"""Criteria: what a network is trained for, as named terms that are summed, and logged one by one."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from lightning_modules.batch import Batch
from lightning_modules.losses import hard_label_loss, soft_target_loss


class Term(NamedTuple):
    """One summand of a loss.

    Attributes:
        weight: Its factor in the sum, unitless.
        value: Scalar, before weighting.
    """

    weight: float
    value: Tensor


class HardLabelCriterion(nn.Module):
    """The true labels alone: how a teacher is trained."""

    def forward(self, logits: Tensor, batch: Batch) -> dict[str, Term]:
        """Terms of the loss for logits of shape (B, C)."""
        return {"hard_loss": Term(1.0, hard_label_loss(logits, batch.labels))}


class DistillationCriterion(nn.Module):
    """Hinton's distillation: ``alpha`` · hard_loss + (1 - ``alpha``) · soft_loss.

    Args:
        temperature: Softening T > 0 of both sides' logits, unitless.
        alpha: Weight of the **hard-label** loss in [0, 1]; the soft targets get 1 - alpha.

    Raises:
        ValueError: If a value is out of its range.
    """

    def __init__(self, *, temperature: float, alpha: float) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, but got {temperature=}.")
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must lie in [0, 1], but got {alpha=}.")
        self.temperature = temperature
        self.alpha = alpha

    def forward(self, logits: Tensor, batch: Batch) -> dict[str, Term]:
        """Terms of the loss for student logits of shape (B, C), beside the batch's stored teacher logits."""
        soft_loss = soft_target_loss(logits, batch.teacher["logits"], temperature=self.temperature)
        return {
            "hard_loss": Term(self.alpha, hard_label_loss(logits, batch.labels)),
            "soft_loss": Term(1 - self.alpha, soft_loss),
        }
