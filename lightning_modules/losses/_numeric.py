"""What the losses share: the precision they are worked out in, and directions of vectors that may have none."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def at_least_fp32(values: Tensor) -> Tensor:
    """Half precision loses the tail of a softmax: such values (stored or autocast) are widened, others left alone."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Return KL(teacher ‖ student), a scalar in nats: summed over the classes, averaged over the rows.

    Args:
        student: Logarithms of probabilities, shape (B, C).
        teacher: Logarithms of probabilities, shape (B, C); a class that it holds impossible (-inf) adds nothing.
    """
    return divergences(student, teacher).sum() / len(student)


def divergences(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the summands of KL(teacher ‖ student), in nats, for logarithms of probabilities of one shape."""
    summands = F.kl_div(student, teacher, reduction="none", log_target=True)
    return summands.masked_fill(teacher == -math.inf, 0)  # 0 · log 0 is 0, where -inf less -inf is NaN


def unit(vectors: Tensor, dim: int = -1) -> Tensor:
    """Vectors along ``dim`` at length 1; one that has no length stays zero, and gets no gradient.

    Scaled by its largest entry before anything is squared, so no length overflows, and none but a subnormal one
    vanishes.

    Args:
        vectors: Any shape, at least fp32.
        dim: Where the entries of a vector lie.

    Returns:
        The same shape.
    """
    largest = vectors.detach().abs().amax(dim, keepdim=True)
    info = torch.finfo(vectors.dtype)
    # Divided by infinity, a vector without length is zero, and so is its gradient; any other is of length 1 or more.
    scaled = vectors / torch.where(largest <= info.tiny / info.eps, math.inf, largest)
    lengths: Tensor = torch.linalg.vector_norm(scaled, dim=dim, keepdim=True)
    return scaled / torch.where(lengths > 0, lengths, 1)


def centred(values: Tensor, dim: int) -> Tensor:
    """Deviations from the mean along ``dim``; where all are equal but for rounding they are zero, without gradient.

    A mean of equal values is a last bit off, and what is left of such a row would be scaled up as if it said something.

    Args:
        values: Any shape, at least fp32.
        dim: Along which the mean is taken.

    Returns:
        The same shape.
    """
    low, high = values.detach().aminmax(dim=dim, keepdim=True)
    rounding = 8 * torch.finfo(values.dtype).eps * torch.maximum(low.abs(), high.abs())
    return (values - values.mean(dim, keepdim=True)).masked_fill(high - low <= rounding, 0)


def inner_products(left: Tensor, right: Tensor) -> Tensor:
    """Inner products of rows in the precision of the rows, where autocast would take half of it.

    Args:
        left: Rows, shape (..., M, D).
        right: Rows, shape (..., N, D).

    Returns:
        Shape (..., M, N).
    """
    with torch.autocast(left.device.type, enabled=False):
        return left @ right.mT
