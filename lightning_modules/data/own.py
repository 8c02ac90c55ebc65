"""Take a LightningDataModule that someone has already: its datasets and batch sizes, in an order of the engine's."""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    default_collate,
    get_worker_info,
)

from lightning_modules.data.dataset_parts import listed_ids
from lightning_modules.data.disk import DatasetDataModule
from lightning_modules.data.reading import leaves
from lightning_modules.data.tensors import Split, TensorDataModule

_STAGES = {"train": "fit", "val": "fit", "test": "test"}
_PACKAGES = ("pytorch_lightning", "lightning")
_SEED = 0  # of what a module draws, such as a random_split without a generator
_COLLATED = 4  # samples, to see whether a collate_fn gives each what it gives it alone
_HOOKS = {
    "on_before_batch_transfer": "change samples in the dataset",
    "transfer_batch_to_device": "give tensors or dicts of tensors, which are moved",
    "on_after_batch_transfer": "change samples in the dataset, or give them and an Augment to DatasetDataModule",
    "state_dict": "let samples depend on their position alone, for a trial resumes by its seed and epoch",
    "load_state_dict": "let samples depend on their position alone, for a trial resumes by its seed and epoch",
}
"""Hooks of Lightning that are not called, and what to do in place of each."""


def is_lightning(value: object) -> bool:
    """Return whether a value is a LightningDataModule, of ``pytorch_lightning`` or of ``lightning``."""
    return _base_of(value) is not None


def data_module_of(given: Any) -> TensorDataModule:
    """Return the datasets of a LightningDataModule as a data module of the engine.

    ``prepare_data()`` is called once, then ``setup("fit")`` and ``setup("test")``, with the same seeds each time, so
    that a ``random_split`` without a generator gives the same splits in each process. Of a dataloader its dataset, its
    batch size, ``collate_fn``, ``worker_init_fn`` and the number of its workers count: the order of an epoch depends on
    the seed of a trial. A module of ``TensorDataset`` is served from memory, with the same batches.

    Args:
        given: Gives one dataloader of a map-style dataset for each of train, val and test.

    Raises:
        TypeError: If it has a hook that is not called, gives no such dataloader, or its ``collate_fn`` gives no
            (inputs, targets).
        ValueError: If a split is missing, two of them share samples, or what a dataloader does can't be followed.
    """
    base, owner = _base_of(given), type(given).__name__
    assert base is not None
    for hook, remedy in _HOOKS.items():
        if _is_overridden(given, base, hook):
            raise TypeError(f"{owner} has {hook}(), which is not called here: leave it out, and {remedy}.")
    parts = {name: _served(loader, name, owner) for name, loader in _loaders(given, base, owner).items()}
    _check_disjoint(parts, owner)
    sizes: dict[str, Any] = {"batch_size": parts["train"].batch_size, "eval_batch_size": parts["val"].batch_size}
    held: dict[str, Any] = {name: part.in_memory() for name, part in parts.items()}
    datasets: dict[str, Any] = {name: part.dataset for name, part in parts.items()}
    module: TensorDataModule
    if all(held.values()):
        module = TensorDataModule(**held, **sizes)
    else:
        module = DatasetDataModule(**datasets, **sizes, workers=max(part.workers for part in parts.values()))
    if dropping := [name for name, part in parts.items() if part.drop_last]:
        loaders = " and ".join(f"{name}_dataloader()" for name in dropping)
        module.notes = (f"drop_last of {loaders} is not followed: every sample counts, in each epoch and in a score",)
    return module


@dataclass(frozen=True)
class _Part:
    """What counts of a dataloader."""

    dataset: Dataset[Any]
    batch_size: int
    workers: int
    drop_last: bool

    def in_memory(self) -> Split | None:
        """Return the samples of a ``TensorDataset`` of inputs and labels, or of a part of one; ``None`` of others."""
        source, places = _origin(self.dataset)
        if type(source) is not TensorDataset or len(source.tensors) != 2:
            return None
        chosen: Any = slice(None) if places is None else torch.tensor(places)
        return Split(source.tensors[0][chosen], source.tensors[1][chosen])


