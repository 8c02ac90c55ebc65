"""Scores of answers that are known beforehand: perfect ones, and constant ones."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torchmetrics import Metric

from harness.core.errors import Unfit, one_line
from harness.task import Task, make_metrics
from lightning_modules.outputs import Output

_VALUES = 8_000_000  # logits that a metric is given at once


def check_metrics(task: Task, labels: Tensor, classes: int) -> Metric:
    """Return a new primary metric of a task, on the labels' device, after checking that each scores a perfect answer.

    Args:
        task: Defines the metrics.
        labels: The labels of a split, first dimension N.
        classes: Number of classes C, labels or values of the output.

    Raises:
        Unfit: If one does not return one number.
    """
    what = f"metric({classes})"
    try:
        metrics = make_metrics(task, classes)
    except Exception as error:
        found = f"it fails: {type(error).__name__}: {one_line(error)}"
        raise _no_number(what, found, task.output, labels, classes) from error
    for name, metric in metrics.items():
        what = f"metric({classes})" if len(metrics) == 1 else f"metric {name!r}"
        if fault := _metric_fault(metric, task.output, labels, classes):
            raise _no_number(what, fault, task.output, labels, classes)
    return next(iter(metrics.values()))


def _metric_fault(metric: Any, output: Output, labels: Tensor, classes: int) -> str | None:
    """Return why a metric does not give one number for a perfect answer; ``None`` if it does."""
    kind = type(metric).__name__
    if not isinstance(metric, Metric):
        return f"{kind} is no torchmetrics.Metric"
    try:
        metric.to(labels.device)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for part in labels.split(_samples_at_once(output, labels, classes)):
                _update(metric, output, output.perfect(part, classes), part)
            value = metric.compute()
        if isinstance(value, Tensor) and value.numel() != 1:
            return f"{kind} gives a tensor of shape {tuple(value.shape)}"
        float(value)
        metric.reset()
    except Exception as error:
        return f"{kind} fails: {type(error).__name__}: {one_line(error)}"
    return None


def _update(metric: Metric, output: Output, answers: Tensor, labels: Tensor) -> None:
    """Update a metric, unless nothing of these samples has a label."""
    scored, known = output.metric_inputs(answers, labels)
    if len(known):
        metric.update(scored, known)


def _no_number(what: str, found: str, output: Output, labels: Tensor, classes: int) -> Unfit:
    return Unfit(
        f"{what} must give one number for outputs of shape {output.output_shape(labels, classes)} and labels of shape "
        f"{tuple(labels.shape)}, but {found}",
        f"take one that averages over classes, e.g. MulticlassAUROC(num_classes={classes}, average='macro')",
    )


def _samples_at_once(output: Output, labels: Tensor, classes: int) -> int:
    """Return the number of samples whose outputs are made at once."""
    return max(1, _VALUES // math.prod(output.output_shape(labels[:1], classes)))


def chance_level(metric: Metric, output: Output, labels: Tensor, classes: int, *, sign: int) -> float:
    """Return the best score of constant answers, as the most frequent class, or the frequencies of all classes.

    Args:
        metric: A new metric.
        output: The output kind.
        labels: The labels of the split, first dimension N.
        classes: Number of classes C, labels or values of the output.
        sign: 1 where more of the metric is better, -1 where less is.

    Returns:
        The score; NaN where the metric can't score any.
    """

    def constant(row: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda part: row.expand(len(part), *row.shape)

    rows = output.constants(labels, classes)
    scores = [scored(metric, constant(row), output, labels, classes) for row in rows]
    found = [score for score in scores if math.isfinite(score)]
    return sign * max(sign * score for score in found) if found else math.nan


def scored(metric: Metric, answer: Callable[[Tensor], Tensor], output: Output, labels: Tensor, classes: int) -> float:
    """Score answers that are made from the labels; NaN where the metric raises, as one of ranks may for constants.

    Args:
        metric: It is reset before and after.
        answer: Gives the output for labels.
        output: The output kind.
        labels: The labels, first dimension N.
        classes: Number of classes C, labels or values of the output.
    """
    value = math.nan
    metric.reset()
    with warnings.catch_warnings(), contextlib.suppress(Exception):
        warnings.simplefilter("ignore")
        for part in labels.split(_samples_at_once(output, labels, classes)):
            _update(metric, output, answer(part), part)
        value = float(metric.compute())
    metric.reset()
    return value
