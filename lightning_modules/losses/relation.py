"""Losses of the relations between the samples of a batch; student and teacher may differ in width."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.losses._numeric import at_least_fp32, centred, inner_products, unit


def distance_relation_loss(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    r"""Return the difference of pairwise distances, each side's in units of its own mean distance (RKD-D).

    .. math:: \frac{1}{B^2} \sum_{i, j} \ell\Big(\frac{\|s_i - s_j\|_2}{\mu_s} - \frac{\|t_i - t_j\|_2}{\mu_t}\Big),
        \quad \ell(x) = \begin{cases} x^2 / 2 & |x| \le 1 \\ |x| - 1/2 & \text{else} \end{cases}

    The mean μ of a side is over its positive distances. The paper sums over the pairs; a mean does not grow with the
    batch. Equal samples get no gradient from one another; if all samples of a side are equal, or there is only one, its
    distances are 0.

    Args:
        student_features: Any shape (B, ...), flattened to (B, D).
        teacher_features: Any shape (B, ...), flattened to (B, D'); no gradient flows into them.

    Returns:
        Scalar, unitless, averaged over all B² pairs, including those of a sample with itself.

    Raises:
        ValueError: If the numbers of samples differ, or features have fewer than 2 dimensions.

    References:
        Park et al. (2019), RKD-D, section 3.2.1. arXiv:1904.05068.
    """
    student, teacher = _rows(student_features, teacher_features)
    return F.smooth_l1_loss(_relative_distances(student), _relative_distances(teacher))


def angle_relation_loss(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    r"""Return the difference of the angles that triples of samples form (RKD-A).

    .. math:: \frac{1}{B^3} \sum_{i, j, k} \ell\big(\cos \angle s_i s_j s_k - \cos \angle t_i t_j t_k\big)

    The angle is at sample j, and ℓ is the smooth L1 loss of :func:`distance_relation_loss`. The paper sums over
    triples of three samples; a mean over all does not grow with the batch. If j equals i or k there is no angle: its
    cosine counts as 0, without gradient.

    Memory: 4 B² (D + D' + 2 B) bytes and a few times that during the computation, 136 MB for 64 samples of 4,096
    features on both sides: meant for pooled features.

    Args:
        student_features: Any shape (B, ...), flattened to (B, D).
        teacher_features: Any shape (B, ...), flattened to (B, D'); no gradient flows into them.

    Returns:
        Scalar, unitless, averaged over all B³ triples, including those that repeat a sample.

    Raises:
        ValueError: If the numbers of samples differ, or features have fewer than 2 dimensions.

    References:
        Park et al. (2019), RKD-A, section 3.2.2. arXiv:1904.05068.
    """
    student, teacher = _rows(student_features, teacher_features)
    return F.smooth_l1_loss(_angle_cosines(student), _angle_cosines(teacher))


def similarity_preserving_loss(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    r"""Return the squared difference of the row-normalized similarity matrices.

    .. math:: \frac{1}{B^2} \big\| \hat{G}_s - \hat{G}_t \big\|_F^2,
        \quad \hat{G}_i = \frac{G_i}{\|G_i\|_2}, \quad G = X X^\top

    A sample whose features are all zero is similar to no sample, itself included: its row is zero, and its gradient
    comes from the rows of the others.

    Args:
        student_features: Any shape (B, ...), flattened to (B, D).
        teacher_features: Any shape (B, ...), flattened to (B, D'); no gradient flows into them.

    Returns:
        Scalar in [0, 4 / B], unitless: the squared Frobenius norm over B².

    Raises:
        ValueError: If the numbers of samples differ, or features have fewer than 2 dimensions.

    References:
        Tung & Mori (2019), section 3. arXiv:1907.09682.
    """
    student, teacher = _rows(student_features, teacher_features)
    return F.mse_loss(unit(inner_products(student, student)), unit(inner_products(teacher, teacher)))


def probabilistic_transfer_loss(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    r"""Return the divergence of the student's neighbour probabilities from the teacher's (PKT).

    .. math:: \frac{1}{B^2} \sum_{i, j} t_{ij} \log \frac{t_{ij}}{s_{ij}},
        \quad p_{ij} = \frac{a_{ij}}{\sum_k a_{ik}}, \quad a_{ij} = \frac{1 + \cos(x_i, x_j)}{2}

    The paper excludes a sample from its own neighbours and sums; here the neighbours are all B, and the mean is taken.
    Affinities are clamped to the rounding of 1: those of exact opposites would diverge without bound. Features that are
    all zero have cosine 0 with all, without gradient.

    Args:
        student_features: Any shape (B, ...), flattened to (B, D).
        teacher_features: Any shape (B, ...), flattened to (B, D'); no gradient flows into them.

    Returns:
        Scalar in nats, averaged over all B² entries: the mean divergence of a sample, divided by B.

    Raises:
        ValueError: If the numbers of samples differ, or features have fewer than 2 dimensions.

    References:
        Passalis & Tefas (2018), section 3. arXiv:1803.10837.
    """
    student, teacher = (_log_affinities(rows) for rows in _rows(student_features, teacher_features))
    return (teacher.exp() * (teacher - student)).mean()


def _rows(student_features: Tensor, teacher_features: Tensor) -> tuple[Tensor, Tensor]:
    """Return both sides as rows of shape (B, D), at least fp32, the teacher's detached."""
    if student_features.ndim < 2 or teacher_features.ndim < 2 or len(student_features) != len(teacher_features):
        raise ValueError(
            "student_features and teacher_features must have shapes (B, ...) of the same B, but got "
            f"{tuple(student_features.shape)=} and {tuple(teacher_features.shape)=}."
        )
    return at_least_fp32(student_features).flatten(1), at_least_fp32(teacher_features.detach()).flatten(1)


def _relative_distances(rows: Tensor) -> Tensor:
    """Return distances between rows divided by the mean of the positive ones, shape (B, B)."""
    # Not from inner products: the distance of close rows would be rounding error only.
    points = centred(rows, dim=0)
    distances = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    positive = (distances > 0).sum()
    return distances / torch.where(positive > 0, distances.sum() / positive.clamp(min=1), math.inf)


def _angle_cosines(rows: Tensor) -> Tensor:
    """Return the cosine of the angle at j between i and k, shape (B, B, B) in the order j, i, k."""
    points = centred(rows, dim=0)
    directions = unit(points[None, :] - points[:, None])
    return inner_products(directions, directions)


def _log_affinities(rows: Tensor) -> Tensor:
    """Return the log-probability of j as a neighbour of i, shape (B, B)."""
    directions = unit(rows)
    affinities = (1 + inner_products(directions, directions)) / 2
    affinities = affinities.clamp(min=torch.finfo(rows.dtype).eps)
    return (affinities / affinities.sum(dim=1, keepdim=True)).log()