def _base_of(value: object) -> type | None:
    """Return Lightning's own class of data modules among the bases of a value's class."""
    bases = (base for base in type(value).__mro__ if base.__name__ == "LightningDataModule")
    return next((base for base in bases if base.__module__.partition(".")[0] in _PACKAGES), None)


def _is_overridden(given: Any, base: type, method: str) -> bool:
    """Return whether a method is not Lightning's; ``from_datasets`` gives them to an instance."""
    return getattr(getattr(given, method), "__func__", None) is not getattr(base, method)


@contextlib.contextmanager
def _seeded() -> Iterator[None]:
    """Seed what the code within draws, and put the generators back."""
    before = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        np.random.seed(_SEED)
        random.seed(_SEED)
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])


def _loaders(given: Any, base: type, owner: str) -> dict[str, DataLoader[Any]]:
    """Return the dataloader of each split."""
    found: dict[str, DataLoader[Any]] = {}
    with _seeded():
        given.prepare_data()
    for name, stage in _STAGES.items():
        method = f"{name}_dataloader"
        if name != "val":  # which is set up with train
            with _seeded():
                given.setup(stage)
        with _seeded():
            loader = getattr(given, method)() if _is_overridden(given, base, method) else None
        if isinstance(loader, list | tuple) and len(loader) == 1:
            loader = loader[0]
        if loader is None or (isinstance(loader, Sequence) and not loader):
            raise ValueError(
                f"{owner} must have {method}(), but has none: students are trained on train, chosen by val, and "
                "confirmed on test; give each samples of its own."
            )
        if not isinstance(loader, DataLoader) or type(loader).__iter__ is not DataLoader.__iter__:
            several = f" of {len(loader)}" if isinstance(loader, Sequence | Mapping) else ""
            raise TypeError(
                f"{method}() of {owner} must give one torch.utils.data.DataLoader, but gives a "
                f"{type(loader).__name__}{several}; several datasets are joined by ConcatDataset."
            )
        found[name] = loader
    return found


def _served(loader: DataLoader[Any], name: str, owner: str) -> _Part:
    """Return what counts of a dataloader.

    Raises:
        TypeError: If its dataset is iterable.
        ValueError: If its sampler, its batches or its ``collate_fn`` can't be followed.
    """
    who, dataset, batches = f"{name}_dataloader() of {owner}", loader.dataset, loader.batch_sampler
    if isinstance(dataset, IterableDataset):
        raise TypeError(
            f"{who} must serve a map-style dataset, with a length and a sample for each position, but serves a "
            f"{type(dataset).__name__}, an IterableDataset: the teacher's outputs are joined to samples by position."
        )
    if type(batches) is not BatchSampler:
        what = "batches of the dataset's own (batch_size=None)" if batches is None else f"a {type(batches).__name__}"
        raise ValueError(
            f"{who} must cut its samples into batches of one size, but has {what}: give batch_size=, and let the "
            "dataset give single samples."
        )
    dataset = _sampled(dataset, batches.sampler, who)
    collate = None if loader.collate_fn is default_collate else loader.collate_fn
    start = loader.worker_init_fn if loader.num_workers else None
    if collate is not None:
        _check_collate(collate, dataset, who)
    if collate is not None or start is not None:
        dataset = _Served(dataset, collate, start)
    return _Part(dataset, batches.batch_size, loader.num_workers, batches.drop_last)


def _sampled(dataset: Dataset[Any], sampler: Any, who: str) -> Dataset[Any]:
    """Return the samples that a sampler chooses; their order is the engine's."""
    if type(sampler) is SequentialSampler:
        return dataset
    if type(sampler) is SubsetRandomSampler:
        return Subset(dataset, sorted(int(place) for place in sampler.indices))
    if type(sampler) is RandomSampler and not sampler.replacement and sampler.num_samples == len(dataset):  # type: ignore[arg-type]
        return dataset
    what = "replacement or num_samples" if type(sampler) is RandomSampler else "it"
    raise ValueError(
        f"{who} must show each sample once an epoch, but has a {type(sampler).__name__}: leave {what} out, and let the "
        "task's sampler(split, seed, epoch) give the positions."
    )


