"""Numerics shared by the losses: precision, divergences, and normalization that is safe for zero vectors."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def at_least_fp32(values: Tensor) -> Tensor:
    """Convert half-precision values (stored or autocast) to fp32: half precision loses the tail of a softmax."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def kl_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Return KL(teacher ‖ student), a scalar in nats: summed over the classes, averaged over the rows.

    Args:
        student: Logarithms of probabilities, shape (B, C).
        teacher: Logarithms of probabilities, shape (B, C); a class at -inf adds nothing.
    """
    return kl_terms(student, teacher).sum() / len(student)


def kl_terms(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the terms of KL(teacher ‖ student), in nats, for logarithms of probabilities of one shape."""
    terms = F.kl_div(student, teacher, reduction="none", log_target=True)
    return terms.masked_fill(teacher == -math.inf, 0)  # 0 · log 0 is 0, but -inf - (-inf) is NaN


def unit(vectors: Tensor, dim: int = -1) -> Tensor:
    """Scale vectors along ``dim`` to length 1; a zero vector stays zero and gets no gradient.

    Vectors are scaled by their largest entry before anything is squared, so no length overflows, and only subnormal
    ones underflow.

    Args:
        vectors: Any shape, at least fp32.
        dim: Dimension of the vectors' entries.

    Returns:
        The same shape.
    """
    largest = vectors.detach().abs().amax(dim, keepdim=True)
    info = torch.finfo(vectors.dtype)
    # Division by infinity makes a zero vector and its gradient zero; any other vector then has length 1 or more.
    scaled = vectors / torch.where(largest <= info.tiny / info.eps, math.inf, largest)
    lengths: Tensor = torch.linalg.vector_norm(scaled, dim=dim, keepdim=True)
    return scaled / torch.where(lengths > 0, lengths, 1)


def centred(values: Tensor, dim: int) -> Tensor:
    """Subtract the mean along ``dim``; values that are equal up to rounding become zero, without gradient.

    The mean of equal values may be off by the last bit, and a later normalization would scale up that difference.

    Args:
        values: Any shape, at least fp32.
        dim: Dimension of the mean.

    Returns:
        The same shape.
    """
    low, high = values.detach().aminmax(dim=dim, keepdim=True)
    rounding = 8 * torch.finfo(values.dtype).eps * torch.maximum(low.abs(), high.abs())
    return (values - values.mean(dim, keepdim=True)).masked_fill(high - low <= rounding, 0)


def inner_products(left: Tensor, right: Tensor) -> Tensor:
    """Return inner products of rows in the rows' precision, which autocast would halve.

    Args:
        left: Rows, shape (..., M, D).
        right: Rows, shape (..., N, D).

    Returns:
        Shape (..., M, N).
    """
    with torch.autocast(left.device.type, enabled=False):
        return left @ right.mT
