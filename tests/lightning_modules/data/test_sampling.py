"""A sampler of someone's own: which samples an epoch shows, the same in memory and read, or refused in one line."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import README
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from harness.doctor.context import subsample
from harness.preparation.fingerprint import fingerprint
from harness.preparation.teacher_checks import few_samples
from harness.task import Task, load_data
from lightning_modules.batch import Batch
from lightning_modules.data import DatasetDataModule, Split, TensorDataModule
from lightning_modules.data.sampling import EpochSampler, Sampler

SIZE = 10
INPUTS, LABELS = torch.arange(SIZE).float()[:, None], torch.tensor([0] * 8 + [1] * 2)
SPLIT = Split(INPUTS, LABELS)


def rotating(split: Split, seed: int, epoch: int) -> list[int]:
    """Seven of ten samples, the first one twice, from another place in each epoch."""
    return [(seed + epoch + place) % len(split) for place in (0, 0, 1, 2, 3, 5, 8)]


class Rotating(Task):
    """A task whose epochs show what ``rotating`` says."""

    def __init__(self, read: bool = False) -> None:
        self.read = read

    def data(self, data_dir: Path | None) -> TensorDataModule:
        if not self.read:
            return TensorDataModule(train=SPLIT, val=SPLIT, test=SPLIT, batch_size=3)
        rows = TensorDataset(INPUTS, LABELS)
        return DatasetDataModule(train=rows, val=rows, test=rows, batch_size=3)

    def sampler(self, split: Split, seed: int, epoch: int) -> Iterable[int]:
        return rotating(split, seed, epoch)

    def teacher(self) -> nn.Module:
        raise NotImplementedError

    def student(self) -> nn.Module:
        raise NotImplementedError


def batches(loader: Any) -> list[Batch]:
    return [batch for item in loader for batch in item]


@pytest.mark.parametrize("read", [False, True])
def test_an_epoch_shows_what_the_sampler_says(read: bool) -> None:
    data = load_data(Rotating(read), None)
    data.seed = 4
    data.attach({"train": {"logits": torch.arange(SIZE)[:, None] + 100.0}})
    for epoch in (0, 3):
        loader = data.train_dataloader()
        loader.set_epoch(epoch)
        found = batches(loader)
        expected = [(4 + epoch + place) % SIZE for place in (0, 0, 1, 2, 3, 5, 8)]
        assert [len(batch.ids) for batch in found] == [3, 4] and data.steps_per_epoch == 2
        assert torch.cat([batch.ids for batch in found]).tolist() == expected
        assert torch.cat([batch.target for batch in found]).tolist() == LABELS[expected].tolist()
        assert torch.cat([batch.teacher["logits"] for batch in found])[:, 0].tolist() == [100 + one for one in expected]
        inputs = [batch.inputs for batch in found if isinstance(batch.inputs, Tensor)]
        assert torch.cat(inputs)[:, 0].tolist() == expected
        assert loader.last_batch_size == 4
    assert torch.cat([batch.ids for batch in batches(data.ordered("train"))]).tolist() == list(range(SIZE))


def test_what_an_epoch_shows_is_part_of_the_datas_fingerprint_and_not_of_samples_for_checks() -> None:
    plain = Rotating().data(None)
    data = load_data(Rotating(), None)
    assert fingerprint(data) != fingerprint(plain)
    assert load_data(type("Plain", (Rotating,), {"sampler": Task.sampler})(), None).sampler is None
    for sample in (subsample(data, torch.device("cpu"), 3), few_samples(data)):
        assert sum(len(batch.ids) for batch in batches(sample.train_dataloader())) == len(sample.splits["train"])


@pytest.mark.parametrize(
    "given", [[3, 1, 1], (3, 1, 1), torch.tensor([3, 1, 1]), np.array([3, 1, 1]), iter([3, 1, 1]), [np.int64(3), 1, 1]]
)
def test_positions_come_in_any_usual_form(given: Any) -> None:
    kept = list(given)
    again = (
        (lambda split, seed, epoch: iter(kept)) if hasattr(given, "__next__") else (lambda split, seed, epoch: given)
    )
    assert EpochSampler(again, SPLIT).order(0, 5).tolist() == [3, 1, 1]


def drawn(split: Split, seed: int, epoch: int) -> Tensor:
    return torch.randint(10**6, (4,)) % len(split)


def shrinking(split: Split, seed: int, epoch: int) -> range:
    return range(len(split) - epoch)


@pytest.mark.parametrize(
    ("sampler", "error", "told"),
    [
        (lambda *_: [0, 10], ValueError, "must give positions from 0 to 9, but gives 10 in epoch 0"),
        (lambda *_: [0, -1], ValueError, "must give positions from 0 to 9, but gives -1 in epoch 0"),
        (lambda *_: itertools.cycle([1]), ValueError, "must end, but gives more than 1,000 samples where there"),
        (lambda *_: [], ValueError, "must give a sample at least, but gives none in epoch 0"),
        (lambda _, seed, epoch: [1] * (1 - epoch), ValueError, "a sample at least, but gives none in epoch 1"),
        (shrinking, ValueError, "as many samples in each epoch, .* gives 10 in epoch 0 and 9 in epoch 1"),
        (drawn, ValueError, "must give the same samples for the same seed and epoch, but does not"),
        (lambda *_: None, TypeError, "must give positions of samples, but gives a NoneType"),
        (lambda *_: [0.5], TypeError, "must give whole numbers, but gives 0.5"),
        (lambda *_: [True], TypeError, "must give whole numbers, but gives True"),
        (lambda *_: torch.ones(3), TypeError, r"shape \(N,\), int64, but gives shape \(3,\) and torch.float32"),
        (lambda *_: torch.ones(3, 1).long(), TypeError, r"but gives shape \(3, 1\) and torch.int64"),
        (lambda *_: torch.ones(3) > 0, TypeError, "and torch.bool"),
    ],
)
def test_a_sampler_that_can_not_be_followed_is_refused(sampler: Sampler, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told) as refused:
        EpochSampler(sampler, SPLIT)
    assert "\n" not in str(refused.value)


def test_an_epoch_of_another_length_is_refused_whenever_it_comes() -> None:
    sampler = EpochSampler(lambda split, seed, epoch: range(len(split) - (epoch > 3)), SPLIT)
    assert len(sampler.order(0, 3)) == 10
    with pytest.raises(ValueError, match="gives 10 in epoch 0 and 9 in epoch 4"):
        sampler.order(0, 4)


def test_the_sampler_of_the_readme_shows_each_class_alike() -> None:
    (code,) = re.findall(r"```python\n(def sampler\(.*?)```", README, re.DOTALL)
    space: dict[str, Any] = {"torch": torch}
    exec(code, space)
    split = Split(torch.zeros(1000, 1), (torch.arange(1000) % 10 == 0).long())
    sampler = EpochSampler(lambda *given: space["sampler"](None, *given), split)
    share = split.labels[sampler.order(1, 2)].float().mean()
    assert 0.45 < share < 0.55  # of 1,000 draws: three deviations are 0.047
    assert not torch.equal(sampler.order(1, 2), sampler.order(2, 1))
