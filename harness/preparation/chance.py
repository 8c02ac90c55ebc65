"""What a metric gives for an answer that knows nothing of the sample: the level of chance."""

from __future__ import annotations

import contextlib
import math
import warnings

import torch
from torch import Tensor
from torchmetrics import Metric


def chance_level(metric: Metric, labels: Tensor, classes: int, *, sign: int) -> float:
    """Return the better of two constant answers: the most frequent class alone, and every class as frequent as it is.

    Args:
        metric: A new metric, updated with logits (B, C) and labels (B,).
        labels: The labels of the split, shape (N,).
        classes: Number of classes C.
        sign: 1 where more of the metric is better, -1 where less is.

    Returns:
        NaN where the metric can't be had of either.
    """
    counts = torch.bincount(labels.flatten(), minlength=classes).float()
    alone = torch.zeros(classes, device=labels.device)
    alone[counts.argmax()] = 1.0
    frequent = (counts / counts.sum()).clamp_min(1e-6).log()
    found = [
        score
        for row in (alone, frequent)
        if math.isfinite(score := _scored(metric, row.expand(len(labels), -1), labels))
    ]
    return sign * max(sign * score for score in found) if found else math.nan


def _scored(metric: Metric, logits: Tensor, labels: Tensor) -> float:
    """Score logits, or return NaN: a metric of ranks, say, may refuse answers that are all the same."""
    metric.reset()
    with warnings.catch_warnings(), contextlib.suppress(Exception):
        warnings.simplefilter("ignore")
        metric.update(logits.contiguous(), labels)
        return float(metric.compute())
    return math.nan
