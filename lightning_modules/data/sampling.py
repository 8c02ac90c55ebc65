"""Order the samples of an epoch by a function of the user's: which are shown, how often, and in which order."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_modules.data.tensors import Split

_MOST = 100  # times as many samples as there are: one that gives more is taken to go on for ever
_MORE = 10_000_000  # samples beyond those that there are, at most: their positions are held in memory

Sampler = Callable[[Split, int, int], Iterable[int]]
"""Returns the positions of an epoch's samples, for the training split, a seed and an epoch."""


class EpochSampler:
    """Gives the order of each epoch, as a sampler says.

    Args:
        sampler: Called with the split, a seed and an epoch, which alone decide what it returns: positions of samples,
            as a tensor or any sequence of whole numbers. A sample may be left out or repeated.
        split: The training samples.

    Attributes:
        size: Number of samples in an epoch, the same in all.

    Raises:
        TypeError: If it gives something else than positions.
        ValueError: If it gives none, never ends, gives positions that no sample has, or others when it is asked again.
    """

    def __init__(self, sampler: Sampler, split: Split) -> None:
        self._sampler, self._split = sampler, split
        first = self._asked(0, 0)
        self.size = len(first)
        if not torch.equal(first, self._asked(0, 0)):
            raise ValueError(
                "sampler(split, seed, epoch) must give the same samples for the same seed and epoch, but does not: "
                "draw from a generator that both seed, for a trial that was cut goes on where it was."
            )
        self.order(0, 1)

    def order(self, seed: int, epoch: int) -> Tensor:
        """Return the positions of an epoch's samples, shape (``size``,), int64, on the CPU."""
        found = self._asked(seed, epoch)
        if len(found) != self.size:
            raise ValueError(
                f"sampler(split, seed, epoch) must give as many samples in each epoch, for all trials take the same "
                f"steps, but gives {self.size:,} in epoch 0 and {len(found):,} in epoch {epoch}."
            )
        return found

    def showings(self, epoch: int) -> None:
        """Return nothing: an epoch's samples show its view."""

    def _asked(self, seed: int, epoch: int) -> Tensor:
        found = _positions(self._sampler(self._split, seed, epoch), len(self._split))
        if not len(found):
            raise ValueError(
                f"sampler(split, seed, epoch) must give a sample at least, but gives none in epoch {epoch}."
            )
        outside = found[(found < 0) | (found >= len(self._split))]
        if len(outside):
            raise ValueError(
                f"sampler(split, seed, epoch) must give positions from 0 to {len(self._split) - 1:,}, but gives "
                f"{int(outside[0]):,} in epoch {epoch}."
            )
        return found


def _positions(given: Any, samples: int) -> Tensor:
    """Return positions as a tensor; ``samples`` is the number of samples that there are."""
    most = min(_MOST * samples, samples + _MORE)
    if isinstance(given, Tensor | np.ndarray):
        values = torch.as_tensor(given)
        if values.ndim == 1 and not values.is_floating_point() and values.dtype != torch.bool:
            return values.cpu().long()
        raise TypeError(
            "sampler(split, seed, epoch) must give positions of samples, shape (N,), int64, but gives shape "
            f"{tuple(values.shape)} and {values.dtype}."
        )
    if not isinstance(given, Iterable):
        raise TypeError(
            f"sampler(split, seed, epoch) must give positions of samples, but gives a {type(given).__name__}."
        )
    found = list(itertools.islice(given, most + 1))
    if len(found) > most:
        raise ValueError(
            f"sampler(split, seed, epoch) must end, but gives more than {most:,} samples where there are {samples:,}; "
            "itertools.islice cuts one that goes on for ever."
        )
    for one in found:
        if isinstance(one, bool) or not isinstance(one, Integral):
            raise TypeError(f"sampler(split, seed, epoch) must give whole numbers, but gives {one!r}.")
    return torch.tensor([int(one) for one in found], dtype=torch.int64)
