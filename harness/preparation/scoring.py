"""Scores of a network: the primary metric, and how close its answers are to the teacher's."""

from __future__ import annotations

from torch import Tensor

from harness.core.metric import SplitLogits
from harness.metrics import METRICS
from harness.preparation.chance import chance_level, check_metric
from harness.preparation.metric_limits import limits_of
from harness.region import Scores, sign_of
from harness.space import SearchSpace
from harness.task import Task
from lightning_modules.data.tensors import TensorDataModule


def scores_of(task: Task, data: TensorDataModule, classes: int) -> Scores:
    """Return what is known of the primary metric on the validation split before any network is scored.

    Raises:
        Unfit: If the metric returns no number for a perfect answer.
    """
    sign, labels = sign_of(task), data.splits["val"].labels
    metric = check_metric(task, labels, classes)
    return Scores(
        metric=task.metric_name,
        sign=sign,
        bounds=limits_of(metric, labels, classes),
        chance=chance_level(metric, labels, classes, sign=sign),
        samples=len(labels),
    )


def score(
    logits: Tensor, data: TensorDataModule, space: SearchSpace, classes: int, *, split: str = "val"
) -> dict[str, float]:
    """Score a network on a split by the primary metric and by every declared metric that has a score.

    Args:
        logits: The network's, of every sample of the split in order, shape (N, C).
        data: The data, with the teacher's outputs.
        space: Its task defines the primary metric.
        classes: Number of classes C.
        split: Name of the split.
    """
    labels = data.splits[split].labels
    metric = space.task.metric(classes).to(logits.device)
    answered = SplitLogits(logits, data.teacher_outputs[split]["logits"], labels, classes)
    scores = {name: float(declared.score(answered)) for name, declared in METRICS.items() if declared.score}
    return {space.task.metric_name: float(metric(logits, labels)), **scores}
