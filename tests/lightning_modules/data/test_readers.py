"""Readers that are kept over the epochs of a training: the same processes, the same batches, and none left after it."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lightning_modules.data import Augment, DatasetDataModule
from lightning_modules.data.reading import UnreadableData

SIZE = 24


class Rows(Dataset[Any]):
    """Samples that say which process read them; the last one can't be read if it is not to be."""

    fingerprint = "rows"

    def __init__(self, *, bad: bool = False) -> None:
        self.targets, self._bad = [place % 3 for place in range(SIZE)], bad

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        if self._bad and place == SIZE - 1:
            raise OSError("gone")
        return torch.tensor([float(place), float(os.getpid())]), place % 3


def noisy(sample: Tensor) -> Tensor:
    return sample + torch.tensor([float(torch.rand(())), 0.0])


def module(rows: Rows | None = None, *, workers: int = 2, views: Any = None) -> DatasetDataModule:
    rows = Rows() if rows is None else rows
    augment = None if views is None else Augment(noisy, views=views)
    return DatasetDataModule(train=rows, val=rows, test=rows, batch_size=4, workers=workers, augment=augment)


def epochs(data: DatasetDataModule, count: int = 3) -> Iterator[Tensor]:
    """The inputs of each epoch, in their order."""
    loader = data.train_dataloader()
    for epoch in range(count):
        loader.set_epoch(epoch)
        yield torch.cat([batch.inputs for item in loader for batch in item])  # type: ignore[misc]


def readers(inputs: Tensor) -> set[float]:
    return set(inputs[:, 1].tolist())


def test_a_training_keeps_its_readers_and_other_passes_have_some_of_their_own() -> None:
    data = module()
    with data.readers_kept():
        first, *others = [readers(each) for each in epochs(data)]
        assert len(first) == 2 and all(each == first for each in others)
    first, second = (readers(each) for each in epochs(data, 2))
    assert not first & second
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("views", [None, 2, "fresh"])
def test_batches_are_the_same_whoever_reads_them(workers: int, views: Any) -> None:
    expected = [each[:, 0] for each in epochs(module(workers=0, views=views))]
    data = module(workers=workers, views=views)
    with data.readers_kept():
        found = [each[:, 0] for each in epochs(data)]
    assert all(map(torch.equal, found, expected)) and not torch.equal(expected[0], expected[1])


def test_a_pass_that_is_left_in_the_middle_is_followed_by_a_whole_one() -> None:
    data = module()
    with data.readers_kept():
        loader = data.train_dataloader()
        left = iter(loader)
        next(left)
        (whole, *_) = epochs(data, 1)
        assert sorted(whole[:, 0].tolist()) == list(range(SIZE))
        next(iter(data.ordered("val")))
    assert not multiprocessing.active_children()


def test_readers_end_with_a_training_that_fails() -> None:
    data = module(Rows(bad=True))
    with pytest.raises(UnreadableData, match="sample 23 of train can't be read: OSError: gone"), data.readers_kept():
        list(epochs(data))
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [0, 2])
def test_the_splits_of_a_fold_have_readers_of_their_own(workers: int) -> None:
    rows = Rows()
    data = DatasetDataModule(train=rows, val=rows, test=rows, batch_size=4, workers=workers, folds=3)
    for fold in data.folds:
        with fold.readers_kept():
            trained = {id_ for item in fold.train_dataloader() for batch in item for id_ in batch.ids.tolist()}
            places = torch.cat([batch.inputs[:, 0] for item in fold.ordered("val") for batch in item])
        assert len(trained) == 32 and torch.equal(places, fold.splits["val"].few(16).inputs[:, 0])
