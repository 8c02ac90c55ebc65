"""What makes a network's answers doubtful at a glance; ``harness.doctor`` looks closer."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from harness.region import Scores


def is_made_of_probabilities(logits: Tensor) -> bool:
    """Whether what should be logits, of shape (N, C), has been through a softmax already."""
    sums = logits.sum(1)
    return bool((logits >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-3)


def no_better_than_chance(scores: Scores, reached: float) -> bool:
    """Return whether a network's primary metric is no better than that of a constant answer; False where that is NaN.

    Args:
        scores: What is known of the metric on the split.
        reached: The network's value of it there.
    """
    return scores.sign * (reached - scores.chance) <= 0


def misgivings(logits: Tensor, scores: Scores | None = None, reached: float = math.nan) -> list[str]:
    """What is doubtful of a teacher, or of a student that has learnt nothing yet, a phrase each.

    Args:
        logits: Its answers to validation samples, of shape (N, C).
        scores: What is known of the primary metric on them, where the network should know the labels.
        reached: The network's value of that metric.
    """
    found = []
    if scores is not None and no_better_than_chance(scores, reached):
        found.append(
            f"has {scores.metric} {reached:.4f} on the validation split, no better than a constant answer, which has "
            f"{scores.chance:.4f}"
        )
    if is_made_of_probabilities(logits):
        found.append("gives probabilities where logits are wanted: T and the losses soften them twice")
    return found
