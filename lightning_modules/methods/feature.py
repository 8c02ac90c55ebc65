"""Define methods that compare intermediate features of one layer each of student and teacher."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.batch import Batch
from lightning_modules.data.tensors import TensorDataModule
from lightning_modules.features import Features, probe_features
from lightning_modules.losses import attention_transfer_loss, hint_loss
from lightning_modules.methods.base import HardAndSoft, check_positive


class FeatureCriterion(HardAndSoft):
    """Base class of hard_loss + ``soft_weight`` · loss between a layer of the student and one of the teacher.

    Args:
        student_layer: Name of the student's layer, as in ``network.named_modules()``.
        teacher_layer: Name of the teacher's.
        soft_weight: Factor of soft_loss beside a hard_loss of weight 1.
        soft: Keywords of soft_loss, all above 0.
    """

    takes_top_k = True

    def __init__(self, *, student_layer: str, teacher_layer: str, soft_weight: float = 1.0, **soft: float) -> None:
        super().__init__(soft_weight=soft_weight, **soft)
        self.student_layers, self.teacher_layers = (student_layer,), (teacher_layer,)

    def setup(self, student: nn.Module, data: TensorDataModule, *, epochs: int) -> None:
        """Probe the two layers, and create what is learned between them."""
        device = next(student.parameters()).device
        few = data.splits["val"].few(2).to(device)
        _, features = probe_features(student, few.inputs, self.student_layers, self.layer_names)
        (ours,) = features.values()
        theirs = data.teacher_outputs["val"][self.teacher_layers[0]][: len(ours)].to(device)
        self.set_up_features(ours, theirs, data)

    def set_up_features(self, student_features: Tensor, teacher_features: Tensor, data: TensorDataModule) -> None:
        """Check that the method supports the features' shapes, and create its layers; the default does nothing.

        Args:
            student_features: Features of a few samples.
            teacher_features: The teacher's features of the same samples.
            data: The data, with the teacher's outputs.

        Raises:
            ValueError: If it does not.
        """

    def soft_loss(self, logits: Tensor, batch: Batch, features: Features | None) -> Tensor:
        """Return the loss between the two layers, over no position of padding."""
        assert features is not None
        both = features[self.student_layers[0]], batch.teacher[self.teacher_layers[0]]
        ours, theirs = (self.without_padding(one, batch.mask) for one in both)
        return self.feature_loss(ours, theirs)

    def without_padding(self, features: Tensor, mask: Tensor | None) -> Tensor:
        """Return what is compared of padded features (B, L, D): the valid positions, as rows (R, D).

        Args:
            features: Features, padded or not.
            mask: As of ``Batch``.
        """
        return features[mask] if mask is not None and is_padded(features, mask) else features

    def feature_loss(self, student_features: Tensor, teacher_features: Tensor) -> Tensor:
        """Return the loss between the two layers, before weighting."""
        raise NotImplementedError

    def refuse(self, needed: str, student_features: Tensor, teacher_features: Tensor) -> ValueError:
        """Return what to say of two layers that don't go together."""
        ours, theirs = (", ".join(map(str, side.shape[1:])) for side in (student_features, teacher_features))
        return ValueError(
            f"student_layer and teacher_layer must give {needed}, but {self.student_layers[0]!r} gives (B, {ours}) and "
            f"{self.teacher_layers[0]!r} (B, {theirs}); name other layers."
        )


