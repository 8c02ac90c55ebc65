"""A split of a map-style dataset: its samples are read one by one, its labels and its fingerprint are kept."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence, Sized
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from lightning_modules.batch import Inputs
from lightning_modules.data.augment import Augment
from lightning_modules.data.content import HASHED_AT_ONCE, samples_digest
from lightning_modules.data.dataset_parts import (
    declared_fingerprint,
    joined_datasets,
    listed_ids,
    listed_targets,
    part_of,
)
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
from lightning_modules.data.tensors import Split, sample_ids

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
            listed = listed_targets(self.dataset) if self._declared is not None else None
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
        return declared_fingerprint(self.dataset)

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
        return DatasetSplit(part_of(self.dataset, ids.tolist()), workers=0, name=self.name).to(self.device)

    def selection(self, ids: Tensor) -> Split:
        """Return the samples at some positions, still to be read, by as many workers."""
        places = ids.tolist()
        found = DatasetSplit(part_of(self.dataset, places), workers=self.workers, name=self.name)
        object.__setattr__(found, "_labels", self.labels[ids.to(self.device)])
        object.__setattr__(found, "_content", hashlib.sha256(f"{self.fingerprint} {places}".encode()).hexdigest()[:16])
        return found.to(self.device)

    def joined_with(self, other: Split) -> Split:
        """Return these samples and those of another split after them, still to be read."""
        assert isinstance(other, DatasetSplit)  # of the same data module
        return DatasetSplit(
            joined_datasets(self.dataset, other.dataset), workers=self.workers, name="train and val"
        ).to(self.device)

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
        self, parts: Sequence[Tensor], shown: Shown | None = None, kept: dict[int, Readers] | None = None
    ) -> Iterator[tuple[Tensor, Inputs, Tensor]]:
        """Yield ids, inputs and labels of batches, read ahead by the workers, on the CPU.

        Args:
            parts: Positions of the samples of each batch.
            shown: The view that is read; ``None`` reads samples as they are.
            kept: Readers of a training by the identity of their split, which are used, or else begun and added;
                ``None`` starts some for this pass alone.

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
        self, indices: list[Any], shown: Shown | None, kept: dict[int, Readers] | None
    ) -> Iterator[tuple[Tensor, Inputs, Tensor]]:
        """Return an iterator over the batches of samples at some indices; see ``batches``."""
        samples = Positions(partial(self.read, shown=shown))
        if kept is None:
            return read_once(samples, indices, self.workers, self.name)
        if id(self) not in kept:  # the readers hold it, so that no other split gets its identity
            kept[id(self)] = Readers(samples, self.workers, self.name)
        return kept[id(self)].read(indices)

    def _check_form(self, ids: Tensor, inputs: Inputs, labels: Tensor, is_view: bool) -> None:
        """Check that a batch has the form of the first one that was read, of samples as they are or in views."""
        first = {name: one[0] for name, one in inputs.items()} if isinstance(inputs, dict) else inputs[0]
        place, sample = int(ids[0]), (first, labels[0])
        check_form([place], [sample], self.name, self._forms.setdefault(is_view, (place, form_of(sample))))
