"""Serve datasets that need not fit in memory: map-style datasets, read by worker processes ahead of their use."""

from __future__ import annotations

import itertools
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence, Sized
from numbers import Integral
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, default_collate

from lightning_modules.batch import Batch, Inputs
from lightning_modules.data.loading import batch_starts, epoch_order
from lightning_modules.data.tensors import Split, TensorDataModule

_READ_AT_ONCE = 256  # samples, where all of them are read once


class DatasetSplit(Split):
    """A part of a dataset that is read sample by sample.

    Args:
        dataset: Gives (input, label) for each position: an input is a tensor or a dict of tensors, a label a number or
            a tensor. Its length must not change.
        workers: Processes that read samples ahead of their use; 0 reads in this process.
        name: The split's name in messages.

    Raises:
        TypeError: If the dataset has no length or no samples by position, as an iterable one.
        ValueError: If it is empty.
    """

    def __init__(self, dataset: Dataset[Any], *, workers: int, name: str) -> None:
        if isinstance(dataset, IterableDataset) or not (
            hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
        ):
            raise TypeError(
                f"{name} must be a map-style dataset, with a length and a sample for each position, but got "
                f"{type(dataset).__name__}: the teacher's outputs are joined to samples by position."
            )
        object.__setattr__(self, "dataset", dataset)
        object.__setattr__(self, "workers", workers)
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "device", torch.device("cpu"))
        object.__setattr__(self, "_length", len(cast(Sized, dataset)))
        object.__setattr__(self, "_labels", None)
        if not len(self):
            raise ValueError(f"{name} must have a sample at least, but the dataset is empty.")

    dataset: Dataset[Any]
    workers: int
    name: str
    device: torch.device
    _length: int
    _labels: Tensor | None

    def __len__(self) -> int:
        return self._length

    @property
    def labels(self) -> Tensor:
        """Return the labels of all samples, which are kept; of a dataset without ``targets``, all samples are read."""
        if self._labels is None:
            object.__setattr__(self, "_labels", self._read_labels().to(self.device))
        assert self._labels is not None
        return self._labels

    @property
    def inputs(self) -> Inputs:
        """Raise an error: inputs need not fit in memory."""
        raise AttributeError(f"{self.name} is read sample by sample: at(ids) gives some of them.")

    @property
    def declared_fingerprint(self) -> str | None:
        """Return what the dataset says that it is (``fingerprint``); ``None`` if its samples must be read to know."""
        return getattr(self.dataset, "fingerprint", None)

    def all_inputs(self) -> Iterator[Inputs]:
        """Yield the inputs of all samples in order, some at a time; the labels are kept as they are read."""
        labels = []
        for _, inputs, some in self.batches(torch.arange(len(self)).split(_READ_AT_ONCE)):
            labels.append(some)
            yield inputs
        if self._labels is None:
            object.__setattr__(self, "_labels", torch.cat(labels).to(self.device))

    def at(self, ids: Tensor) -> Split:
        """Return the samples at some positions, in memory."""
        inputs, labels = self.collate([int(place) for place in ids])
        return Split(inputs, labels).to(self.device)

    def few(self, count: int) -> Split:
        """Return the first ``count`` samples, or all if there are fewer, in memory."""
        return self.at(torch.arange(min(count, len(self))))

    def tensors(self) -> dict[str, Tensor]:
        """Return the labels by name: inputs need not fit in memory."""
        return {"labels": self.labels}

    def to(self, device: torch.device) -> DatasetSplit:
        """Return the same samples, moved to ``device`` as they are read."""
        moved = DatasetSplit(self.dataset, workers=self.workers, name=self.name)
        object.__setattr__(moved, "device", device)
        if self._labels is not None:
            object.__setattr__(moved, "_labels", self._labels.to(device))
        return moved

    def collate(self, ids: Sequence[int]) -> tuple[Inputs, Tensor]:
        """Read samples, and join them to a batch."""
        return _joined([self.read(place) for place in ids], self.name)

    def read(self, place: int) -> tuple[Any, Any]:
        """Read one sample.

        Raises:
            ValueError: If the dataset can't give it, or gives something else than (input, label).
        """
        try:
            found = self.dataset[place]
        except Exception as error:
            raise ValueError(f"sample {place} of {self.name} can't be read: {type(error).__name__}: {error}") from error
        if not isinstance(found, tuple | list) or len(found) != 2:
            raise ValueError(
                f"sample {place} of {self.name} must be (input, label), but got {type(found).__name__}"
                + (f" of {len(found)}" if isinstance(found, tuple | list) else "")
                + "."
            )
        return found[0], found[1]

    def _read_labels(self) -> Tensor:
        known = getattr(self.dataset, "targets", None)
        if known is not None and len(known) == len(self):
            return torch.as_tensor(known)
        return torch.cat([batch[2] for batch in self.batches(torch.arange(len(self)).split(_READ_AT_ONCE))])

    def batches(self, parts: Sequence[Tensor]) -> Iterator[tuple[Tensor, Inputs, Tensor]]:
        """Yield ids, inputs and labels of batches, read ahead by the workers, on the CPU.

        Raises:
            ValueError: If the dataset has another length than before, or can't give a sample.
        """
        if (now := len(cast(Sized, self.dataset))) != len(self):
            raise ValueError(f"{self.name} must keep its length, {len(self):,} samples, but has {now:,} now.")
        loader = DataLoader(
            _Positions(self),
            batch_sampler=cast("Sampler[list[int]]", [part.tolist() for part in parts]),
            num_workers=self.workers,
            # Forks, whatever Python's default is: a dataset's class may be in a file that no other process can import.
            multiprocessing_context="fork" if self.workers and sys.platform == "linux" else None,
            collate_fn=_Collate(self.name),
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "This DataLoader will create")  # more workers than cores
            warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads, which readers do not use
            try:
                yield from loader
            except ValueError as error:
                # A worker's error comes with the worker's traceback; its last line is the message.
                raise ValueError(str(error).strip().splitlines()[-1].removeprefix("ValueError: ")) from error


