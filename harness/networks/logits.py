"""Checks of the logits of teacher and students, before anything is trained on them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from harness.core.errors import Unfit
from lightning_modules.data.tensors import TensorDataModule
from lightning_modules.outputs import Classification, Output


def check_logits(who: str, logits: Any, labels: Tensor, output: Output) -> int:
    """Check that a network's output for a batch is of a kind: for a classifier, raw logits.

    A logit of -inf marks a class as impossible, and the losses skip it.

    Args:
        who: The network's name in messages.
        logits: Its output.
        labels: The labels of the batch, first dimension B.
        output: The output kind.

    Returns:
        Number of classes C, labels or values.

    Raises:
        Unfit: If it is not.
    """
    if not isinstance(logits, Tensor):
        raise Unfit(
            f"{who} must answer with a tensor, or an object with .logits, but gives a {type(logits).__name__}",
            "let forward return the logits alone",
        )
    size = logits.shape[output.size_axis] if logits.ndim >= -output.size_axis else 0
    if size < output.least_size or tuple(logits.shape) != output.output_shape(labels, size):
        raise _wrong_shape(who, tuple(logits.shape), labels, output)
    if not logits.is_floating_point():
        raise Unfit(
            f"{who} must give floating-point logits, but gives {logits.dtype}", "let forward return scores, not classes"
        )
    if fault := numbers_fault(logits):
        raise Unfit(f"{who} has {fault} in its logits", SOURCES_OF_NAN)
    if output.size not in (None, size):
        raise Unfit(
            f"{who} must have the {output.size} that the task's {output} declares, but gives shape "
            f"{tuple(logits.shape)}",
            "let both be the same",
        )
    return size


def _wrong_shape(who: str, found: tuple[int, ...], labels: Tensor, output: Output) -> Unfit:
    """Return the error of a network whose output has another shape than its kind."""
    samples = len(labels)
    wanted = output.output_shape(labels, 0)
    axis = len(wanted) + output.size_axis
    letter = output.shape.strip("()").split(", ")[axis]
    shape = ", ".join(letter if place == axis else str(length) for place, length in enumerate(wanted))
    least = f", {letter} at least {output.least_size}" if output.least_size > 1 else ""
    if isinstance(output, Classification):
        return Unfit(
            f"{who} must give {samples} samples logits of shape ({shape}){least}, but gives shape {found}",
            "let forward return one row of logits a sample, one logit a class, two for two classes too; a task of "
            "another kind says so: output = Regression(), MultiLabel(), Segmentation() or Tokens()",
        )
    return Unfit(
        f"{who} must give {samples} samples outputs of shape ({shape}){least}, for the task's output is {output}, but "
        f"gives shape {found}",
        f"let forward return {output.shape}",
    )


SOURCES_OF_NAN = "look for a logarithm or a root of 0, a division by 0, or inputs of a huge scale"


def label_classes(data: TensorDataModule, output: Output) -> int:
    """Return the number of classes, labels or values that the labels of all splits need."""
    return max(output.size_of(part.labels) for part in data.splits.values())


def check_covers_labels(who: str, classes: int, data: TensorDataModule, output: Output) -> None:
    """Check that a network has a logit for each class of the labels; it may have more classes, not more values.

    Raises:
        Unfit: If it has not.
    """
    needed = label_classes(data, output)
    if not output.may_exceed_labels and classes != needed:
        raise Unfit(f"labels have {needed} columns, but {who} gives {classes}", "give teacher and student one for each")
    if classes < needed:
        beyond = [name for name, part in data.splits.items() if output.size_of(part.labels) > classes]
        where = f" of {' and '.join(beyond)}" if len(beyond) < len(data.splits) else ""
        raise Unfit(
            f"labels{where} go up to {needed - 1}, but {who} has {classes} logits",
            "give teacher and student one logit for each class, and count classes from 0",
        )


def check_true_classes(who: str, logits: Tensor, labels: Tensor, output: Output) -> None:
    """Check that no true class has a logit of -inf: its loss would be infinite.

    Raises:
        Unfit: If one has.
    """
    if not output.has_classes:
        return
    rows, labels = output.rows_of(logits, labels)
    if count := int((rows.gather(1, labels[:, None]) == -torch.inf).sum()):
        raise Unfit(
            f"{who} holds the true class of {count} of {len(labels)} samples impossible: its logit is -inf",
            "mask no class that is a label",
        )


def numbers_fault(values: Tensor) -> str | None:
    """Describe how many samples (first dimension) have NaN, infinity, or only -inf; ``None`` if none has."""
    rows = values.detach().flatten(1)
    for what, is_bad in (
        ("NaN", rows.isnan().any(1)),
        ("infinity", (rows == torch.inf).any(1)),
        ("nothing but -inf", (rows == -torch.inf).all(1)),
    ):
        if count := int(is_bad.sum()):
            return f"{what} for {count:,} of {len(rows):,} samples"
    return None
