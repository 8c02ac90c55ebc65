"""Order and batches of an epoch, which depend on the seed and the epoch alone."""

from __future__ import annotations

from collections.abc import Sized
from typing import Protocol

import torch
from torch import Tensor


class Sampling(Protocol):
    """Gives the order of each epoch (``lightning_modules.data.sampling``), of ``size`` samples."""

    size: int

    def order(self, seed: int, epoch: int) -> Tensor:
        """Return positions of samples, shape (``size``,), int64, on the CPU."""


def epoch_order(samples: int, seed: int | None, epoch: int) -> Tensor:
    """Return the order of the samples in an epoch, shape (N,), int64, on the CPU.

    Args:
        samples: Number of samples N.
        seed: Seed of the order, with the epoch; ``None`` keeps the samples in their order.
        epoch: The epoch.
    """
    if seed is None:
        return torch.arange(samples)
    # Drawn on the CPU, so that the order does not depend on the device. The seed holds both numbers in full:
    # neighbouring (seed, epoch) pairs must not share an order.
    return torch.randperm(samples, generator=torch.Generator().manual_seed((seed << 24) + epoch))


def batch_starts(samples: int, batch_size: int) -> list[int]:
    """Return where each batch of an epoch begins; a single remaining sample does not make a batch of its own."""
    whole, left = divmod(samples, batch_size)
    count = whole + (left > 1 or (left == 1 and not whole))
    return [batch_size * batch for batch in range(count)]


class EpochLoader:
    """Base class of loaders, whose epochs have an order and batches that depend on (seed, epoch) alone.

    Args:
        split: The samples.
        batch_size: Samples in a batch; the last batch may be smaller, but a single remaining sample joins the batch
            before it: BatchNorm can't be trained on one sample.
        teacher: The teacher's stored outputs for every sample, first dimension N, second V if there are views.
        shuffle_seed: Seed of the order, with the epoch; ``None`` keeps the order of the split.
        sampler: Gives the order in place of a shuffle; ``None`` shows each sample once.
    """

    def __init__(
        self,
        split: Sized,
        *,
        batch_size: int,
        teacher: dict[str, Tensor] | None = None,
        shuffle_seed: int | None = None,
        sampler: Sampling | None = None,
    ) -> None:
        self._samples = len(split) if sampler is None else sampler.size
        self._sampler = sampler
        self.batch_size = batch_size
        self.teacher = teacher or {}
        self.shuffle_seed = shuffle_seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which decides order and view; call it before each pass, also after a resume."""
        self.epoch = epoch

    @property
    def batches(self) -> int:
        """Return the number of batches, and so of optimizer steps, in an epoch."""
        return len(self._starts())

    @property
    def last_batch_size(self) -> int:
        """Return the number of samples in the last batch: fewer than in the others, or one more."""
        return self._samples - self._starts()[-1]

    def _starts(self) -> list[int]:
        """Return where each batch begins in the order of the epoch."""
        return batch_starts(self._samples, self.batch_size)

    def _order(self) -> Tensor:
        """Return the order of the samples in the epoch, shape (N,), int64, on the CPU."""
        if self._sampler is not None:
            return self._sampler.order(self.shuffle_seed or 0, self.epoch)
        return epoch_order(self._samples, self.shuffle_seed, self.epoch)
