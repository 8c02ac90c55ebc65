"""What makes a network's answers doubtful at a glance; ``harness.doctor`` looks closer."""

from __future__ import annotations

import torch
from torch import Tensor


def is_made_of_probabilities(logits: Tensor) -> bool:
    """Whether what should be logits, of shape (N, C), has been through a softmax already."""
    sums = logits.sum(1)
    return bool((logits >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-3)


def share_right(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """How often logits of shape (N, C) name the label, and how often the most frequent label alone would."""
    right, frequent = (logits.argmax(1) == labels).sum(), torch.bincount(labels).max()
    return int(right) / len(labels), int(frequent) / len(labels)


def misgivings(logits: Tensor, labels: Tensor | None = None) -> list[str]:
    """What is doubtful of a teacher, or of a student that has learnt nothing yet, a phrase each.

    Args:
        logits: Its answers to validation samples, of shape (N, C).
        labels: The true ones, of shape (N,), where it should know them.
    """
    found = []
    if labels is not None:
        right, frequent = share_right(logits, labels)
        if right <= frequent:
            found.append(
                f"is right on {right:.0%} of the validation samples, and always the most frequent label on "
                f"{frequent:.0%}"
            )
    if is_made_of_probabilities(logits):
        found.append("gives probabilities where logits are wanted: T and the losses soften them twice")
    return found
