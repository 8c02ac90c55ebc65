"""Scores of a network: the task's metrics, and how close its answers are to the teacher's."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from harness.core.metric import SplitLogits
from harness.metrics import METRICS
from harness.preparation.chance import chance_level, check_metrics
from harness.preparation.metric_limits import limits_of
from harness.region import Scores, sign_of
from harness.space import SearchSpace
from harness.task import Task, make_metrics, primary_metric
from harness.training.predictions import Comparer
from lightning_modules.data.stored_top_k import StoredTopK
from lightning_modules.data.tensors import TensorDataModule
from lightning_modules.outputs import Output
from lightning_modules.top_k import TopKLogits

_VALUES = 8_000_000  # logits that are scored at once


def scores_of(task: Task, data: TensorDataModule, classes: int) -> Scores:
    """Return what is known of the primary metric on the validation split before any network is scored.

    Raises:
        Unfit: If the metric returns no number for a perfect answer.
    """
    sign, labels = sign_of(task), data.splits["val"].labels
    metric = check_metrics(task, labels, classes)
    return Scores(
        metric=primary_metric(task).name,
        sign=sign,
        bounds=limits_of(metric, task.output, labels, classes),
        chance=chance_level(metric, task.output, labels, classes, sign=sign),
        samples=len(labels),
    )


@torch.no_grad()
def score(
    answers: Iterable[Tensor],
    data: TensorDataModule,
    space: SearchSpace,
    classes: int,
    *,
    split: str = "val",
    comparer: Comparer | None = None,
    is_teacher: bool = False,
) -> dict[str, float]:
    """Score a network on a split by the task's metrics and by every declared metric that has a score.

    Answers are scored part by part: logits of a split with many classes are never in memory together.

    Args:
        answers: The network's outputs for the samples of the split in order, in parts, first dimension of each B.
        data: The data, with the teacher's outputs.
        space: Its task defines the metrics.
        classes: Number of classes C, labels or values of the output.
        split: Name of the split.
        comparer: Is given each part beside the teacher's too, where the output has classes; ``None`` for none.
        is_teacher: Whether the answers are the teacher's, which are compared with themselves.

    Returns:
        Scores by name, the primary metric first. Where the output has no classes, those that compare them are absent.
    """
    output, labels, done = space.task.output, data.splits[split].labels, 0
    metrics = {name: metric.to(labels.device) for name, metric in make_metrics(space.task, classes).items()}
    values: dict[str, list[Tensor]] = {name: [] for name, one in METRICS.items() if one.score and output.has_classes}
    for logits in answers:
        here = slice(done, done + len(logits))
        done += len(logits)
        scored, known = output.metric_inputs(logits, labels[here])
        if not len(known):  # nothing of these samples has a label
            continue
        for metric in metrics.values():
            metric.update(scored, known)
        if output.has_classes:
            theirs = logits if is_teacher else data.teacher_outputs[split]["logits"][here]
            rows = _in_rows(logits, theirs, labels[here], output, classes)
            for name, found in values.items():
                found.append(METRICS[name].of_rows(rows))
            if comparer is not None:
                comparer.add(rows.student, rows.teacher, rows.labels)
    scores = {name: float(metric.compute()) for name, metric in metrics.items()}
    return scores | {name: METRICS[name].of_values(torch.cat(found)) for name, found in values.items()}


def teacher_scores(data: TensorDataModule, space: SearchSpace, classes: int, *, split: str = "val") -> dict[str, float]:
    """Return the scores of the teacher's stored outputs on a split; arguments as of ``score``."""
    stored, labels = data.teacher_outputs[split]["logits"], data.splits[split].labels
    parts = (part.to(labels.device) for part in _parts_of(stored, space.task.output.size_axis))
    return score(parts, data, space, classes, split=split, is_teacher=True)


def _parts_of(stored: Tensor | StoredTopK, size_axis: int) -> Iterator[Tensor]:
    """Yield stored outputs in order, some samples at a time; of many classes as far as they are known."""
    size = max(1, _VALUES // math.prod(stored.shape[1:]))
    for first in range(0, len(stored), size):
        part = stored[first : first + size]
        yield part if isinstance(part, Tensor) else part.dense().movedim(-1, size_axis)


def mean_of_folds(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each score over folds; one that is missing in some fold is left out."""
    names = [name for name in scores[0] if all(name in one for one in scores)]
    return {name: fmean(one[name] for one in scores) for name in names}


def _in_rows(logits: Tensor, theirs: Tensor | TopKLogits, labels: Tensor, output: Output, classes: int) -> SplitLogits:
    """Return what a network and its teacher answer on some samples, as rows of logits."""
    rows, known = output.rows_of(logits, labels)
    of_teacher: Any = theirs.to(logits.device) if isinstance(theirs, TopKLogits) else theirs
    return SplitLogits(rows, output.rows_of(of_teacher, labels)[0], known, output.row_classes(classes))
