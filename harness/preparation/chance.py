"""What a metric gives for answers that are known beforehand: perfect ones, and ones that know nothing of a sample."""

from __future__ import annotations

import contextlib
import math
import warnings

import torch
from torch import Tensor
from torchmetrics import Metric

from harness.errors import Unfit, one_line
from harness.task import Task


def check_metric(task: Task, labels: Tensor, classes: int) -> Metric:
    """Return a new metric of a task, on the labels' device, that was seen to give one number for a perfect answer.

    Args:
        task: Gives the metric.
        labels: The labels of a split, shape (N,).
        classes: Number of classes C.

    Raises:
        Unfit: If it gives none.
    """
    kind = "it"
    try:
        metric = task.metric(classes)
        kind = type(metric).__name__
        found = f"{kind} is no torchmetrics.Metric"
        if isinstance(metric, Metric):
            metric.to(labels.device)
            right = torch.zeros(len(labels), classes, device=labels.device).scatter_(1, labels[:, None], 10.0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                metric.update(right, labels)
                value = metric.compute()
            if not isinstance(value, Tensor) or value.numel() == 1:
                float(value)
                metric.reset()
                return metric
            found = f"{kind} gives a tensor of shape {tuple(value.shape)}"
    except Exception as error:
        found = f"{kind} fails: {type(error).__name__}: {one_line(error)}"
    raise Unfit(
        f"metric({classes}) must give one number for logits of shape ({len(labels)}, {classes}) and labels of shape "
        f"({len(labels)},), but {found}",
        f"take one that averages over classes, e.g. MulticlassAUROC(num_classes={classes}, average='macro')",
    )


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