class HintCriterion(FeatureCriterion):
    """hard_loss + ``hint_weight`` · squared difference of the student's mapped features and the teacher's (FitNets).

    The map is a learned regressor: a 1x1 convolution between features (B, C, H, W), a linear layer on the last
    dimension between others. Of maps of different sizes, the larger is averaged to the smaller height and width
    (``adaptive_avg_pool2d``). The paper trains the hint in a stage of its own, before distillation; here it is a term
    beside the labels throughout, as in RepDistiller.

    Args:
        student_layer: Name of the student's layer.
        teacher_layer: Name of the teacher's layer.
        hint_weight: Above 0; 100 in RepDistiller.

    Raises:
        ValueError: If the weight is not positive.

    Reference: Romero et al. (2015), FitNets. arXiv:1412.6550.
    """

    regressor: nn.Module

    def __init__(self, *, student_layer: str, teacher_layer: str, hint_weight: float) -> None:
        check_positive(hint_weight=hint_weight)
        super().__init__(student_layer=student_layer, teacher_layer=teacher_layer, soft_weight=hint_weight)

    def set_up_features(self, student_features: Tensor, teacher_features: Tensor, data: TensorDataModule) -> None:
        """Create the regressor."""
        ours, theirs = student_features.shape, teacher_features.shape
        if _are_maps(student_features, teacher_features):
            self.regressor = nn.Conv2d(ours[1], theirs[1], kernel_size=1)
        elif len(ours) != 4 and ours[:-1] == theirs[:-1]:
            self.regressor = nn.Linear(ours[-1], theirs[-1])
        else:
            needed = "both (B, C, H, W), or shapes that differ in their last dimension alone"
            raise self.refuse(needed, student_features, teacher_features)

    def feature_loss(self, student_features: Tensor, teacher_features: Tensor) -> Tensor:
        """Return the squared difference, in the square of the teacher features' unit."""
        if _are_maps(student_features, teacher_features):
            student_features, teacher_features = _of_one_size(student_features, teacher_features)
        return hint_loss(self.regressor(student_features), teacher_features)


class AttentionTransferCriterion(FeatureCriterion):
    """hard_loss + ``attention_weight`` · squared difference of the attention maps (attention transfer).

    Of maps of different sizes, the larger is averaged, as in ``HintCriterion``. The paper sums over several pairs of
    layers; here it is one pair.

    Args:
        student_layer: Name of a student layer with outputs (B, C, H, W).
        teacher_layer: Name of such a teacher layer.
        attention_weight: Above 0; 1,000 in RepDistiller, for a mean over 64 to 1,024 positions: fewer need less.

    Raises:
        ValueError: If the weight is not positive.

    Reference: Zagoruyko & Komodakis (2017). arXiv:1612.03928.
    """

    def __init__(self, *, student_layer: str, teacher_layer: str, attention_weight: float) -> None:
        check_positive(attention_weight=attention_weight)
        super().__init__(student_layer=student_layer, teacher_layer=teacher_layer, soft_weight=attention_weight)

    def set_up_features(self, student_features: Tensor, teacher_features: Tensor, data: TensorDataModule) -> None:
        """Check that both are maps of more than one position: the attention of a single one is constant."""
        if not _are_maps(student_features, teacher_features) or _positions(student_features, teacher_features) < 2:
            needed = "maps (B, C, H, W) of two positions or more"
            raise self.refuse(needed, student_features, teacher_features)

    def feature_loss(self, student_features: Tensor, teacher_features: Tensor) -> Tensor:
        """Return the squared difference, unitless."""
        return attention_transfer_loss(*_of_one_size(student_features, teacher_features))


def is_padded(features: Tensor, mask: Tensor) -> bool:
    """Return whether features have a row (D,) for each position of a mask (B, L)."""
    return features.ndim == 3 and features.shape[:2] == mask.shape


def _are_maps(*sides: Tensor) -> bool:
    return all(side.ndim == 4 for side in sides)


def _smaller_size(student_maps: Tensor, teacher_maps: Tensor) -> tuple[int, int]:
    (height, width), (other_height, other_width) = student_maps.shape[2:], teacher_maps.shape[2:]
    return min(height, other_height), min(width, other_width)


def _positions(student_maps: Tensor, teacher_maps: Tensor) -> int:
    height, width = _smaller_size(student_maps, teacher_maps)
    return height * width


def _of_one_size(student_maps: Tensor, teacher_maps: Tensor) -> tuple[Tensor, Tensor]:
    size = _smaller_size(student_maps, teacher_maps)

    def pooled(maps: Tensor) -> Tensor:
        return maps if maps.shape[2:] == size else F.adaptive_avg_pool2d(maps, size)

    return pooled(student_maps), pooled(teacher_maps)
