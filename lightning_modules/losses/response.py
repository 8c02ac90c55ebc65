"""What a network answers: losses of logits."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from lightning_modules.losses._numeric import at_least_fp32


def hard_label_loss(student_logits: Tensor, labels: Tensor) -> Tensor:
    r"""Cross-entropy of the student with the true labels.

    .. math:: -\log \sigma(z_s)_y

    Args:
        student_logits: Unnormalised scores, shape (B, C).
        labels: Class indices in [0, C), shape (B,), int64.

    Returns:
        Scalar in nats, averaged over B.

    Raises:
        ValueError: If the shapes do not fit.
    """
    if student_logits.ndim != 2 or labels.shape != student_logits.shape[:1]:
        raise ValueError(
            "labels must be one class index for each row of student_logits (B, C), but got "
            f"{tuple(labels.shape)=} and {tuple(student_logits.shape)=}."
        )
    return F.cross_entropy(at_least_fp32(student_logits), labels)


def soft_target_loss(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float) -> Tensor:
    r"""Divergence of the student from the teacher's soft targets.

    .. math:: T^2 \, \mathrm{KL}\big(\sigma(z_t / T) \,\|\, \sigma(z_s / T)\big)

    The factor T² keeps the gradient's size comparable as T varies.

    Args:
        student_logits: Unnormalised scores, shape (B, C).
        teacher_logits: Scores, shape (B, C); no gradient flows into them.
        temperature: Softening T > 0, unitless.

    Returns:
        Scalar in nats: summed over C, averaged over B.

    Raises:
        ValueError: If the shapes differ or ``temperature`` is not positive.

    References:
        Hinton, Vinyals & Dean (2015), section 2. arXiv:1503.02531.
    """
    if student_logits.ndim != 2 or student_logits.shape != teacher_logits.shape:
        raise ValueError(
            "student_logits and teacher_logits must have the same shape (B, C), but got "
            f"{tuple(student_logits.shape)=} and {tuple(teacher_logits.shape)=}."
        )
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, but got {temperature=}.")
    student = F.log_softmax(at_least_fp32(student_logits) / temperature, dim=-1)
    teacher = F.log_softmax(at_least_fp32(teacher_logits.detach()) / temperature, dim=-1)
    # "batchmean" sums over the classes; "mean" would shrink the term by their number.
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    alpha: float,
    temperature: float,
) -> Tensor:
    r"""The weighted sum of the hard-label loss and the soft-target loss.

    .. math:: \alpha \, \mathrm{CE} + (1 - \alpha) \, T^2 \, \mathrm{KL}

    Alpha weighs the **hard labels**: 1 is plain training, 0 is the teacher alone. Other projects (DeiT, KD_Lib) mean
    the opposite; translate their recipes before use.

    Args:
        student_logits: Unnormalised scores, shape (B, C).
        teacher_logits: Scores, shape (B, C); no gradient flows into them.
        labels: Class indices, shape (B,), int64.
        alpha: Weight of the hard-label loss, in [0, 1].
        temperature: Softening T > 0, unitless; reaches the soft targets alone.

    Returns:
        Scalar in nats, averaged over B; linear, and so continuous, in alpha over [0, 1].

    Raises:
        ValueError: If the shapes differ, ``alpha`` lies outside [0, 1] or ``temperature`` is not positive.

    References:
        Hinton, Vinyals & Dean (2015), section 2. arXiv:1503.02531.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie in [0, 1], but got {alpha=}.")
    hard_loss = hard_label_loss(student_logits, labels)
    soft_loss = soft_target_loss(student_logits, teacher_logits, temperature=temperature)
    return alpha * hard_loss + (1 - alpha) * soft_loss
