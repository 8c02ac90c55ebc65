"""Define methods that compare the logits of student and teacher."""

from __future__ import annotations

from torch import Tensor

from lightning_modules.batch import Batch
from lightning_modules.features import Features
from lightning_modules.losses import (
    correlation_loss,
    decoupled_loss,
    generalized_jsd_loss,
    skewed_kl_loss,
    soft_target_loss,
    standardized_soft_target_loss,
)
from lightning_modules.methods.base import HardAndSoft
from lightning_modules.top_k import Compared, compared


class DistillationCriterion(HardAndSoft):
    """Hinton's distillation: ``alpha`` · hard_loss + (1 - ``alpha``) · soft_loss.

    Args:
        temperature: Softening T > 0 of both networks' logits, unitless.
        alpha: Weight of the **hard-label** loss in [0, 1]; the soft targets get 1 - alpha.

    Raises:
        ValueError: If a value is out of its range.
    """

    needs_classes = takes_top_k = True

    def __init__(self, *, temperature: float, alpha: float) -> None:
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must lie in [0, 1], but got {alpha=}.")
        super().__init__(hard_weight=alpha, soft_weight=1 - alpha, temperature=temperature)

    def soft_loss(self, logits: Tensor, batch: Batch, features: Features | None) -> Tensor:
        """Return the soft-target loss in nats."""
        found = self.compared(logits, batch)
        return soft_target_loss(found.student, found.teacher, **self.soft) + self.beyond(found)

    def compared(self, logits: Tensor, batch: Batch) -> Compared:
        """Return student and teacher over the same classes: all, or those that are stored of the teacher."""
        return compared(logits, batch.teacher["logits"], self.soft["temperature"])

    def beyond(self, found: Compared, share: float = 0.0) -> Tensor | float:
        """Return T² times what KL(teacher ‖ mixture) has beyond the classes that are told apart; 0 where all are.

        Args:
            found: From ``compared``.
            share: Share of the teacher in the mixture with the student.
        """
        return 0.0 if found.tail is None else self.soft["temperature"] ** 2 * found.within_tail(share).mean()


class StandardizedCriterion(DistillationCriterion):
    """Hinton's distillation of standardized logits: ``alpha`` · hard_loss + (1 - ``alpha``) · soft_loss.

    Takes and raises what ``DistillationCriterion`` does. Reference: Sun et al. (2024), arXiv:2403.01427.
    """

    least_classes = 3  # two standardized logits have no gradient
    takes_top_k = False  # the deviation of all logits is needed

    def soft_loss(self, logits: Tensor, batch: Batch, features: Features | None) -> Tensor:
        """Return the standardized soft-target loss in nats."""
        return standardized_soft_target_loss(logits, batch.teacher["logits"], **self.soft)


class ReverseKLCriterion(DistillationCriterion):
    """Distillation by KL(student ‖ teacher), which prefers few likely classes to a share for each of the teacher's.

    ``alpha`` · hard_loss + (1 - ``alpha``) · soft_loss. Takes and raises what ``DistillationCriterion`` does.
    Reference: Agarwal et al. (2024), arXiv:2306.13649.
    """

    def soft_loss(self, logits: Tensor, batch: Batch, features: Features | None) -> Tensor:
        """Return T² times the reverse divergence in nats."""
        temperature, found = self.soft["temperature"], self.compared(logits, batch)
        loss = generalized_jsd_loss(found.student, found.teacher, beta=1.0, temperature=temperature)
        return temperature**2 * loss


