"""Losses of numbers that student and teacher give."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.losses._numeric import at_least_fp32


def value_loss(student_values: Tensor, teacher_values: Tensor) -> Tensor:
    r"""Return the mean squared difference of the student's values from the teacher's.

    .. math:: \frac{1}{V} \lVert y_s - y_t \rVert^2

    Args:
        student_values: Numbers, shape (B, V).
        teacher_values: Numbers on the same scale, shape (B, V); no gradient flows into them.

    Returns:
        Scalar in squared units of the values, averaged over B and V.

    Raises:
        ValueError: If the shapes differ.
    """
    _check_shapes(student_values, teacher_values=teacher_values)
    return F.mse_loss(at_least_fp32(student_values), at_least_fp32(teacher_values.detach()))


def bounded_regression_loss(
    student_values: Tensor, teacher_values: Tensor, targets: Tensor, *, margin: float
) -> Tensor:
    r"""Return the student's squared error where the teacher's does not exceed it by a margin, and 0 elsewhere.

    .. math:: \lVert y_s - y \rVert^2 \text{ if } \lVert y_s - y \rVert^2 + m > \lVert y_t - y \rVert^2,
        \text{ else } 0

    Args:
        student_values: Numbers, shape (B, V).
        teacher_values: Numbers on the same scale, shape (B, V); no gradient flows into them.
        targets: The true numbers, shape (B, V).
        margin: The margin m, at least 0, in squared units of the values.

    Returns:
        Scalar in squared units of the values: squared errors are averaged over V, then over B.

    Raises:
        ValueError: If the shapes differ or ``margin`` is negative.

    References:
        Chen et al. (2017), section 3.3, Learning Efficient Object Detection Models with Knowledge Distillation.
    """
    _check_shapes(student_values, teacher_values=teacher_values, targets=targets)
    if margin < 0:
        raise ValueError(f"margin must be at least 0, but got {margin=}.")
    ours = (at_least_fp32(student_values) - targets).square().mean(1)
    theirs = (at_least_fp32(teacher_values.detach()) - targets).square().mean(1)
    return torch.where(ours + margin > theirs, ours, 0).mean()


def _check_shapes(student_values: Tensor, **others: Tensor) -> None:
    for name, values in others.items():
        if values.shape != student_values.shape or values.ndim != 2:
            raise ValueError(
                f"{name} must have the student's shape (B, V), but got {tuple(values.shape)} beside "
                f"{tuple(student_values.shape)}."
            )
