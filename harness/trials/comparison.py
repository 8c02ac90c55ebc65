"""Compare a student's answers with its teacher's as their output kind does, and keep the comparison."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from harness.preparation.scoring import score
from harness.space import SearchSpace
from harness.training.predictions import PREDICTIONS, Comparer, Predictions, save_errors, save_predictions
from lightning_modules.data.tensors import TensorDataModule
from lightning_modules.outputs import Errors


def score_and_compare(
    answers: Iterable[Tensor], data: TensorDataModule, space: SearchSpace, classes: int, split: str
) -> tuple[dict[str, float], Predictions | Errors | None]:
    """Score a student's answers to a split, and compare them with its teacher's.

    Args:
        answers: The student's outputs for the samples in order, in parts.
        data: The data, with the teacher's outputs.
        space: Its task has the output kind and the metrics.
        classes: Number of classes C, labels or values of the output.
        split: Name of the split.

    Returns:
        The scores by name, and the comparison; ``None`` where an output without classes does not describe errors.
    """
    output, labels = space.task.output, data.splits[split].labels
    if output.has_classes:
        comparer = Comparer(
            output.number_of_rows(labels),
            blocks=output.blocks(classes),
            row_word=output.row_word,
            compares_overlap=output.compares_overlap,
        )
        return score(answers, data, space, classes, split=split, comparer=comparer), comparer.result()
    given: list[Tensor] = []
    scores = score(_noted(answers, given), data, space, classes, split=split)
    return scores, output.describe_errors(torch.cat(given), data.teacher_outputs[split]["logits"], labels)


def save_comparison(comparison: Predictions | Errors | None, folder: Path) -> bool:
    """Keep a comparison in a student's folder, and return whether there is one."""
    if isinstance(comparison, Predictions):
        save_predictions(comparison, folder / PREDICTIONS)
    elif comparison is not None:
        save_errors(comparison, folder / PREDICTIONS)
    return comparison is not None


def _noted(answers: Iterable[Tensor], given: list[Tensor]) -> Iterator[Tensor]:
    """Yield answers, and note each: without classes, a sample has few numbers."""
    for part in answers:
        given.append(part)
        yield part
