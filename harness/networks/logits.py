"""Checks of the logits of teacher and students, before anything is trained on them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from harness.core.errors import Unfit
from lightning_modules.data.tensors import TensorDataModule


def check_logits(who: str, logits: Any, labels: Tensor) -> int:
    """Check that a network's output for a batch is raw logits.

    A logit of -inf marks a class as impossible, and the losses skip it.

    Args:
        who: The network's name in messages.
        logits: Its output.
        labels: The true classes of the batch, shape (B,).

    Returns:
        Number of logits C.

    Raises:
        Unfit: If it is not.
    """
    samples = len(labels)
    if not isinstance(logits, Tensor):
        raise Unfit(
            f"{who} must answer with a tensor, but gives a {type(logits).__name__}", "let forward return .logits alone"
        )
    if logits.ndim != 2 or len(logits) != samples or logits.shape[1] < 2:
        raise Unfit(
            f"{who} must give {samples} samples logits of shape ({samples}, C), C at least 2, but gives shape "
            f"{tuple(logits.shape)}",
            "let forward return one row of logits a sample, one logit a class, two for two classes too",
        )
    if not logits.is_floating_point():
        raise Unfit(
            f"{who} must give floating-point logits, but gives {logits.dtype}", "let forward return scores, not classes"
        )
    if fault := numbers_fault(logits):
        raise Unfit(f"{who} has {fault} in its logits", SOURCES_OF_NAN)
    return int(logits.shape[1])


SOURCES_OF_NAN = "look for a logarithm or a root of 0, a division by 0, or inputs of a huge scale"


def label_classes(data: TensorDataModule) -> int:
    """Return the number of classes in the labels of all splits, which count from 0."""
    return 1 + max(int(part.labels.max()) for part in data.splits.values())


def check_covers_labels(who: str, classes: int, data: TensorDataModule) -> None:
    """Check that a network has a logit for each class of the labels; it may have more.

    Raises:
        Unfit: If it has not.
    """
    if classes < label_classes(data):
        beyond = [name for name, part in data.splits.items() if int(part.labels.max()) >= classes]
        where = f" of {' and '.join(beyond)}" if len(beyond) < len(data.splits) else ""
        raise Unfit(
            f"labels{where} go up to {label_classes(data) - 1}, but {who} has {classes} logits",
            "give teacher and student one logit for each class, and count classes from 0",
        )


def check_true_classes(who: str, logits: Tensor, labels: Tensor) -> None:
    """Check that no true class has a logit of -inf in logits of shape (N, C): its loss would be infinite.

    Raises:
        Unfit: If they do.
    """
    if count := int((logits.gather(1, labels[:, None]) == -torch.inf).sum()):
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
