"""Criteria: what a network is trained for, as named terms that are summed, and logged one by one."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import Tensor, nn

from lightning_modules.batch import Batch
from lightning_modules.losses import (
    correlation_loss,
    decoupled_loss,
    hard_label_loss,
    smoothed_label_loss,
    soft_target_loss,
    standardized_soft_target_loss,
)


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


class _HardAndSoft(nn.Module):
    """Weighted, hard_loss of the true labels and soft_loss of what the teacher says.

    Args:
        alpha: Weight of hard_loss in [0, 1], where soft_loss has 1 - alpha; ``None`` gives 1 to each.
        soft: Keywords of soft_loss, all above 0.
    """

    def __init__(self, *, alpha: float | None = None, **soft: float) -> None:
        super().__init__()
        for name, value in soft.items():
            if not value > 0:
                raise ValueError(f"{name} must be positive, but got {name}={value}.")
        if alpha is not None and not 0 <= alpha <= 1:
            raise ValueError(f"alpha must lie in [0, 1], but got {alpha=}.")
        self.soft = soft
        self.hard_weight, self.soft_weight = (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)

    def forward(self, logits: Tensor, batch: Batch) -> dict[str, Term]:
        """Terms of the loss for student logits of shape (B, C), beside the batch's stored teacher logits."""
        return {
            "hard_loss": Term(self.hard_weight, hard_label_loss(logits, batch.labels)),
            "soft_loss": Term(self.soft_weight, self.soft_loss(logits, batch)),
        }

    def soft_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """What the teacher says, as a loss."""
        raise NotImplementedError


class DistillationCriterion(_HardAndSoft):
    """Hinton's distillation: ``alpha`` · hard_loss + (1 - ``alpha``) · soft_loss.

    Args:
        temperature: Softening T > 0 of both sides' logits, unitless.
        alpha: Weight of the **hard-label** loss in [0, 1]; the soft targets get 1 - alpha.

    Raises:
        ValueError: If a value is out of its range.
    """

    def __init__(self, *, temperature: float, alpha: float) -> None:
        super().__init__(alpha=alpha, temperature=temperature)

    def soft_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """In nats."""
        return soft_target_loss(logits, batch.teacher["logits"], **self.soft)


class StandardizedCriterion(DistillationCriterion):
    """Hinton's distillation of standardized logits: ``alpha`` · hard_loss + (1 - ``alpha``) · soft_loss.

    Takes and raises what ``DistillationCriterion`` does. Reference: Sun et al. (2024), arXiv:2403.01427.
    """

    def soft_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """In nats."""
        return standardized_soft_target_loss(logits, batch.teacher["logits"], **self.soft)


class DecoupledCriterion(_HardAndSoft):
    """Decoupled distillation beside the true labels: hard_loss + soft_loss.

    Args:
        temperature: Softening T > 0, unitless.
        target_weight: Weight of the label's share, above 0; 1 in the paper.
        non_target_weight: Weight of the other classes among themselves, above 0; 1 to 10 in the paper.

    Raises:
        ValueError: If a value is not positive.

    Reference: Zhao et al. (2022), arXiv:2203.08679.
    """

    def __init__(self, *, temperature: float, target_weight: float, non_target_weight: float) -> None:
        super().__init__(temperature=temperature, target_weight=target_weight, non_target_weight=non_target_weight)

    def soft_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """In nats."""
        return decoupled_loss(logits, batch.teacher["logits"], batch.labels, **self.soft)


class CorrelationCriterion(_HardAndSoft):
    """Distillation by correlation, of samples' classes and of classes' samples, beside the true labels.

    Args:
        temperature: Softening T > 0, unitless; 1 to 4 in the paper.
        inter_weight: Weight of the correlation within a sample, above 0; 1 or 2 in the paper.
        intra_weight: Weight of the correlation within a class, above 0; likewise.

    Raises:
        ValueError: If a value is not positive.

    Reference: Huang et al. (2022), arXiv:2205.10536.
    """

    def __init__(self, *, temperature: float, inter_weight: float, intra_weight: float) -> None:
        super().__init__(temperature=temperature, inter_weight=inter_weight, intra_weight=intra_weight)

    def soft_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Unitless."""
        return correlation_loss(logits, batch.teacher["logits"], **self.soft)


class SmoothedLabelCriterion(nn.Module):
    """Labels alone, smoothed: an arm without a teacher. What smoothing alone gains is no gain of the teacher's.

    Args:
        smoothing: Share of the target that is spread over all classes, in [0, 1).

    Raises:
        ValueError: If it is out of its range.

    Reference: Szegedy et al. (2016), section 7. arXiv:1512.00567.
    """

    def __init__(self, *, smoothing: float) -> None:
        super().__init__()
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing must lie in [0, 1), but got {smoothing=}.")
        self.smoothing = smoothing

    def forward(self, logits: Tensor, batch: Batch) -> dict[str, Term]:
        """Terms of the loss for student logits of shape (B, C)."""
        return {"hard_loss": Term(1.0, smoothed_label_loss(logits, batch.labels, smoothing=self.smoothing))}


HINTON = "soft_target"
METHODS: Mapping[str, type[nn.Module]] = MappingProxyType(
    {
        HINTON: DistillationCriterion,
        "standardized": StandardizedCriterion,
        "decoupled": DecoupledCriterion,
        "correlation": CorrelationCriterion,
        "label_smoothing": SmoothedLabelCriterion,
    }
)
"""What a student may be trained for, by name; a criterion's keywords are what can be searched of it."""


def make_criterion(method: str = HINTON, **parameters: Any) -> nn.Module:
    """The criterion of a method.

    Args:
        method: Its name in ``METHODS``.
        parameters: Its keywords.
    """
    return METHODS[method](**parameters)
