"""Contrastive losses: compare embeddings of a sample with those of other samples."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from lightning_modules.losses._numeric import at_least_fp32, inner_products, unit


def contrastive_representation_loss(
    student_embeddings: Tensor,
    teacher_embeddings: Tensor,
    negatives: Tensor,
    *,
    temperature: float,
    samples: int,
) -> Tensor:
    r"""Return the noise-contrastive loss of the student's embedding and the teacher's of the same and other samples.

    .. math:: -\log h(s, t) - \sum_{k=1}^{K} \log\big(1 - h(s, t_k)\big),
        \quad h(s, t) = \frac{e^{s \cdot t / T}}{e^{s \cdot t / T} + K / N}

    Embeddings are scaled to length 1; a zero embedding stays zero, without gradient. The temperature divides cosines,
    not logits: the paper uses 0.1 on CIFAR-100, with K = 16,384. The authors add the same loss with the sides
    exchanged, the teacher's embedding against the student's of other samples; it is left out, for those would be stale.
    The embedding of the teacher's features is learned too, so gradients flow into both sides and the negatives: detach
    the embedded features, or store them.

    The negatives take B · K · D · 4 bytes, 134 MB for 64 samples with 4,096 negatives of 128 numbers, and a few times
    that during normalization. The paper's memory bank of embeddings is not needed: a frozen teacher's features are
    stored for all samples, and negatives are rows of them.

    Args:
        student_embeddings: Shape (B, D).
        teacher_embeddings: Of the same samples, shape (B, D).
        negatives: The teacher's embeddings of K ≥ 1 other samples for each of the B, shape (B, K, D).
        temperature: T > 0, unitless.
        samples: Number N ≥ 1 of samples in the dataset that the negatives are drawn from.

    Returns:
        Scalar in nats: summed over the K negatives, averaged over B.

    Raises:
        ValueError: If the shapes do not fit, or ``temperature`` or ``samples`` is not positive.

    References:
        Tian, Krishnan & Isola (2020), section 3. arXiv:1910.10699.
    """
    batch, width = student_embeddings.shape[:1], student_embeddings.shape[1:]
    if (
        student_embeddings.ndim != 2
        or teacher_embeddings.shape != student_embeddings.shape
        or negatives.ndim != 3
        or negatives.shape[:1] + negatives.shape[2:] != batch + width
        or not negatives.shape[1]
    ):
        raise ValueError(
            "student_embeddings and teacher_embeddings must have the same shape (B, D), and negatives (B, K, D) with K "
            f"at least 1, but got {tuple(student_embeddings.shape)=}, {tuple(teacher_embeddings.shape)=} and "
            f"{tuple(negatives.shape)=}."
        )
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, but got {temperature=}.")
    if not samples > 0:
        raise ValueError(f"samples must be positive, but got {samples=}.")
    student = unit(at_least_fp32(student_embeddings))[:, None]
    positive = unit(at_least_fp32(teacher_embeddings))[:, None]
    negative = unit(at_least_fp32(negatives))
    # h is a sigmoid, whose logarithm is exact even where h rounds to 0 or 1.
    log_noise = math.log(negatives.shape[1] / samples)
    log_same = F.logsigmoid(inner_products(student, positive) / temperature - log_noise)
    log_other = F.logsigmoid(log_noise - inner_products(student, negative) / temperature)
    return -(log_same.sum() + log_other.sum()) / len(student)
