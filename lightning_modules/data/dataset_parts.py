"""Parts of map-style datasets and datasets joined, with what the datasets say of their samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from torch.utils.data import ConcatDataset, Dataset, Subset

from lightning_modules.data.augment import Augmentable, Transform


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


def part_of(dataset: Dataset[Any], places: Sequence[int]) -> Dataset[Any]:
    """Return the samples of a dataset at some positions, with what it says of them."""
    return (_AugmentablePart if isinstance(dataset, Augmentable) else _Part)(dataset, places)


class _Joined(ConcatDataset[Any]):
    """The samples of two datasets, one after the other, with what both say of them."""

    def __init__(self, first: Dataset[Any], second: Dataset[Any]) -> None:
        super().__init__([first, second])
        self.ids = _after(listed_ids(first), listed_ids(second))
        self.targets = _after(listed_targets(first), listed_targets(second))
        known = declared_fingerprint(first), declared_fingerprint(second)
        self.fingerprint = None if None in known else " ".join(map(str, known))


class _AugmentableJoined(_Joined):
    """The same of datasets that have more of a sample than they give."""

    def augmented(self, place: int, transform: Transform) -> tuple[Any, Any]:
        """Return a sample whose original has gone through a transform."""
        first, second = cast("list[Augmentable]", self.datasets)
        size = self.cumulative_sizes[0]
        return first.augmented(place, transform) if place < size else second.augmented(place - size, transform)


def joined_datasets(first: Dataset[Any], second: Dataset[Any]) -> Dataset[Any]:
    """Return the samples of two datasets, one after the other, with what both say of them."""
    both = isinstance(first, Augmentable) and isinstance(second, Augmentable)
    return (_AugmentableJoined if both else _Joined)(first, second)


def _after(first: Any, second: Any) -> list[Any] | None:
    """Return what two datasets list, one after the other; ``None`` where one lists nothing."""
    return None if first is None or second is None else [*first, *second]


def declared_fingerprint(dataset: Any) -> str | None:
    """Return what a dataset says that it is; ``None`` if its samples must be read to know."""
    return getattr(dataset, "fingerprint", None)


def listed_targets(dataset: Any) -> Any:
    """Return the labels that a dataset lists, one for each sample; ``None`` if they must be read."""
    listed = getattr(dataset, "targets", None)
    return None if listed is None or len(listed) != len(dataset) else listed