class JSDCriterion(DistillationCriterion):
    """Distillation by the generalized Jensen-Shannon divergence (GKD).

    ``alpha`` · hard_loss + (1 - ``alpha``) · soft_loss.

    Args:
        beta: Weight of the teacher in the mixture, in [0, 1], unitless; 0 and 1 are the forward and the reverse KL,
            special cases that are no limits.
        temperature: As of ``DistillationCriterion``.
        alpha: As of ``DistillationCriterion``.

    Raises:
        ValueError: If a value is out of its range.

    Reference: Agarwal et al. (2024), arXiv:2306.13649.
    """

    def __init__(self, *, beta: float, temperature: float, alpha: float) -> None:
        if not 0 <= beta <= 1:
            raise ValueError(f"beta must lie in [0, 1], but got {beta=}.")
        super().__init__(temperature=temperature, alpha=alpha)
        self.beta = beta

    def soft_loss(self, logits: Tensor, batch: Batch, features: Features | None) -> Tensor:
        """Return T² times the divergence in nats."""
        temperature, found = self.soft["temperature"], self.compared(logits, batch)
        loss = generalized_jsd_loss(found.student, found.teacher, beta=self.beta, temperature=temperature)
        share = self.beta or 1.0  # of KL(teacher ‖ mixture) in the loss: beta 0 is the forward KL
        return temperature**2 * loss + (share * self.beyond(found, self.beta) if self.beta < 1 else 0.0)


class SkewedKLCriterion(DistillationCriterion):
    """Distillation by a KL divergence whose student is mixed with the teacher (DistiLLM).

    ``alpha`` · hard_loss + (1 - ``alpha``) · soft_loss.

    Args:
        skew: Share of the teacher in the mixture, in [0, 1), unitless; 0.1 in the paper.
        temperature: As of ``DistillationCriterion``.
        alpha: As of ``DistillationCriterion``.

    Raises:
        ValueError: If a value is out of its range.

    Reference: Ko et al. (2024), arXiv:2402.03898.
    """

    def __init__(self, *, skew: float, temperature: float, alpha: float) -> None:
        if not 0 <= skew < 1:
            raise ValueError(f"skew must lie in [0, 1), but got {skew=}.")
        super().__init__(temperature=temperature, alpha=alpha)
        self.skew = skew

    def soft_loss(self, logits: Tensor, batch: Batch, features: Features | None) -> Tensor:
        """Return T² times the skewed divergence in nats."""
        temperature, found = self.soft["temperature"], self.compared(logits, batch)
        loss = skewed_kl_loss(found.student, found.teacher, skew=self.skew, temperature=temperature)
        return temperature**2 * loss + self.beyond(found, self.skew)


class DecoupledCriterion(HardAndSoft):
    """Decoupled distillation (DKD): hard_loss + soft_loss.

    Args:
        temperature: Softening T > 0, unitless.
        target_weight: Weight of the target-class term, above 0; 1 in the paper.
        non_target_weight: Weight of the non-target-class term, above 0; 1 to 10 in the paper.

    Raises:
        ValueError: If a value is not positive.

    Reference: Zhao et al. (2022), arXiv:2203.08679.
    """

    least_classes = 3  # a single class beside the label leaves the non-target term undefined
    needs_labels = needs_classes = True  # the target class is separated from the others

    def __init__(self, *, temperature: float, target_weight: float, non_target_weight: float) -> None:
        super().__init__(temperature=temperature, target_weight=target_weight, non_target_weight=non_target_weight)

    def soft_loss(self, logits: Tensor, batch: Batch, features: Features | None) -> Tensor:
        """Return the decoupled loss in nats."""
        return decoupled_loss(logits, batch.teacher["logits"], batch.target, **self.soft)


class CorrelationCriterion(HardAndSoft):
    """Distillation by Pearson correlation within samples and within classes (DIST): hard_loss + soft_loss.

    Args:
        temperature: Softening T > 0, unitless; 1 to 4 in the paper.
        inter_weight: Weight of the correlation within a sample, above 0; 1 or 2 in the paper.
        intra_weight: Weight of the correlation within a class, above 0; likewise.

    Raises:
        ValueError: If a value is not positive.

    Reference: Huang et al. (2022), arXiv:2205.10536.
    """

    needs_classes = True

    def __init__(self, *, temperature: float, inter_weight: float, intra_weight: float) -> None:
        super().__init__(temperature=temperature, inter_weight=inter_weight, intra_weight=intra_weight)

    def soft_loss(self, logits: Tensor, batch: Batch, features: Features | None) -> Tensor:
        """Return the correlation loss, unitless."""
        return correlation_loss(logits, batch.teacher["logits"], **self.soft)
