"""What a training says of losses that are no numbers."""

from __future__ import annotations

import math
import re

import pytest
import torch

from harness.core.errors import TrialFailed
from harness.training.fit import check_losses
from lightning_modules.data.tensors import Split, TensorDataModule


def data_of(train: torch.Tensor, ids: torch.Tensor) -> TensorDataModule:
    def split(values: torch.Tensor) -> Split:
        return Split({"x": values, "ids": ids}, torch.arange(len(values)) % 2)

    return TensorDataModule(train=split(train), val=split(torch.ones(4, 2)), test=split(torch.ones(4, 2)))


def test_a_loss_that_is_not_finite_is_reported_with_the_samples_that_are_not() -> None:
    ids = torch.arange(4)
    values = torch.ones(4, 2)
    values[1, 0], values[3, 1] = math.nan, math.inf
    losses = {"train/loss": math.nan, "val/loss": 1.0}
    where = "train/loss is nan in epoch 3; 2 of 4 train samples hold NaN or infinity in 'x'"
    with pytest.raises(TrialFailed, match=f"^{re.escape(where)}$"):
        check_losses(3, losses, data_of(values, ids))
    with pytest.raises(TrialFailed, match=r"^train/loss is nan in epoch 3$"):
        check_losses(3, losses, data_of(torch.ones(4, 2), ids))
    check_losses(3, {"train/loss": 0.0, "val/loss": 1.0}, data_of(values, ids))
