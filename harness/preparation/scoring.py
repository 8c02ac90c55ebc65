"""Scores of a network: the task's metrics, and how close its answers are to the teacher's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from torch import Tensor

from harness.core.metric import SplitLogits
from harness.metrics import METRICS
from harness.preparation.chance import chance_level, check_metrics
from harness.preparation.metric_limits import limits_of
from harness.region import Scores, sign_of
from harness.space import SearchSpace
from harness.task import Task, make_metrics, primary_metric
from lightning_modules.data.tensors import TensorDataModule
from lightning_modules.outputs import Output


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


def score(
    logits: Tensor, data: TensorDataModule, space: SearchSpace, classes: int, *, split: str = "val"
) -> dict[str, float]:
    """Score a network on a split by the task's metrics and by every declared metric that has a score.

    Args:
        logits: The network's output for every sample of the split in order, first dimension N.
        data: The data, with the teacher's outputs.
        space: Its task defines the metrics.
        classes: Number of classes C, labels or values of the output.
        split: Name of the split.

    Returns:
        Scores by name, the primary metric first. Where the output has no classes, those that compare them are absent.
    """
    labels, output = data.splits[split].labels, space.task.output
    scored = output.metric_inputs(logits, labels)
    scores = {
        name: float(metric.to(logits.device)(*scored)) for name, metric in make_metrics(space.task, classes).items()
    }
    if not output.has_classes:
        return scores
    answers = answers_in_rows(logits, data, output, classes, split=split)
    return scores | {name: declared.of_answers(answers) for name, declared in METRICS.items() if declared.score}


def teacher_scores(data: TensorDataModule, space: SearchSpace, classes: int, *, split: str = "val") -> dict[str, float]:
    """Return the scores of the teacher's stored outputs on a split; arguments as of ``score``."""
    return score(data.teacher_outputs[split]["logits"], data, space, classes, split=split)


def mean_of_folds(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each score over folds; one that is missing in some fold is left out."""
    names = [name for name in scores[0] if all(name in one for one in scores)]
    return {name: fmean(one[name] for one in scores) for name in names}


def answers_in_rows(logits: Tensor, data: TensorDataModule, output: Output, classes: int, *, split: str) -> SplitLogits:
    """Return what a network and its teacher answer on a split, as rows of logits.

    Args:
        logits: The network's output for every sample of the split in order, first dimension N.
        data: The data, with the teacher's outputs.
        output: The output kind, which has classes.
        classes: Number of classes C, or labels, of the output.
        split: Name of the split.
    """
    rows, labels = output.rows_of(logits, data.splits[split].labels)
    theirs, _ = output.rows_of(data.teacher_outputs[split]["logits"], data.splits[split].labels)
    return SplitLogits(rows, theirs, labels, output.row_classes(classes))
