"""Losses of logits."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.losses._numeric import at_least_fp32, centred, kl_divergence, unit


def hard_label_loss(student_logits: Tensor, labels: Tensor) -> Tensor:
    r"""Return the cross-entropy of the student with the true labels.

    .. math:: -\log \sigma(z_s)_y

    For mixed samples or soft labels, the targets are class probabilities q:
    :math:`-\sum_c q_c \log \sigma(z_s)_c`.

    Args:
        student_logits: Unnormalised scores, shape (B, C).
        labels: Class indices in [0, C), shape (B,), int64; or probabilities of the classes, shape (B, C), floats.

    Returns:
        Scalar in nats, averaged over B.

    Raises:
        ValueError: If the shapes do not fit.
    """
    _check_targets(student_logits, labels)
    return _cross_entropy(F.log_softmax(at_least_fp32(student_logits), dim=-1), labels)


def soft_target_loss(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float) -> Tensor:
    r"""Return the divergence of the student from the teacher's soft targets.

    .. math:: T^2 \, \mathrm{KL}\big(\sigma(z_t / T) \,\|\, \sigma(z_s / T)\big)

    The factor T² keeps the gradient's size comparable as T varies. A class with a teacher logit of -inf (masked) adds
    nothing, as 0 · log 0 is 0.

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
    _check_logits(student_logits, teacher_logits=teacher_logits)
    _check_temperature(temperature)
    student = F.log_softmax(at_least_fp32(student_logits) / temperature, dim=-1)
    teacher = F.log_softmax(at_least_fp32(teacher_logits.detach()) / temperature, dim=-1)
    return kl_divergence(student, teacher) * temperature**2


def distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    alpha: float,
    temperature: float,
) -> Tensor:
    r"""Return the weighted sum of the hard-label loss and the soft-target loss.

    .. math:: \alpha \, \mathrm{CE} + (1 - \alpha) \, T^2 \, \mathrm{KL}

    Alpha weighs the **hard labels**: 1 is plain training, 0 is the teacher alone. Other projects (DeiT, KD_Lib) mean
    the opposite; convert their recipes before use.

    Args:
        student_logits: Unnormalised scores, shape (B, C).
        teacher_logits: Scores, shape (B, C); no gradient flows into them.
        labels: Class indices, shape (B,), int64.
        alpha: Weight of the hard-label loss, in [0, 1].
        temperature: Softening T > 0, unitless; applies to the soft targets only.

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


def smoothed_label_loss(student_logits: Tensor, labels: Tensor, *, smoothing: float) -> Tensor:
    r"""Return the cross-entropy of the student with smoothed labels.

    .. math:: -\sum_c q_c \log \sigma(z_s)_c, \quad q_c = (1 - \varepsilon) \, [c = y] + \varepsilon / C

    C counts the possible classes: a class with a logit of -inf (masked) gets no share.

    Args:
        student_logits: Unnormalised scores, shape (B, C).
        labels: Class indices in [0, C), shape (B,), int64; or probabilities of the classes, shape (B, C), floats.
        smoothing: Probability ε in [0, 1) that is moved from the label to all C classes, unitless; 0 is
            :func:`hard_label_loss`.

    Returns:
        Scalar in nats, averaged over B; at least the entropy of q.

    Raises:
        ValueError: If the shapes do not fit or ``smoothing`` lies outside [0, 1).

    References:
        Szegedy et al. (2016), section 7. arXiv:1512.00567.
    """
    _check_targets(student_logits, labels)
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing must lie in [0, 1), but got {smoothing=}.")
    log_probabilities = F.log_softmax(at_least_fp32(student_logits), dim=-1)
    impossible = log_probabilities == -math.inf
    shared = log_probabilities.masked_fill(impossible, 0).sum(dim=1) / (~impossible).sum(dim=1)
    return (1 - smoothing) * _cross_entropy(log_probabilities, labels) - smoothing * shared.mean()


def self_distillation_loss(student_logits: Tensor, earlier_logits: Tensor, labels: Tensor, *, trust: float) -> Tensor:
    r"""Return the cross-entropy of the student with labels softened by its own earlier predictions (PS-KD).

    .. math:: -\sum_c q_c \log \sigma(z_s)_c, \quad q_c = (1 - \alpha) \, [c = y] + \alpha \, \sigma(z_e)_c

    There is no temperature. In the paper the trust α grows with the epochs, from 0 to 0.8 in the last.

    Args:
        student_logits: Unnormalised scores, shape (B, C).
        earlier_logits: The student's own scores of the same samples in the previous epoch, shape (B, C); no gradient
            flows into them.
        labels: Class indices in [0, C), shape (B,), int64.
        trust: Weight α of the earlier predictions in [0, 1], unitless; 0 is :func:`hard_label_loss`.

    Returns:
        Scalar in nats, averaged over B; at least the entropy of q.

    Raises:
        ValueError: If the shapes do not fit or ``trust`` lies outside [0, 1].

    References:
        Kim et al. (2021), PS-KD, section 3. arXiv:2006.12000.
    """
    _check_logits(student_logits, earlier_logits=earlier_logits)
    _check_labels(student_logits, labels)
    if not 0 <= trust <= 1:
        raise ValueError(f"trust must lie in [0, 1], but got {trust=}.")
    student = at_least_fp32(student_logits)
    earlier = at_least_fp32(earlier_logits.detach()).softmax(dim=-1)
    log_probabilities = F.log_softmax(student, dim=-1).masked_fill(earlier == 0, 0)  # 0 · log 0 is 0
    # Linear in the target, so the labels need no one-hot rows.
    return (1 - trust) * F.cross_entropy(student, labels) - trust * (earlier * log_probabilities).sum(dim=1).mean()


def decoupled_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    temperature: float,
    target_weight: float,
    non_target_weight: float,
) -> Tensor:
    r"""Return the soft-target loss in two parts: target class against the rest, and non-target classes (DKD).

    .. math:: T^2 \big( \alpha \, \mathrm{KL}(b_t \,\|\, b_s) + \beta \, \mathrm{KL}(\hat{p}_t \,\|\, \hat{p}_s) \big)

    With p = σ(z / T), b is (p of the label y, 1 - that), and p̂ are the probabilities of the other classes, scaled to
    sum to 1. In :func:`soft_target_loss`, α is 1 and β is the teacher's 1 - p of the label, so a confident teacher
    suppresses the second part. Here both weights are free.

    Args:
        student_logits: Unnormalised scores, shape (B, C), C at least 3.
        teacher_logits: Scores, shape (B, C); no gradient flows into them.
        labels: Class indices in [0, C), shape (B,), int64.
        temperature: Softening T > 0, unitless; applies to both parts.
        target_weight: α at least 0, unitless; the paper uses 1.
        non_target_weight: β at least 0, unitless; the paper uses 8 for a ResNet32×4 on CIFAR-100, less for others.

    Returns:
        Scalar in nats, averaged over B.

    Raises:
        ValueError: If the shapes do not fit, there are fewer than 3 classes, ``temperature`` is not positive or a
            weight is negative.

    References:
        Zhao et al. (2022), DKD, section 3. arXiv:2203.08679.
    """
    _check_logits(student_logits, teacher_logits=teacher_logits)
    _check_labels(student_logits, labels)
    _check_temperature(temperature)
    _check_weights(target_weight=target_weight, non_target_weight=non_target_weight)
    if student_logits.shape[1] < 3:
        raise ValueError(
            "student_logits must have at least 3 classes, as a single class beside the label leaves the non-target "
            f"term undefined, but got {tuple(student_logits.shape)=}; use soft_target_loss."
        )
    student_target, student_rest = _decoupled(at_least_fp32(student_logits) / temperature, labels)
    teacher_target, teacher_rest = _decoupled(at_least_fp32(teacher_logits.detach()) / temperature, labels)
    target = kl_divergence(student_target, teacher_target)
    non_target = kl_divergence(student_rest, teacher_rest)
    return temperature**2 * (target_weight * target + non_target_weight * non_target)


def correlation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float,
    inter_weight: float,
    intra_weight: float,
) -> Tensor:
    r"""Return one minus the Pearson correlation of student and teacher soft targets, within samples and classes (DIST).

    .. math:: T^2 \Big( \frac{\beta}{B} \sum_b \big(1 - \rho(p_{b \cdot}, q_{b \cdot})\big)
        + \frac{\gamma}{C} \sum_c \big(1 - \rho(p_{\cdot c}, q_{\cdot c})\big) \Big)

    With p = σ(z_s / T), q = σ(z_t / T) and Pearson's ρ, over the classes of a sample (inter-class relation) and over
    the samples of a class (intra-class relation). The factor T² is this project's, so that the balance with the labels
    does not depend on T; the paper has none. If a row or a column is constant, as in a batch of one, its correlation
    counts as 0, without gradient.

    Args:
        student_logits: Unnormalised scores, shape (B, C).
        teacher_logits: Scores, shape (B, C); no gradient flows into them.
        temperature: Softening T > 0, unitless.
        inter_weight: β at least 0, unitless.
        intra_weight: γ at least 0, unitless; the paper uses γ = β.

    Returns:
        Scalar in [0, 2 T² (β + γ)], unitless, averaged over the B rows and the C columns.

    Raises:
        ValueError: If the shapes differ, ``temperature`` is not positive or a weight is negative.

    References:
        Huang et al. (2022), DIST, equations 8 and 9. arXiv:2205.10536.
    """
    _check_logits(student_logits, teacher_logits=teacher_logits)
    _check_temperature(temperature)
    _check_weights(inter_weight=inter_weight, intra_weight=intra_weight)
    student = (at_least_fp32(student_logits) / temperature).softmax(dim=-1)
    teacher = (at_least_fp32(teacher_logits.detach()) / temperature).softmax(dim=-1)
    inter = 1 - _correlations(student, teacher, dim=1).mean()
    intra = 1 - _correlations(student, teacher, dim=0).mean()
    return temperature**2 * (inter_weight * inter + intra_weight * intra)


def standardized_soft_target_loss(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float) -> Tensor:
    r"""Return the soft-target loss of logits in units of their own standard deviation.

    .. math:: T^2 \, \mathrm{KL}\Big(\sigma\big(\tfrac{z_t - \bar{z}_t}{T \, \mathrm{sd}(z_t)}\big) \,\Big\|\,
        \sigma\big(\tfrac{z_s - \bar{z}_s}{T \, \mathrm{sd}(z_s)}\big)\Big)

    A small student need not match the scale of its teacher's logits, only their relations. Mean and sample standard
    deviation (over C - 1, as in the authors' code) are those of each row. The authors add 1e-7 to the latter; here
    nothing is added, and a row of equal logits is standardized to zeros, without gradient. Standardizing two logits
    leaves only their order, so two classes have no gradient either.

    Args:
        student_logits: Unnormalised scores, shape (B, C).
        teacher_logits: Scores, shape (B, C); no gradient flows into them.
        temperature: Softening T > 0 of standardized logits, unitless: 2 softens as 2 standard deviations do.

    Returns:
        Scalar in nats: summed over C, averaged over B.

    Raises:
        ValueError: If the shapes differ or ``temperature`` is not positive.

    References:
        Sun et al. (2024), section 4. arXiv:2403.01427.
    """
    _check_logits(student_logits, teacher_logits=teacher_logits)
    return soft_target_loss(_standardized(student_logits), _standardized(teacher_logits), temperature=temperature)


def _decoupled(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return log-probabilities of (label, not label), shape (B, 2), and of the other classes, shape (B, C - 1)."""
    target = labels[:, None]
    others = torch.arange(logits.shape[1] - 1, device=logits.device).expand(len(logits), -1)
    rest = logits.gather(1, others + (others >= target))
    odds = logits.gather(1, target) - rest.logsumexp(dim=1, keepdim=True)
    return F.logsigmoid(torch.cat([odds, -odds], dim=1)), rest.log_softmax(dim=1)


def _correlations(student: Tensor, teacher: Tensor, dim: int) -> Tensor:
    """Return Pearson's correlation along ``dim``; 0 where a side is constant."""
    return (unit(centred(student, dim), dim) * unit(centred(teacher, dim), dim)).sum(dim)


def _standardized(logits: Tensor) -> Tensor:
    """Standardize rows over their possible classes; a row of equal logits becomes zeros."""
    logits = at_least_fp32(logits)
    impossible = logits == -math.inf
    possible = (~impossible).sum(dim=1, keepdim=True)
    means = logits.masked_fill(impossible, 0).sum(dim=1, keepdim=True) / possible
    # Set to the mean of the others, an impossible class changes neither mean nor deviation.
    deviations = unit(centred(torch.where(impossible, means, logits), dim=1))
    return (deviations * (possible - 1).to(logits).sqrt()).masked_fill(impossible, -math.inf)


def _check_logits(student_logits: Tensor, **others: Tensor) -> None:
    for name, logits in others.items():
        if student_logits.ndim != 2 or student_logits.shape != logits.shape:
            raise ValueError(
                f"student_logits and {name} must have the same shape (B, C), but got "
                f"{tuple(student_logits.shape)} and {tuple(logits.shape)}."
            )


def _cross_entropy(log_probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy with class indices (B,) or probabilities (B, C); probability 0 adds nothing."""
    if not labels.is_floating_point():
        return F.nll_loss(log_probabilities, labels)
    return -(labels * torch.where(labels > 0, log_probabilities, 0)).sum(dim=1).mean()


def _check_targets(student_logits: Tensor, labels: Tensor) -> None:
    if not labels.is_floating_point():
        _check_labels(student_logits, labels)
    elif student_logits.ndim != 2 or labels.shape != student_logits.shape:
        raise ValueError(
            "targets must hold a probability for each of student_logits (B, C), but got "
            f"{tuple(labels.shape)=} and {tuple(student_logits.shape)=}."
        )


def _check_labels(student_logits: Tensor, labels: Tensor) -> None:
    if student_logits.ndim != 2 or labels.shape != student_logits.shape[:1]:
        raise ValueError(
            "labels must be one class index for each row of student_logits (B, C), but got "
            f"{tuple(labels.shape)=} and {tuple(student_logits.shape)=}."
        )


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, but got {temperature=}.")


def _check_weights(**weights: float) -> None:
    for name, weight in weights.items():
        if not weight >= 0:
            raise ValueError(f"{name} must be at least 0, but got {name}={weight}.")
