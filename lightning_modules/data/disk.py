"""Serve datasets that need not fit in memory: map-style datasets, read by worker processes ahead of their use."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lightning_modules.batch import Batch, Inputs, moved_to
from lightning_modules.data.augment import Augment
from lightning_modules.data.dataset_split import DatasetSplit, Shown
from lightning_modules.data.loading import EpochLoader
from lightning_modules.data.readers import Readers
from lightning_modules.data.reading import (
    UnreadableData,
)
from lightning_modules.data.tensors import TensorDataModule


class DatasetLoader(EpochLoader):
    """Iterates over a split that is read from disk.

    Args:
        split: The samples.
        kept: Readers of a training, as of ``DatasetSplit.batches``.
        how: As of ``EpochLoader``.
    """

    split: DatasetSplit

    def __init__(self, split: DatasetSplit, *, kept: dict[int, Readers] | None = None, **how: Any) -> None:
        super().__init__(split, **how)
        self._kept = kept

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[Batch]]:
        order = self._order()
        edges = [*self._starts(), len(order)]
        parts = [order[first:last] for first, last in itertools.pairwise(edges)]
        device, augment = self.split.device, self.views
        assert augment is None or isinstance(augment, Augment)
        views = self._views()
        reading = self.split.batches(
            parts, None if augment is None else Shown(augment, self.view if views is None else views), self._kept
        )
        for number, (ids, inputs, labels) in enumerate(reading):
            there = ids.to(device)
            view = self.view if views is None else views[edges[number] : edges[number + 1]].to(device)
            target = self.split.labels[there]
            if augment is not None and augment.joint:
                target = labels.to(device)
            else:
                self._check_labels(ids, labels, target.cpu())
            batch = Batch(ids=there, inputs=moved_to(device, inputs), target=target, teacher=self._stored(there, view))
            yield [self._completed(batch, number)]

    def _check_labels(self, ids: Tensor, read: Tensor, known: Tensor) -> None:
        differs = torch.ones(len(ids))
        if read.shape == known.shape:
            unlike = read != known
            if read.is_floating_point() and known.is_floating_point():
                unlike &= ~(read.isnan() & known.isnan())  # without a label
            differs = unlike.reshape(len(ids), -1).any(1)
        if not bool(differs.any()):
            return
        place = int(differs.nonzero()[0])
        raise UnreadableData(
            f"sample {int(ids[place])} of {self.split.name} must have one label, but is read with "
            f"{read[place].tolist()} where its dataset's targets say {known[place].tolist()}."
        )


class DatasetDataModule(TensorDataModule):
    """Data module of map-style datasets, which are read by worker processes ahead of their use.

    Memory is bounded by the batches: of a split only the labels are held, and the teacher's outputs.

    Args:
        train: Samples to train on: any ``torch.utils.data.Dataset`` of (input, label) by position.
        val: Samples to choose students by.
        test: Samples that the search never sees.
        batch_size: Samples in a training batch.
        eval_batch_size: Samples in an evaluation batch; by default as many.
        workers: Processes that read samples; 0 reads in the process that trains.
        augment: Augments training samples as they are read; ``None`` shows them as they are.
        folds: As of ``TensorDataModule``.
        groups: As of ``TensorDataModule``.

    Raises:
        TypeError: If a dataset is not map-style, or ``augment`` no ``Augment``.
        ValueError: If a dataset is empty, or a number is out of its range.
    """

    def __init__(
        self,
        *,
        train: Dataset[Any],
        val: Dataset[Any],
        test: Dataset[Any],
        batch_size: int = 64,
        eval_batch_size: int | None = None,
        workers: int = 0,
        augment: Augment | None = None,
        folds: int | None = None,
        groups: Sequence[Any] | None = None,
    ) -> None:
        self._kept: dict[int, Readers] | None = None
        if isinstance(workers, bool) or not isinstance(workers, Integral) or workers < 0:
            raise ValueError(f"workers must be a whole number of at least 0, but got {workers=}.")
        given = {"train": train, "val": val, "test": test}
        splits = {name: DatasetSplit(each, workers=int(workers), name=name) for name, each in given.items()}
        super().__init__(
            **splits,
            batch_size=batch_size,
            eval_batch_size=batch_size if eval_batch_size is None else eval_batch_size,
            augment=augment,
            folds=folds,
            groups=groups,
        )

    def shown(self, ids: Tensor, view: int) -> tuple[Inputs, Tensor | None]:
        """Return one view of some training samples, and its targets, if it has any."""
        train = self.splits["train"]
        if not isinstance(train, DatasetSplit):  # a sample of it is in memory
            return super().shown(ids, view)
        assert isinstance(self.views, Augment)
        inputs, labels = train.collate([int(place) for place in ids], Shown(self.views, view))
        return moved_to(train.device, inputs), labels.to(train.device) if self.views.joint else None

    def _loader(self, split: str, **how: Any) -> EpochLoader:
        """Return batches of a split, which is read ahead."""
        part = self.splits[split]
        if not isinstance(part, DatasetSplit):
            return super()._loader(split, **how)
        views = self.views if split == "train" else None
        return DatasetLoader(part, kept=self._kept, teacher=self._batch_outputs(split), views=views, **how)

    @contextmanager
    def readers_kept(self) -> Iterator[None]:
        """Keep the readers of each split over its passes within the context, and end them with it."""
        kept: dict[int, Readers] = {}
        self._kept, has_failed = kept, True
        try:
            yield
            has_failed = False
        finally:
            self._kept = None
            for readers in kept.values():
                readers.close()
            if kept and has_failed:
                gc.collect()  # PyTorch's error is in a cycle with its traceback, which holds the readers
