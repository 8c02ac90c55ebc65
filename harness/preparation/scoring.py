"""What a network's answers are worth: the primary metric, and how close they are to the teacher's."""

from __future__ import annotations

from torch import Tensor
from torchmetrics.classification import MulticlassCalibrationError

from harness.preparation.chance import chance_level, check_metric
from harness.preparation.limits import limits_of
from harness.region import Scores, sign_of
from harness.space import SearchSpace
from harness.task import Task
from lightning_modules.losses import soft_target_loss
from lightning_modules.tensors import TensorDataModule


def scores_of(task: Task, data: TensorDataModule, classes: int) -> Scores:
    """Return what is known of the primary metric on the validation split before any network has answered.

    Raises:
        Unfit: If the metric gives no number for a perfect answer.
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
    """Primary metric, agreement with the teacher, divergence from it, and calibration on a split.

    Args:
        logits: Of every sample of the split in order, shape (N, C).
        data: The data, with the teacher's outputs.
        space: Knows the primary metric.
        classes: Number of classes C.
        split: The split.
    """
    labels = data.splits[split].labels
    metric = space.task.metric(classes).to(logits.device)
    # Expected calibration error over 15 bins: Guo et al. (2017), arXiv:1706.04599.
    calibration = MulticlassCalibrationError(num_classes=classes, n_bins=15, validate_args=False).to(logits.device)
    teacher_logits = data.teacher_outputs[split]["logits"]
    agreement = (logits.argmax(-1) == teacher_logits.argmax(-1)).float().mean()
    return {
        space.task.metric_name: float(metric(logits, labels)),
        "agreement": float(agreement),
        "teacher_kl": float(soft_target_loss(logits, teacher_logits, temperature=1)),  # nats a sample
        "ece": float(calibration(logits.softmax(-1), labels)),
    }
