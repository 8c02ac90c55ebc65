"""Scores of answers that are known beforehand: perfect ones, and constant ones."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torchmetrics import Metric

from harness.core.errors import Unfit, one_line
from harness.task import Task

_VALUES = 8_000_000  # logits that a metric is given at once


def check_metric(task: Task, labels: Tensor, classes: int) -> Metric:
    """Return a new metric of a task, on the labels' device, after checking that it scores a perfect answer.

    Args:
        task: Defines the metric.
        labels: The labels of a split, shape (N,).
        classes: Number of classes C.

    Raises:
        Unfit: If it does not return one number.
    """
    kind = "it"
    try:
        metric = task.metric(classes)
        kind = type(metric).__name__
        found = f"{kind} is no torchmetrics.Metric"
        if isinstance(metric, Metric):
            metric.to(labels.device)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for part in labels.split(max(1, _VALUES // classes)):
                    metric.update(10 * torch.nn.functional.one_hot(part, classes).float(), part)
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
    """Return the better score of two constant answers: the most frequent class, and the frequencies of all classes.

    Args:
        metric: A new metric, updated with logits (B, C) and labels (B,).
        labels: The labels of the split, shape (N,).
        classes: Number of classes C.
        sign: 1 where more of the metric is better, -1 where less is.

    Returns:
        The score; NaN where the metric can't score either.
    """
    counts = torch.bincount(labels.flatten(), minlength=classes).float()
    alone = torch.zeros(classes, device=labels.device)
    alone[counts.argmax()] = 1.0
    frequent = (counts / counts.sum()).clamp_min(1e-6).log()

    def constant(row: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda part: row.repeat(len(part), 1)

    scores = [scored(metric, constant(row), labels, classes) for row in (alone, frequent)]
    found = [score for score in scores if math.isfinite(score)]
    return sign * max(sign * score for score in found) if found else math.nan


def scored(metric: Metric, answer: Callable[[Tensor], Tensor], labels: Tensor, classes: int) -> float:
    """Score answers that are made from the labels; NaN where the metric raises, as one of ranks may for constants.

    Args:
        metric: Updated with logits (B, C) and labels (B,); it is reset before and after.
        answer: Gives the logits (B, C) of labels (B,).
        labels: The labels, shape (N,).
        classes: Number of classes C.
    """
    value = math.nan
    metric.reset()
    with warnings.catch_warnings(), contextlib.suppress(Exception):
        warnings.simplefilter("ignore")
        for part in labels.split(max(1, _VALUES // classes)):
            metric.update(answer(part), part)
        value = float(metric.compute())
    metric.reset()
    return value
