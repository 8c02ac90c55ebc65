"""Divergences of a student's probabilities from its teacher's other than the forward KL: reverse, mixed and skewed."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.losses._numeric import at_least_fp32


def generalized_jsd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    beta: float,
    temperature: float,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Return the generalized Jensen-Shannon divergence of student and teacher (GKD).

    .. math:: \beta \, \mathrm{KL}(p \,\|\, m) + (1 - \beta) \, \mathrm{KL}(q \,\|\, m), \quad
        m = \beta p + (1 - \beta) q, \quad p = \sigma(z_t / T), \; q = \sigma(z_s / T)

    At the ends it is defined apart, as in the paper: β = 0 is KL(teacher ‖ student), β = 1 is KL(student ‖ teacher).
    They are special cases and no limits: towards both ends the formula goes to 0, and so does its gradient.

    There is no factor T² here, unlike in :func:`soft_target_loss`; the methods multiply by it, so that the gradient's
    size stays comparable as T varies.

    Args:
        student_logits: Unnormalised scores, shape (..., C).
        teacher_logits: Scores of the same shape; no gradient flows into them. A class at -inf, which the student does
            not hold impossible, is infinitely far at β = 1.
        beta: Weight β of the teacher in the mixture, in [0, 1], unitless.
        temperature: Softening T > 0 of both, unitless.
        mask: True at the valid rows, of the shape of the logits without C; ``None`` where all are.

    Returns:
        Scalar in nats: summed over C, averaged over the valid rows; 0 where there are none.

    Raises:
        ValueError: If shapes differ, ``beta`` lies outside [0, 1] or ``temperature`` is not positive.

    References:
        Agarwal et al. (2024), GKD, equation 1. arXiv:2306.13649.
    """
    if not 0 <= beta <= 1:
        raise ValueError(f"beta must lie in [0, 1], but got {beta=}.")
    student, teacher = _log_probabilities(student_logits, teacher_logits, temperature, mask)
    if beta == 0:
        return _mean_kl(teacher, student)
    if beta == 1:
        return _mean_kl(student, teacher)
    mixture = _log_mixture(teacher, student, beta)
    return beta * _mean_kl(teacher, mixture) + (1 - beta) * _mean_kl(student, mixture)


def skewed_kl_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    skew: float,
    temperature: float,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Return the divergence of teacher from student, skewed: the student is mixed with the teacher (DistiLLM).

    .. math:: \mathrm{KL}\big(p \,\|\, \lambda p + (1 - \lambda) q\big), \quad
        p = \sigma(z_t / T), \; q = \sigma(z_s / T)

    It is at most -log λ, so that what the student holds nearly impossible gives no huge gradient. There is no factor T²
    here; the method multiplies by it.

    Args:
        student_logits: Unnormalised scores, shape (..., C).
        teacher_logits: Scores of the same shape; no gradient flows into them.
        skew: Share λ of the teacher in the mixture, in [0, 1), unitless; 0 is KL(teacher ‖ student), and the paper uses
            0.1, which it calls α.
        temperature: Softening T > 0 of both, unitless.
        mask: True at the valid rows, of the shape of the logits without C; ``None`` where all are.

    Returns:
        Scalar in nats: summed over C, averaged over the valid rows; 0 where there are none.

    Raises:
        ValueError: If shapes differ, ``skew`` lies outside [0, 1) or ``temperature`` is not positive.

    References:
        Ko et al. (2024), DistiLLM, section 3.1. arXiv:2402.03898.
    """
    if not 0 <= skew < 1:
        raise ValueError(f"skew must lie in [0, 1), but got {skew=}.")
    student, teacher = _log_probabilities(student_logits, teacher_logits, temperature, mask)
    return _mean_kl(teacher, _log_mixture(teacher, student, skew) if skew else student)


def _log_probabilities(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the logarithms of both sides' softened probabilities at the valid rows, shape (R, C)."""
    if student_logits.shape != teacher_logits.shape or not student_logits.ndim:
        raise ValueError(
            "student_logits and teacher_logits must have the same shape (..., C), but got "
            f"{tuple(student_logits.shape)} and {tuple(teacher_logits.shape)}."
        )
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, but got {temperature=}.")
    classes = student_logits.shape[-1]
    sides = [side.reshape(-1, classes) for side in (student_logits, teacher_logits.detach())]
    if mask is not None:
        if mask.shape != student_logits.shape[:-1] or mask.dtype != torch.bool:
            raise ValueError(
                "mask must be bool, one for each row of student_logits (..., C), but got "
                f"{tuple(mask.shape)} and {mask.dtype} for {tuple(student_logits.shape)}."
            )
        sides = [side[mask.flatten()] for side in sides]
    student, teacher = (F.log_softmax(at_least_fp32(side) / temperature, dim=-1) for side in sides)
    return student, teacher


def _log_mixture(teacher: Tensor, student: Tensor, share: float) -> Tensor:
    """Return log(share · teacher + (1 - share) · student), for logarithms of probabilities and 0 < share < 1."""
    impossible = (teacher == -math.inf) & (student == -math.inf)
    given, own = (side.masked_fill(impossible, 0) for side in (teacher, student))  # else the gradient is NaN
    mixed = torch.logaddexp(given + math.log(share), own + math.log1p(-share))
    return mixed.masked_fill(impossible, -math.inf)


def _mean_kl(first: Tensor, second: Tensor) -> Tensor:
    """Return KL(first ‖ second) in nats, summed over the classes, averaged over the rows; 0 of no rows.

    A class at -inf in the first adds nothing, as 0 · log 0 is 0.
    """
    impossible = first == -math.inf
    first, second = (side.masked_fill(impossible, 0) for side in (first, second))
    terms = (first.exp() * (first - second)).masked_fill(impossible, 0)
    return terms.sum() / max(1, len(first))
