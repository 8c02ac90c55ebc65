"""Order and batches of an epoch, which depend on the seed and the epoch alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence, Sized
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from lightning_modules.batch import Batch
from lightning_modules.data.live import LiveTeacher
from lightning_modules.data.views import BatchMix, Views
from lightning_modules.top_k import TopKLogits


@dataclass(frozen=True)
class Mixing:
    """Mixes the samples of batches.

    Attributes:
        mix: How.
        soft_targets: Returns targets of a batch as floats, which can be mixed.
        seed: Seed of the draws, with that of the order, the epoch and the batch.
    """

    mix: BatchMix
    soft_targets: Callable[[Tensor], Tensor]
    seed: int


@dataclass(frozen=True)
class Asked:
    """A teacher that is asked about each batch.

    Attributes:
        teacher: The teacher.
        layers: Its layers whose outputs batches hold beside the logits.
    """

    teacher: LiveTeacher
    layers: Sequence[str] = ()


class Sampling(Protocol):
    """Gives the order of each epoch (``lightning_modules.data.sampling``), of ``size`` samples."""

    size: int

    def order(self, seed: int, epoch: int) -> Tensor:
        """Return positions of samples, shape (``size``,), int64, on the CPU."""

    def showings(self, epoch: int) -> Tensor | None:
        """Return which showing of its sample each one of an epoch is, which its view follows; ``None``: the epoch."""


class GivenOrder:
    """Shows some samples, in one order in each epoch.

    Args:
        places: Positions of the samples, shape (S,), int64, on the CPU.
    """

    def __init__(self, places: Tensor) -> None:
        self._places, self.size = places, len(places)

    def order(self, seed: int, epoch: int) -> Tensor:
        """Return the positions."""
        return self._places

    def showings(self, epoch: int) -> None:
        """Return nothing: all are shown in the view of the epoch."""


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


class EpochLoader(ABC):
    """Base class of loaders, whose epochs have an order and batches that depend on (seed, epoch) alone.

    Args:
        split: The samples.
        batch_size: Samples in a batch; the last batch may be smaller, but a single remaining sample joins the batch
            before it: BatchNorm can't be trained on one sample.
        teacher: The teacher's stored outputs for every sample, first dimension N, second V if there are views: tensors,
            or ``lightning_modules.data.stored_top_k.StoredTopK``.
        shuffle_seed: Seed of the order, with the epoch; ``None`` keeps the order of the split.
        sampler: Gives the order in place of a shuffle; ``None`` shows each sample once.
        views: Views of the samples, one in each epoch; ``None`` shows them as they are.
        mixing: Mixes the samples of each batch; ``None`` mixes none.
        asked: The teacher that is asked about each batch; ``None`` where its outputs are stored, or not needed.
    """

    def __init__(
        self,
        split: Sized,
        *,
        batch_size: int,
        teacher: dict[str, Any] | None = None,
        shuffle_seed: int | None = None,
        sampler: Sampling | None = None,
        views: Views | None = None,
        mixing: Mixing | None = None,
        asked: Asked | None = None,
    ) -> None:
        self.split = split
        self._sampler = sampler
        self._samples = len(split) if sampler is None else sampler.size
        self.batch_size = batch_size
        self.teacher = teacher or {}
        self.shuffle_seed = shuffle_seed
        self.views = views
        self._mixing = mixing
        self._asked = asked
        self.epoch = 0

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of items, each of which is a list of batches."""

    @abstractmethod
    def __iter__(self) -> Iterator[list[Batch]]:
        """Yield the items of the epoch."""

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

    @property
    def view(self) -> int:
        """Return the view that the epoch shows; 0 where there are none."""
        return 0 if self.views is None else self.views.view_of(self.epoch)

    def _views(self) -> Tensor | None:
        """Return the view of each sample of the epoch, in its order; ``None`` where all show that of the epoch."""
        showings = None if self.views is None or self._sampler is None else self._sampler.showings(self.epoch)
        if showings is None or self.views is None:
            return None
        numbers, places = showings.unique(return_inverse=True)
        return torch.tensor([self.views.view_of(int(one)) for one in numbers])[places]

    def _stored(self, ids: Tensor, view: int | Tensor) -> dict[str, Any]:
        """Return the teacher's stored outputs of some samples, all in one view, or each in its own, in float32."""
        places = ids if self.views is None else (ids, view)
        return {name: _as_trained(values[places], ids.device) for name, values in self.teacher.items()}

    def _completed(self, batch: Batch, number: int) -> Batch:
        """Return a batch of the epoch, mixed, with what the teacher says of it, as far as that is wanted.

        Args:
            batch: The batch.
            number: Its number in the epoch.
        """
        if self._mixing is not None:
            seeds = (self._mixing.seed, self.shuffle_seed or 0, self.epoch, number)
            inputs, target = self._mixing.mix(batch.inputs, self._mixing.soft_targets(batch.target), seeds)
            batch = replace(batch, inputs=inputs, target=target)
        if self._asked is not None:
            batch = replace(batch, teacher=self._asked.teacher(batch.inputs, self._asked.layers))
        return batch


def _as_trained(values: Tensor | TopKLogits, device: torch.device) -> Tensor | TopKLogits:
    """Return stored outputs of a batch in float32; those in the form of ``TopK`` as they are, on a device."""
    return values.to(device) if isinstance(values, TopKLogits) else values.float()
