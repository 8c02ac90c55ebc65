"""Serve datasets that need not fit in memory: map-style datasets, read by worker processes ahead of their use."""

from __future__ import annotations

import gc
import hashlib
import itertools
import re
from collections.abc import Iterator, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from numbers import Integral
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset

from lightning_modules.batch import Batch, Inputs, moved_to
from lightning_modules.data.augment import Augment, Augmentable, Transform
from lightning_modules.data.content import HASHED_AT_ONCE, samples_digest
from lightning_modules.data.loading import EpochLoader
from lightning_modules.data.readers import Readers, read_once
from lightning_modules.data.reading import (
    KILLED,
    Form,
    Positions,
    UnreadableData,
    check_form,
    form_of,
    joined,
    leaves,
    unreadable_text,
)
from lightning_modules.data.tensors import Split, TensorDataModule, sample_ids

_READ_TWICE = 8  # samples, to see whether something is drawn at random


@dataclass(frozen=True)
class Shown:
    """A view of samples that are read.

    Attributes:
        augment: Makes it.
        view: Its index; of each sample in the order in which they are read, shape (N,), where they differ.
    """

    augment: Augment
    view: int | Tensor


class DatasetSplit(Split):
    """A part of a dataset that is read sample by sample.

    Args:
        dataset: Gives (input, label) for each position: an input is a tensor or a dict of tensors, a label a number or
            a tensor, of one shape and type in all samples. Its length must not change. An attribute ``ids`` names the
            samples, as those of ``Split`` do.
        workers: Processes that read samples ahead of their use; 0 reads in this process.
        name: The split's name in messages.

    Raises:
        TypeError: If the dataset has no length or no samples by position, as an iterable one, or ids are no names.
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
        object.__setattr__(self, "_content", None)
        object.__setattr__(self, "_forms", {})
        names = listed_ids(dataset)
        object.__setattr__(self, "ids", None if names is None else sample_ids(names))
        if not len(self):
            raise ValueError(f"{name} must have a sample at least, but the dataset is empty.")

    is_read = True
    dataset: Dataset[Any]
    workers: int
    name: str
    device: torch.device
    _length: int
    _labels: Tensor | None
    _content: str | None
    _forms: dict[bool, tuple[int, Form]]

    def __len__(self) -> int:
        return self._length

    @property
    def labels(self) -> Tensor:
        """Return the labels of all samples, which are kept; all samples are read for them, unless they are listed.

        A dataset with a ``fingerprint`` may list them as ``targets``; every batch is compared with them.
        """
        if self._labels is None:
            listed = _targets(self.dataset) if self._declared is not None else None
            if listed is None:
                self._scan()
            else:
                object.__setattr__(self, "_labels", torch.as_tensor(listed).to(self.device))
        assert self._labels is not None
        return self._labels

    @property
    def inputs(self) -> Inputs:
        """Raise an error: inputs need not fit in memory."""
        raise AttributeError(f"{self.name} is read sample by sample: at(ids) gives some of them.")

    @property
    def _declared(self) -> str | None:
        """Return what the dataset says that it is; ``None`` if its samples must be read to know."""
        return _known(self.dataset)

    @property
    def fingerprint(self) -> str:
        """Return what the dataset says that it is (``fingerprint``), or a hash of all its samples and labels.

        Raises:
            ValueError: If a sample can't be read, or differs from read to read.
        """
        if self._content is None and self._declared is not None:
            self._check_repeatable()
            object.__setattr__(self, "_content", self._declared)
        if self._content is None:
            self._scan()
        assert self._content is not None
        return self._content

    def _scan(self) -> None:
        """Read all samples once, and keep their labels and a hash of their content.

        Raises:
            ValueError: If a sample can't be read, or differs from read to read.
        """
        self._check_repeatable()
        labels: list[Tensor] = []

        def parts() -> Iterator[tuple[Inputs, Tensor]]:
            for _, inputs, some in self.batches(torch.arange(len(self)).split(HASHED_AT_ONCE)):
                labels.append(some)
                yield inputs, some

        object.__setattr__(self, "_content", samples_digest(parts()))
        object.__setattr__(self, "_labels", torch.cat(labels).to(self.device))

    def _check_repeatable(self) -> None:
        """Check that a few samples are the same when they are read again: the teacher is asked about them once."""
        for place in torch.linspace(0, len(self) - 1, min(_READ_TWICE, len(self))).long().tolist():
            once, again = self.collate([place]), self.collate([place])
            pairs = zip(leaves(once), leaves(again), strict=True)
            if not all(torch.equal(one.nan_to_num(), other.nan_to_num()) for one, other in pairs):
                raise ValueError(
                    f"sample {place} of {self.name} must be the same each time that it is read, but is not: teacher "
                    "and student must see the same, so nothing may be drawn at random in a dataset. Take its random "
                    "transform out, and give it to DatasetDataModule(train=.., val=.., test=.., augment=Augment(..))."
                )

    def all_inputs(self) -> Iterator[Inputs]:
        """Yield the inputs of all samples in order, some at a time."""
        for _, inputs, _ in self.batches(torch.arange(len(self)).split(HASHED_AT_ONCE)):
            yield inputs

    def at(self, ids: Tensor) -> Split:
        """Return the samples at some positions, in memory, without their ids if a position occurs twice."""
        places = [int(place) for place in ids]
        inputs, labels = self.collate(places)
        names = None if self.ids is None or len({*places}) < len(places) else [self.ids[place] for place in places]
        return Split(inputs, labels, names).to(self.device)

    def part(self, ids: Tensor) -> Split:
        """Return the samples at some positions, still to be read."""
        return DatasetSplit(_part(self.dataset, ids.tolist()), workers=0, name=self.name).to(self.device)

    def selection(self, ids: Tensor) -> Split:
        """Return the samples at some positions, still to be read, by as many workers."""
        places = ids.tolist()
        found = DatasetSplit(_part(self.dataset, places), workers=self.workers, name=self.name)
        object.__setattr__(found, "_labels", self.labels[ids.to(self.device)])
        object.__setattr__(found, "_content", hashlib.sha256(f"{self.fingerprint} {places}".encode()).hexdigest()[:16])
        return found.to(self.device)

    def joined_with(self, other: Split) -> Split:
        """Return these samples and those of another split after them, still to be read."""
        assert isinstance(other, DatasetSplit)  # of the same data module
        return DatasetSplit(_joined(self.dataset, other.dataset), workers=self.workers, name="train and val").to(
            self.device
        )

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
        object.__setattr__(moved, "_content", self._content)
        return moved

    def collate(self, ids: Sequence[int], shown: Shown | None = None) -> tuple[Inputs, Tensor]:
        """Read samples, as they are or in one view, and join them to a batch."""
        samples = [self.read(place, shown=shown) for place in ids]
        check_form(ids, samples, self.name)
        return joined(samples, self.name)

    def read(self, place: int, view: int | None = None, *, shown: Shown | None = None) -> tuple[Any, Any]:
        """Read one sample, as it is or in one view: ``view``, or that of ``shown``.

        Raises:
            UnreadableData: If the dataset can't give it, or gives something else than (input, label).
        """
        try:
            if shown is None:
                found = self.dataset[place]
            else:
                found = shown.augment.read(self.dataset, place, int(shown.view) if view is None else view)
        except Exception as error:
            raise UnreadableData(
                f"sample {place} of {self.name} can't be read: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(found, tuple | list) or len(found) != 2:
            raise UnreadableData(
                f"sample {place} of {self.name} must be (input, label), but got {type(found).__name__}"
                + (f" of {len(found)}" if isinstance(found, tuple | list) else "")
                + "."
            )
        return found[0], found[1]

    def batches(
        self, parts: Sequence[Tensor], shown: Shown | None = None, kept: dict[str, Readers] | None = None
    ) -> Iterator[tuple[Tensor, Inputs, Tensor]]:
        """Yield ids, inputs and labels of batches, read ahead by the workers, on the CPU.

        Args:
            parts: Positions of the samples of each batch.
            shown: The view that is read; ``None`` reads samples as they are.
            kept: Readers of a training by the name of their split, which are used, or else begun and added; ``None``
                starts some for this pass alone.

        Raises:
            UnreadableData: If the dataset has another length than before, can't give a sample, or gives one of another
                form than the first, or a process that reads is killed.
        """
        if (now := len(cast(Sized, self.dataset))) != len(self):
            raise UnreadableData(f"{self.name} must keep its length, {len(self):,} samples, but has {now:,} now.")
        indices: list[Any] = [part.tolist() for part in parts]
        if shown is not None:  # readers that are kept know no view but that of a sample
            views = torch.as_tensor(shown.view).expand(sum(map(len, parts))).split([len(part) for part in parts])
            indices = [list(zip(part, each.tolist(), strict=True)) for part, each in zip(indices, views, strict=True)]
        refused: UnreadableData | None = None
        try:
            for ids, inputs, labels in self._reading(indices, shown, kept):
                self._check_form(ids, inputs, labels, shown is not None)
                yield ids, inputs, labels
        except ValueError as error:
            # A worker's error comes with the worker's traceback; its last line is the message.
            told = str(error).strip().splitlines()[-1]
            refused = UnreadableData(re.sub(r"^(\w+\.)*(ValueError|UnreadableData): ", "", told))
            if not self.workers:
                raise refused from error
        except (RuntimeError, EOFError, OSError) as error:
            # A dataset's own errors come as UnreadableData: another one is of the way from a reader, which has ended.
            killed = unreadable_text(error) if isinstance(error, RuntimeError) else KILLED if self.workers else None
            if killed is None:
                raise
            refused = UnreadableData(killed)
        if refused is not None:  # not raised from PyTorch's error, which would keep the readers, and be raised again
            raise refused

    def _reading(
        self, indices: list[Any], shown: Shown | None, kept: dict[str, Readers] | None
    ) -> Iterator[tuple[Tensor, Inputs, Tensor]]:
        """Return an iterator over the batches of samples at some indices; see ``batches``."""
        samples = Positions(partial(self.read, shown=shown))
        if kept is None:
            return read_once(samples, indices, self.workers, self.name)
        if self.name not in kept:
            kept[self.name] = Readers(samples, self.workers, self.name)
        return kept[self.name].read(indices)

    def _check_form(self, ids: Tensor, inputs: Inputs, labels: Tensor, is_view: bool) -> None:
        """Check that a batch has the form of the first one that was read, of samples as they are or in views."""
        first = {name: one[0] for name, one in inputs.items()} if isinstance(inputs, dict) else inputs[0]
        place, sample = int(ids[0]), (first, labels[0])
        check_form([place], [sample], self.name, self._forms.setdefault(is_view, (place, form_of(sample))))


def listed_ids(dataset: Any) -> Any:
    """Return the ids that a dataset lists, or the one that a ``Subset`` is of; ``None`` if its samples have none."""
    names = getattr(dataset, "ids", None)
    if names is None and type(dataset) is Subset:
        whole = listed_ids(dataset.dataset)
        return None if whole is None else [whole[place] for place in dataset.indices]
    return None if callable(names) else names  # a method of that name is the dataset's own


class _Part(Dataset[Any]):
    """Some samples of a dataset."""

    def __init__(self, dataset: Dataset[Any], places: Sequence[int]) -> None:
        self._dataset = dataset
        self._places = places
        names = listed_ids(dataset)
        self.ids = None if names is None else [names[place] for place in places]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, place: int) -> Any:
        return self._dataset[self._places[place]]


class _AugmentablePart(_Part):
    """Some samples of a dataset that has more of a sample than it gives."""

    _dataset: Augmentable  # type: ignore[assignment]

    def augmented(self, place: int, transform: Transform) -> tuple[Any, Any]:
        """Return a sample whose original has gone through a transform."""
        return self._dataset.augmented(self._places[place], transform)


def _part(dataset: Dataset[Any], places: Sequence[int]) -> Dataset[Any]:
    return (_AugmentablePart if isinstance(dataset, Augmentable) else _Part)(dataset, places)


class _Joined(ConcatDataset[Any]):
    """The samples of two datasets, one after the other, with what both say of them."""

    def __init__(self, first: Dataset[Any], second: Dataset[Any]) -> None:
        super().__init__([first, second])
        self.ids = _after(listed_ids(first), listed_ids(second))
        self.targets = _after(_targets(first), _targets(second))
        known = _known(first), _known(second)
        self.fingerprint = None if None in known else " ".join(map(str, known))


class _AugmentableJoined(_Joined):
    """The same of datasets that have more of a sample than they give."""

    def augmented(self, place: int, transform: Transform) -> tuple[Any, Any]:
        """Return a sample whose original has gone through a transform."""
        first, second = cast("list[Augmentable]", self.datasets)
        size = self.cumulative_sizes[0]
        return first.augmented(place, transform) if place < size else second.augmented(place - size, transform)


def _joined(first: Dataset[Any], second: Dataset[Any]) -> Dataset[Any]:
    both = isinstance(first, Augmentable) and isinstance(second, Augmentable)
    return (_AugmentableJoined if both else _Joined)(first, second)


def _after(first: Any, second: Any) -> list[Any] | None:
    """Return what two datasets list, one after the other; ``None`` where one lists nothing."""
    return None if first is None or second is None else [*first, *second]


def _known(dataset: Any) -> str | None:
    """Return what a dataset says that it is; ``None`` if its samples must be read to know."""
    return getattr(dataset, "fingerprint", None)


def _targets(dataset: Any) -> Any:
    """Return the labels that a dataset lists, one for each sample; ``None`` if they must be read."""
    listed = getattr(dataset, "targets", None)
    return None if listed is None or len(listed) != len(dataset) else listed


class DatasetLoader(EpochLoader):
    """Iterates over a split that is read from disk.

    Args:
        split: The samples.
        kept: Readers of a training, as of ``DatasetSplit.batches``.
        how: As of ``EpochLoader``.
    """

    split: DatasetSplit

    def __init__(self, split: DatasetSplit, *, kept: dict[str, Readers] | None = None, **how: Any) -> None:
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
        self._kept: dict[str, Readers] | None = None
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
        kept: dict[str, Readers] = {}
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
