"""Processes that read samples ahead of their use: started for one pass, or kept over the passes of a training."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Generator, Iterator
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from lightning_modules.batch import Inputs
from lightning_modules.data.reading import Collate, end_with_parent

Reading = Iterator[tuple[Tensor, Inputs, Tensor]]
"""Ids, inputs and labels of batches."""


class Readers:
    """The readers of one split that are kept over passes, which follow one another.

    Forks of a process that holds a lease hold it too, so they must end with the training: ``close`` ends them.

    Args:
        samples: Gives what is read at an index.
        workers: Their number.
        name: The split's name in messages.
    """

    def __init__(self, samples: Dataset[Any], workers: int, name: str) -> None:
        self._indices: list[Any] = []
        self._loader: DataLoader[Any] | None = _loader(samples, self._indices, workers, name, are_kept=workers > 0)
        self._passes: list[Generator[Any, None, None]] = []

    def read(self, indices: list[Any]) -> Reading:
        """Return an iterator over the batches of samples at some indices; it ends a pass that was left."""
        self._end_passes()
        self._indices[:] = indices
        assert self._loader is not None
        self._passes.append(begun := _each(started(self._loader)))
        return begun

    def close(self) -> None:
        """End the readers."""
        self._end_passes()
        self._loader = None

    def _end_passes(self) -> None:
        while self._passes:
            self._passes.pop().close()


def read_once(samples: Dataset[Any], indices: list[Any], workers: int, name: str) -> Reading:
    """Return an iterator over the batches of samples at some indices, with readers that end with it."""
    return started(_loader(samples, indices, workers, name, are_kept=False))


def _each(reading: Reading) -> Generator[tuple[Tensor, Inputs, Tensor], None, None]:
    yield from reading


def started(loader: DataLoader[Any]) -> Reading:
    """Return an iterator over a loader, whose readers are started if they are not running."""
    with warnings.catch_warnings():  # for as long as readers are started, and not while batches are used
        warnings.filterwarnings("ignore", "This DataLoader will create")  # more workers than cores
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads, which readers do not use
        return iter(loader)


def _loader(samples: Dataset[Any], indices: list[Any], workers: int, name: str, *, are_kept: bool) -> DataLoader[Any]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create")
        return DataLoader(
            samples,
            batch_sampler=cast("Sampler[list[int]]", indices),
            num_workers=workers,
            persistent_workers=are_kept,
            # Forks, whatever Python's default is: a dataset's class may be in a file that no other process
            # can import.
            multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
            collate_fn=Collate(name),
            worker_init_fn=partial(end_with_parent, os.getpid()),
            generator=torch.Generator(),  # else each pass would draw from the one that a training seeds
        )
