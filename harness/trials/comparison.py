"""Compare a student's answers with its teacher's as their output kind does, and keep the comparison."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from harness.preparation.scoring import answers_in_rows
from harness.training.predictions import PREDICTIONS, compare_predictions, save_errors, save_predictions
from lightning_modules.data.tensors import TensorDataModule
from lightning_modules.outputs import Output


def save_comparison(
    logits: Tensor, data: TensorDataModule, output: Output, classes: int, split: str, folder: Path
) -> bool:
    """Compare a student's answers to a split with its teacher's, and keep the comparison in its folder.

    Args:
        logits: The student's output for every sample in order.
        data: The data, with the teacher's outputs.
        output: The output kind.
        classes: Number of classes C, labels or values of the output.
        split: Name of the split.
        folder: Where to write.

    Returns:
        Whether there was something to keep; an output without classes need not say how its errors are described.
    """
    path = folder / PREDICTIONS
    if output.has_classes:
        found = answers_in_rows(logits, data, output, classes, split=split)
        compared = compare_predictions(
            found.student,
            found.teacher,
            found.labels,
            blocks=output.blocks(classes),
            row_word=output.row_word,
            compares_overlap=output.compares_overlap,
        )
        save_predictions(compared, path)
        return True
    errors = output.describe_errors(logits, data.teacher_outputs[split]["logits"], data.splits[split].labels)
    if errors is not None:
        save_errors(errors, path)
    return errors is not None