class _Positions(Dataset[Any]):
    """Gives each sample with its position."""

    def __init__(self, split: DatasetSplit) -> None:
        self._split = split

    def __getitem__(self, place: int) -> tuple[int, Any, Any]:
        return (place, *self._split.read(place))


class _Collate:
    """Joins samples to a batch, with their positions."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, samples: list[tuple[int, Any, Any]]) -> tuple[Tensor, Inputs, Tensor]:
        ids = torch.tensor([place for place, _, _ in samples])
        return (ids, *_joined([(found, label) for _, found, label in samples], self._name))


def _joined(samples: list[tuple[Any, Any]], name: str) -> tuple[Inputs, Tensor]:
    try:
        inputs, labels = default_collate(samples)
    except (RuntimeError, TypeError, AttributeError, KeyError) as error:
        shapes = sorted({str(_shape(found)) for found, _ in samples})
        raise ValueError(
            f"samples of {name} must be tensors of one shape, or dicts of such, with a label each, but are "
            f"{', '.join(shapes[:3])}: {str(error).splitlines()[0]}"
        ) from error
    if isinstance(inputs, Mapping):
        return dict(inputs), torch.as_tensor(labels)
    if not isinstance(inputs, Tensor):
        raise ValueError(f"inputs of {name} must be tensors or dicts of tensors, but are {_shape(samples[0][0])}.")
    return inputs, torch.as_tensor(labels)


def _shape(value: Any) -> object:
    if isinstance(value, Tensor):
        return tuple(value.shape)
    if isinstance(value, Mapping):
        return {str(key): _shape(one) for key, one in value.items()}
    return type(value).__name__


class DatasetLoader:
    """Iterates over a split that is read from disk, in an order that depends on (seed, epoch) alone.

    Args:
        split: The samples.
        batch_size: Samples in a batch; a single remaining sample joins the batch before it.
        teacher: The teacher's stored outputs for every sample, first dimension N.
        shuffle_seed: Seed of the order, with the epoch; ``None`` keeps the order of the split.
    """

    views = None

    def __init__(
        self,
        split: DatasetSplit,
        *,
        batch_size: int,
        teacher: dict[str, Tensor] | None = None,
        shuffle_seed: int | None = None,
    ) -> None:
        self.split, self.batch_size, self.teacher, self.shuffle_seed = split, batch_size, teacher or {}, shuffle_seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which decides the order; call it before each pass, also after a resume."""
        self.epoch = epoch

    @property
    def batches(self) -> int:
        """Return the number of batches, and so of optimizer steps, in an epoch."""
        return len(self._starts())

    @property
    def last_batch_size(self) -> int:
        """Return the number of samples in the last batch: fewer than in the others, or one more."""
        return len(self.split) - self._starts()[-1]

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[Batch]]:
        order = epoch_order(len(self.split), self.shuffle_seed, self.epoch)
        edges = [*self._starts(), len(order)]
        parts = [order[first:last] for first, last in itertools.pairwise(edges)]
        device = self.split.device
        for ids, inputs, labels in self.split.batches(parts):
            there = ids.to(device)
            moved = (
                {name: value.to(device) for name, value in inputs.items()}
                if isinstance(inputs, dict)
                else inputs.to(device)
            )
            teacher = {name: values[there].to(device) for name, values in self.teacher.items()}
            yield [Batch(ids=there, inputs=moved, target=labels.to(device), teacher=teacher)]

    def _starts(self) -> list[int]:
        return batch_starts(len(self.split), self.batch_size)


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

    Raises:
        TypeError: If a dataset is not map-style.
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
    ) -> None:
        if isinstance(workers, bool) or not isinstance(workers, Integral) or workers < 0:
            raise ValueError(f"workers must be a whole number of at least 0, but got {workers=}.")
        given = {"train": train, "val": val, "test": test}
        splits = {name: DatasetSplit(each, workers=int(workers), name=name) for name, each in given.items()}
        super().__init__(**splits, batch_size=batch_size, eval_batch_size=eval_batch_size or batch_size)

    def train_dataloader(self) -> Any:
        """Return training batches, shuffled by (``seed``, epoch)."""
        if not isinstance(self.splits["train"], DatasetSplit):  # a sample of it is in memory
            return super().train_dataloader()
        return DatasetLoader(
            self._split("train"),
            batch_size=self.batch_size,
            teacher=self._batch_outputs("train"),
            shuffle_seed=self.seed,
        )

    def ordered(self, split: str) -> Any:
        """Return batches of ``split`` in the order of its samples."""
        if not isinstance(self.splits[split], DatasetSplit):
            return super().ordered(split)
        return DatasetLoader(self._split(split), batch_size=self.eval_batch_size, teacher=self._batch_outputs(split))

    def _split(self, name: str) -> DatasetSplit:
        split = self.splits[name]
        assert isinstance(split, DatasetSplit)
        return split
