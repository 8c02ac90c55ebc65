"""Define methods that compare relations between the samples of a batch in one layer of each network."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_modules.data.tensors import TensorDataModule
from lightning_modules.losses import (
    angle_relation_loss,
    distance_relation_loss,
    probabilistic_transfer_loss,
    similarity_preserving_loss,
)
from lightning_modules.methods.base import check_positive
from lightning_modules.methods.feature import FeatureCriterion, is_padded


class _GeometryCriterion(FeatureCriterion):
    """Base class of hard_loss + a loss of the relations between the samples of a batch.

    The loss depends on the batch size, and its cost on the square or cube of it. So the larger validation batches are
    split into parts of the size of a training batch.
    """

    def set_up_features(self, student_features: Tensor, teacher_features: Tensor, data: TensorDataModule) -> None:
        """Store the size of a training batch."""
        self.most = data.batch_size

    def without_padding(self, features: Tensor, mask: Tensor | None) -> Tensor:
        """Return the mean over the valid positions of padded features (B, L, D), shape (B, D)."""
        return features if mask is None or not is_padded(features, mask) else pool_features(features, mask)

    def feature_loss(self, student_features: Tensor, teacher_features: Tensor) -> Tensor:
        """Return the mean loss of the parts, weighted by their samples."""
        parts = zip(student_features.split(self.most), teacher_features.split(self.most), strict=True)
        losses = [len(ours) * self.geometry_loss(ours, theirs) for ours, theirs in parts]
        return torch.stack(losses).sum() / len(student_features)

    def geometry_loss(self, student_features: Tensor, teacher_features: Tensor) -> Tensor:
        """Return the loss of a batch, before weighting."""
        raise NotImplementedError


class RelationCriterion(_GeometryCriterion):
    """hard_loss + ``distance_weight`` · distance loss + ``angle_weight`` · angle loss (RKD).

    Both weights are part of soft_loss. Maps are averaged over their positions, for the paper compares embeddings, and
    angles of whole maps would take much memory (``angle_relation_loss``).

    Args:
        student_layer: Name of the student's layer.
        teacher_layer: Name of the teacher's layer.
        distance_weight: Above 0; 25 in RepDistiller, as in the authors' own code.
        angle_weight: Above 0; 50 in both.

    Raises:
        ValueError: If a weight is not positive.

    Reference: Park et al. (2019), RKD. arXiv:1904.05068.
    """

    def __init__(self, *, student_layer: str, teacher_layer: str, distance_weight: float, angle_weight: float) -> None:
        super().__init__(
            student_layer=student_layer,
            teacher_layer=teacher_layer,
            distance_weight=distance_weight,
            angle_weight=angle_weight,
        )

    def geometry_loss(self, student_features: Tensor, teacher_features: Tensor) -> Tensor:
        """Return the weighted sum of distance and angle loss, unitless."""
        sides = pool_features(student_features), pool_features(teacher_features)
        distances = self.soft["distance_weight"] * distance_relation_loss(*sides)
        return distances + self.soft["angle_weight"] * angle_relation_loss(*sides)


class SimilarityCriterion(_GeometryCriterion):
    """hard_loss + ``similarity_weight`` · squared difference of the similarity matrices (similarity-preserving).

    Maps are compared position by position, as in the paper.

    Args:
        student_layer: Name of the student's layer.
        teacher_layer: Name of the teacher's layer.
        similarity_weight: Above 0; 3,000 in the paper on CIFAR-10, and in RepDistiller.

    Raises:
        ValueError: If the weight is not positive.

    Reference: Tung & Mori (2019). arXiv:1907.09682.
    """

    def __init__(self, *, student_layer: str, teacher_layer: str, similarity_weight: float) -> None:
        check_positive(similarity_weight=similarity_weight)
        super().__init__(student_layer=student_layer, teacher_layer=teacher_layer, soft_weight=similarity_weight)

    def geometry_loss(self, student_features: Tensor, teacher_features: Tensor) -> Tensor:
        """Return the squared difference, unitless."""
        return similarity_preserving_loss(student_features, teacher_features)


class ProbabilisticCriterion(_GeometryCriterion):
    """hard_loss + ``probabilistic_weight`` · divergence of the neighbour probabilities (PKT).

    Maps are averaged over their positions: the paper compares embeddings.

    Args:
        student_layer: Name of the student's layer.
        teacher_layer: Name of the teacher's layer.
        probabilistic_weight: Above 0; 30,000 in RepDistiller, for a mean over the B² pairs.

    Raises:
        ValueError: If the weight is not positive.

    Reference: Passalis & Tefas (2018), PKT. arXiv:1803.10837.
    """

    def __init__(self, *, student_layer: str, teacher_layer: str, probabilistic_weight: float) -> None:
        check_positive(probabilistic_weight=probabilistic_weight)
        super().__init__(student_layer=student_layer, teacher_layer=teacher_layer, soft_weight=probabilistic_weight)

    def geometry_loss(self, student_features: Tensor, teacher_features: Tensor) -> Tensor:
        """Return the divergence in nats."""
        return probabilistic_transfer_loss(pool_features(student_features), pool_features(teacher_features))


def pool_features(features: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return features as rows (B, D): average over positions, flatten what has none.

    Args:
        features: Maps (B, C, H, W), padded features (B, L, D), or others.
        mask: Valid positions of padded features, as of ``Batch``.
    """
    if mask is not None and is_padded(features, mask):
        weights = mask.to(features).unsqueeze(2)
        return (features * weights).sum(1) / weights.sum(1).clamp_min(1)
    return features.mean(dim=(2, 3)) if features.ndim == 4 else features.flatten(1)