def _check_collate(collate: Callable[[list[Any]], Any], dataset: Dataset[Any], who: str) -> None:
    """Check that a ``collate_fn`` gives (inputs, targets), and a sample the same alone as beside others.

    Raises:
        TypeError: If it gives something else.
        ValueError: If it mixes samples, draws at random or pads to the longest of a batch.
    """
    samples = [dataset[place] for place in range(min(_COLLATED, len(dataset)))]  # type: ignore[arg-type]
    together, alone = _pair(collate(samples), who), [_pair(collate([one]), who) for one in samples]
    for whole, *rows in zip(leaves(together), *map(leaves, alone), strict=True):
        shapes = {row.shape[1:] for row in rows} | {whole.shape[1:]}
        if len(shapes) > 1 or not torch.equal(torch.cat(rows).nan_to_num(), whole.nan_to_num()):
            raise ValueError(
                f"the collate_fn of {who} must give a sample the same alone as beside others, but does not: pad "
                "samples to one length in the dataset, and mix or draw nothing."
            )


def _pair(found: Any, who: str) -> tuple[Any, Tensor]:
    """Return what a ``collate_fn`` gave, if it is inputs and targets."""
    if isinstance(found, tuple | list) and len(found) == 2 and isinstance(found[1], Tensor) and found[1].ndim:
        inputs = dict(found[0]) if isinstance(found[0], Mapping) else found[0]
        if all(isinstance(one, Tensor) for one in (inputs.values() if isinstance(inputs, dict) else [inputs])):
            return inputs, found[1]
    what = f"{type(found).__name__}{f' of {len(found)}' if isinstance(found, tuple | list | Mapping) else ''}"
    raise TypeError(
        f"the collate_fn of {who} must give (inputs, targets), a tensor or a dict of tensors and a tensor, but gives a "
        f"{what}; the inputs are what a network is called with."
    )


class _Served(Dataset[Any]):
    """A dataset as its dataloader serves it, sample by sample; its other attributes are those of the dataset."""

    def __init__(self, dataset: Any, collate: Callable[[list[Any]], Any] | None, start: Any) -> None:
        self.dataset, self._collate, self._start, self._started = dataset, collate, start, False
        self.ids = listed_ids(dataset)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, place: int) -> Any:
        reader = get_worker_info()
        if self._start is not None and reader is not None and not self._started:
            self._start(reader.id)
            self._started = True
        if self._collate is None:
            return self.dataset[place]
        inputs, target = self._collate([self.dataset[place]])
        return {key: one[0] for key, one in inputs.items()} if isinstance(inputs, Mapping) else inputs[0], target[0]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "dataset":
            raise AttributeError(name)
        return getattr(self.dataset, name)


def _origin(dataset: Dataset[Any]) -> tuple[Dataset[Any], list[int] | None]:
    """Return the dataset that a ``Subset`` is a part of, and its positions there; ``None`` for all."""
    places: list[int] | None = None
    while type(dataset) is Subset:
        here = [int(place) for place in dataset.indices]
        places = here if places is None else [here[place] for place in places]
        dataset = dataset.dataset
    return dataset, places


def _check_disjoint(parts: Mapping[str, _Part], owner: str) -> None:
    """Check that no sample of a dataset is in two splits; copies in other datasets are for the doctor to find."""
    found = {}
    for name, part in parts.items():
        served = part.dataset.dataset if isinstance(part.dataset, _Served) else part.dataset
        source, places = _origin(served)
        found[name] = source, set(range(len(source)) if places is None else places)  # type: ignore[arg-type]
    for (one, (first, here)), (other, (second, there)) in itertools.combinations(found.items(), 2):
        if first is second and (shared := here & there):
            raise ValueError(
                f"{one} and {other} of {owner} must share no sample, but share {len(shared):,} of one "
                f"{type(first).__name__} (such as {min(shared)}): give each samples of its own, as random_split does."
            )
