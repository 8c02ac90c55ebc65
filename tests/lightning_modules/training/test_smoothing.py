"""Smoothed targets beside PyTorch's own label smoothing."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.batch import Batch
from lightning_modules.losses import hard_label_loss
from lightning_modules.training.smoothing import smoothed

LOGITS = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([2, 0, 1, 2])
MIXED = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.2, 0.3, 0.5], [0.0, 0.0, 1.0]])


def batch(targets: Tensor | None = None) -> Batch:
    return Batch(ids=torch.arange(4), inputs=LOGITS, labels=LABELS, targets=targets)


@pytest.mark.parametrize("targets", [None, MIXED])
@pytest.mark.parametrize("smoothing", [0.1, 0.5])
def test_the_loss_is_pytorchs_with_label_smoothing_of_labels_and_of_mixed_targets(
    targets: Tensor | None, smoothing: float
) -> None:
    found = hard_label_loss(LOGITS, smoothed(batch(targets), LOGITS, smoothing).truth)
    expected = F.cross_entropy(LOGITS, LABELS if targets is None else targets, label_smoothing=smoothing)
    torch.testing.assert_close(found, expected)


def test_the_labels_stay_for_what_needs_them() -> None:
    given = batch()
    found = smoothed(given, LOGITS, 0.1)
    assert found.labels is given.labels and given.targets is None


def test_a_masked_class_gets_no_share() -> None:
    logits = LOGITS.clone()
    logits[0, 1] = -math.inf
    truth = smoothed(batch(), logits, 0.3).truth
    assert truth[0].tolist() == pytest.approx([0.15, 0.0, 0.85])
    assert truth[1].tolist() == pytest.approx([0.8, 0.1, 0.1])
    assert hard_label_loss(logits, truth).isfinite()
