"""Scores of a split, over its batches: by hand, over rows that have a label."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy
from torchmetrics.regression import MeanAbsoluteError

from lightning_modules.batch import Batch
from lightning_modules.outputs import Classification, Output, Regression, Segmentation
from lightning_modules.scoring import SplitScores


def added(scores: SplitScores, output: Output, logits: Tensor, target: Tensor, teacher: Tensor | None = None) -> None:
    outputs = {} if teacher is None else {"logits": teacher}
    batch = Batch(torch.arange(len(target)), torch.zeros(len(target), 1), target, outputs)
    scores.add(logits, *output.as_rows(logits, batch), target)


def test_accuracy_and_agreement_are_over_all_samples_and_begin_anew() -> None:
    output, metric = Classification(2), MulticlassAccuracy(2, average="micro")
    for _ in range(2):
        scores = SplitScores(output, {"accuracy": metric})
        answers = torch.eye(2)[[0, 0, 1]]
        added(scores, output, answers, torch.tensor([0, 0, 0]), torch.eye(2)[[0, 1, 0]])
        added(scores, output, torch.eye(2)[[1]], torch.tensor([1]), torch.eye(2)[[1]])
        assert scores.compute() == {"accuracy": pytest.approx(3 / 4), "agreement": 2 / 4}


def test_there_is_no_agreement_without_a_teacher_or_without_classes() -> None:
    output = Classification(2)
    scores = SplitScores(output, {})
    added(scores, output, torch.eye(2), torch.tensor([0, 1]))
    assert scores.compute() == {}
    numbers = Regression(1)
    scores = SplitScores(numbers, {"mae": MeanAbsoluteError()})
    added(scores, numbers, torch.tensor([[1.0], [2.0]]), torch.tensor([[2.0], [2.0]]), torch.zeros(2, 1))
    assert scores.compute() == {"mae": 0.5}


def test_a_batch_without_a_label_counts_in_nothing() -> None:
    output = Segmentation(2, ignore_index=255)
    scores = SplitScores(output, {})
    logits = torch.zeros(1, 2, 1, 2)
    logits[:, 1] = 1.0  # all of class 1
    added(scores, output, logits, torch.full((1, 1, 2), 255), logits)
    assert scores.compute() == {}
    added(scores, output, logits, torch.tensor([[[1, 255]]]), -logits)
    assert scores.compute() == {"agreement": 0.0}
