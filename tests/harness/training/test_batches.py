"""The batches of one training, beside those of others that share the data."""

from __future__ import annotations

import torch

from harness.training.batches import with_batches_of
from lightning_modules.data.tensors import Split, TensorDataModule
from lightning_modules.training import Training


def test_a_training_has_batches_of_its_size_and_shares_the_samples() -> None:
    split = Split(torch.randn(10, 3), torch.zeros(10, dtype=torch.int64))
    data = TensorDataModule(train=split, val=split, test=split, batch_size=4)
    data.attach({"train": {"logits": torch.zeros(10, 2)}})
    own = with_batches_of(data, Training(batch_size=2))
    own.seed = 5
    assert (own.steps_per_epoch, data.steps_per_epoch) == (5, 3)
    assert [len(batch.ids) for item in own.train_dataloader() for batch in item] == [2] * 5
    assert (data.batch_size, data.seed) == (4, 0)
    assert own.splits["train"] is split and own.teacher_outputs is data.teacher_outputs
    assert with_batches_of(data, Training()).batch_size == 4
