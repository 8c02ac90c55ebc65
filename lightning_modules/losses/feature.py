"""Losses of intermediate features."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from lightning_modules.losses._numeric import at_least_fp32, unit


def hint_loss(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    r"""Return the mean squared difference of the student's and the teacher's features.

    .. math:: \frac{1}{B D} \sum_{b, d} (s_{bd} - t_{bd})^2

    The paper sums over the features and halves; a mean does not grow with the layer. If the widths differ, the paper
    maps the student's features to the teacher's shape with a learned regressor, which is part of the method's module.

    Args:
        student_features: Any shape (B, ...), D elements a sample.
        teacher_features: The same shape; no gradient flows into them.

    Returns:
        Scalar in the square of the features' unit, averaged over all elements.

    Raises:
        ValueError: If the shapes differ.

    References:
        Romero et al. (2015), FitNets, equation 3. arXiv:1412.6550.
    """
    if student_features.shape != teacher_features.shape:
        raise ValueError(
            "student_features and teacher_features must have the same shape, but got "
            f"{tuple(student_features.shape)=} and {tuple(teacher_features.shape)=}; map the student's to the "
            "teacher's with a regressor first."
        )
    return F.mse_loss(at_least_fp32(student_features), at_least_fp32(teacher_features.detach()))


def attention_transfer_loss(student_maps: Tensor, teacher_maps: Tensor) -> Tensor:
    r"""Return the mean squared difference of the normalized attention maps.

    .. math:: \frac{1}{B H W} \sum_{b} \Big\| \frac{a(s_b)}{\|a(s_b)\|_2} - \frac{a(t_b)}{\|a(t_b)\|_2} \Big\|_2^2,
        \quad a(m)_{hw} = \frac{1}{C} \sum_c m_{chw}^2

    The paper takes the norm of each sample's difference; its square, averaged over positions too, has a gradient where
    the two are equal. A map that is zero everywhere has attention zero, without gradient.

    Args:
        student_maps: Activations of a convolution, shape (B, C, H, W).
        teacher_maps: Activations, shape (B, C', H, W), where C' may differ from C; no gradient flows into them.

    Returns:
        Scalar in [0, 2 / (H W)], unitless, averaged over B and positions.

    Raises:
        ValueError: If the shapes differ in anything but the channels.

    References:
        Zagoruyko & Komodakis (2017), equation 2. arXiv:1612.03928.
    """
    student_places, teacher_places = (maps.shape[:1] + maps.shape[2:] for maps in (student_maps, teacher_maps))
    if student_maps.ndim != 4 or teacher_maps.ndim != 4 or student_places != teacher_places:
        raise ValueError(
            "student_maps and teacher_maps must have shape (B, C, H, W) and may differ in C alone, but got "
            f"{tuple(student_maps.shape)=} and {tuple(teacher_maps.shape)=}."
        )
    return F.mse_loss(_attention(student_maps), _attention(teacher_maps.detach()))


def _attention(maps: Tensor) -> Tensor:
    """Return the attention of maps (B, C, H, W): shape (B, H W), each row of length 1."""
    return unit(at_least_fp32(maps).square().mean(dim=1).flatten(1))
