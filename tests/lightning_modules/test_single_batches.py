"""What a module that trains itself is given: single batches, a log of epochs, and no teacher as a control."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from lightning_modules.data.tensors import Split, TensorDataModule
from lightning_modules.own_module import (
    EpochLog,
    HiddenTeacher,
    SingleBatches,
    TeacherRead,
    overrides,
    trains_itself,
)


class Steps(pl.LightningModule):
    def training_step(self, batch: object, batch_idx: int) -> None: ...


def test_a_module_trains_itself_by_a_training_step_of_its_own() -> None:
    class Further(Steps): ...

    assert trains_itself(Steps()) and trains_itself(Further())
    assert not any(map(trains_itself, (pl.LightningModule(), nn.Linear(1, 1), nn.Sequential(Steps()), Steps)))
    assert overrides(Further(), "training_step") and not overrides(Further(), "validation_step")


def test_a_hidden_teacher_has_no_outputs_and_raises_where_one_is_read() -> None:
    hidden = HiddenTeacher()
    assert not hidden and not list(hidden) and "logits" not in hidden
    with pytest.raises(TeacherRead, match=r"^batch.teacher\['logits'\]$"):
        hidden["logits"]
    with pytest.raises(TeacherRead, match=r"^batch.teacher.get\('logits'\)$"):
        hidden.get("logits")


def some_data() -> TensorDataModule:
    def split(size: int) -> Split:
        return Split(torch.arange(float(size))[:, None], torch.zeros(size, dtype=torch.int64))

    data = TensorDataModule(train=split(10), val=split(3), test=split(2), batch_size=4)
    data.attach({"train": {"logits": torch.arange(10.0)[:, None]}})
    return data


@pytest.mark.parametrize("is_taught", [True, False])
def test_batches_come_one_by_one_in_the_order_of_the_epoch(is_taught: bool) -> None:
    data = some_data()
    loader = data.train_dataloader()
    single = SingleBatches(loader, is_taught=is_taught)
    for epoch in (0, 3):
        loader.set_epoch(epoch)
        expected = [batch.ids.tolist() for item in loader for batch in item]
        single.set_epoch(epoch)
        batches = list(single)
        assert [batch.ids.tolist() for batch in batches] == expected and len(single) == len(batches) == 3
        assert [len(batch.ids) for batch in batches] == [4, 4, 2]
        for batch in batches:
            if is_taught:
                assert torch.equal(batch.teacher["logits"], batch.inputs)
            else:
                assert isinstance(batch.teacher, HiddenTeacher)


def test_a_log_gives_the_means_of_what_came_since_it_was_taken() -> None:
    log = EpochLog()
    for value in (1.0, 2.0, 6.0):
        log.log_metrics({"a": value, "epoch": 0.0}, step=0)
    log.log_metrics({"b": 5.0})
    log.log_hyperparams({"width": 3})
    assert log.take() == {"a": 3.0, "b": 5.0}
    log.log_metrics({"a": 4.0})
    assert log.take() == {"a": 4.0} and log.take() == {}
