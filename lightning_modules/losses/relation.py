"""How samples lie to one another: losses of a batch's geometry, whose sides may differ in width."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.losses._numeric import at_least_fp32, centred, inner_products, unit


def distance_relation_loss(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    r"""Difference of the samples' distances, each side's measured in its own mean distance.

    .. math:: \frac{1}{B^2} \sum_{i, j} \ell\Big(\frac{\|s_i - s_j\|_2}{\mu_s} - \frac{\|t_i - t_j\|_2}{\mu_t}\Big),
        \quad \ell(x) = \begin{cases} x^2 / 2 & |x| \le 1 \\ |x| - 1/2 & \text{else} \end{cases}

    The mean μ of a side is over its positive distances. The paper sums over the pairs; a mean does not grow with the
    batch. Samples that coincide have no gradient from one another; where all of a side's coincide, as does a single
    one, its distances are 0.

    Args:
        student_features: Any shape (B, ...), flattened to (B, D).
        teacher_features: Any shape (B, ...), flattened to (B, D'); no gradient flows into them.

    Returns:
        Scalar, unitless, averaged over all B² pairs, a sample's with itself included.

    Raises:
        ValueError: If the numbers of samples differ, or a side is no batch of features.

    References:
        Park et al. (2019), RKD-D, section 3.2.1. arXiv:1904.05068.
    """
    student, teacher = _rows(student_features, teacher_features)
    return F.smooth_l1_loss(_relative_distances(student), _relative_distances(teacher))


def angle_relation_loss(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    r"""Difference of the angles that the samples form, three by three.

    .. math:: \frac{1}{B^3} \sum_{i, j, k} \ell\big(\cos \angle s_i s_j s_k - \cos \angle t_i t_j t_k\big)

    The angle lies at the sample j, and ℓ is the smooth L1 of :func:`distance_relation_loss`. The paper sums over
    triples of three samples; a mean over all does not grow with the batch. Where j coincides with i or k there is no
    angle: its cosine counts as 0, without gradient.

    Takes 4 B² (D + D' + 2 B) bytes and a few times that while it is worked out, 136 MB for 64 samples of 4,096
    features on both sides: meant for pooled features.

    Args:
        student_features: Any shape (B, ...), flattened to (B, D).
        teacher_features: Any shape (B, ...), flattened to (B, D'); no gradient flows into them.

    Returns:
        Scalar, unitless, averaged over all B³ triples, those that repeat a sample included.

    Raises:
        ValueError: If the numbers of samples differ, or a side is no batch of features.

    References:
        Park et al. (2019), RKD-A, section 3.2.2. arXiv:1904.05068.
    """
    student, teacher = _rows(student_features, teacher_features)
    return F.smooth_l1_loss(_angle_cosines(student), _angle_cosines(teacher))


def similarity_preserving_loss(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    r"""Squared difference of how alike each sample finds all others.

    .. math:: \frac{1}{B^2} \big\| \hat{G}_s - \hat{G}_t \big\|_F^2,
        \quad \hat{G}_i = \frac{G_i}{\|G_i\|_2}, \quad G = X X^\top

    A sample whose features are all zero is like no other, itself included: its row counts as zero, and what gradient it
    gets is from the rows of the others.

    Args:
        student_features: Any shape (B, ...), flattened to (B, D).
        teacher_features: Any shape (B, ...), flattened to (B, D'); no gradient flows into them.

    Returns:
        Scalar in [0, 4 / B], unitless: the squared Frobenius norm over B².

    Raises:
        ValueError: If the numbers of samples differ, or a side is no batch of features.

    References:
        Tung & Mori (2019), section 3. arXiv:1907.09682.
    """
    student, teacher = _rows(student_features, teacher_features)
    return F.mse_loss(unit(inner_products(student, student)), unit(inner_products(teacher, teacher)))


def probabilistic_transfer_loss(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    r"""Divergence of whom a student's sample would choose as its neighbour from whom the teacher's would.

    .. math:: \frac{1}{B^2} \sum_{i, j} t_{ij} \log \frac{t_{ij}}{s_{ij}},
        \quad p_{ij} = \frac{a_{ij}}{\sum_k a_{ik}}, \quad a_{ij} = \frac{1 + \cos(x_i, x_j)}{2}

    The paper leaves out a sample's choice of itself and sums; here the choice is among all B, and the mean is taken.
    Affinities are not below the rounding of 1: exact opposites would diverge without bound. Features that are all
    zero have cosine 0 with all, without gradient.

    Args:
        student_features: Any shape (B, ...), flattened to (B, D).
        teacher_features: Any shape (B, ...), flattened to (B, D'); no gradient flows into them.

    Returns:
        Scalar in nats, averaged over all B² entries: a B-th of the mean divergence of a sample.

    Raises:
        ValueError: If the numbers of samples differ, or a side is no batch of features.

    References:
        Passalis & Tefas (2018), section 3. arXiv:1803.10837.
    """
    student, teacher = (_log_affinities(rows) for rows in _rows(student_features, teacher_features))
    return (teacher.exp() * (teacher - student)).mean()


def _rows(student_features: Tensor, teacher_features: Tensor) -> tuple[Tensor, Tensor]:
    """Both sides as rows of shape (B, D), at least fp32, the teacher's without gradient."""
    if student_features.ndim < 2 or teacher_features.ndim < 2 or len(student_features) != len(teacher_features):
        raise ValueError(
            "student_features and teacher_features must have shapes (B, ...) of the same B, but got "
            f"{tuple(student_features.shape)=} and {tuple(teacher_features.shape)=}."
        )
    return at_least_fp32(student_features).flatten(1), at_least_fp32(teacher_features.detach()).flatten(1)


def _relative_distances(rows: Tensor) -> Tensor:
    """Distances between rows over the mean of the positive ones, shape (B, B)."""
    # Not by way of inner products, which leave rows that are close nothing but rounding for a distance.
    points = centred(rows, dim=0)
    distances = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    positive = (distances > 0).sum()
    return distances / torch.where(positive > 0, distances.sum() / positive.clamp(min=1), math.inf)


def _angle_cosines(rows: Tensor) -> Tensor:
    """Cosine of the angle at j between i and k, shape (B, B, B) in the order j, i, k."""
    points = centred(rows, dim=0)
    directions = unit(points[None, :] - points[:, None])
    return inner_products(directions, directions)


def _log_affinities(rows: Tensor) -> Tensor:
    """Logarithm of the probability of choosing j from i, shape (B, B)."""
    directions = unit(rows)
    affinities = (1 + inner_products(directions, directions)) / 2
    affinities = affinities.clamp(min=torch.finfo(rows.dtype).eps)
    return (affinities / affinities.sum(dim=1, keepdim=True)).log()
