"""Augment samples repeatably, so that a teacher's outputs on augmented samples can be stored.

Free random augmentation would need the teacher at every step, or pair the student with outputs of another image: both
must see the same view (Beyer et al. 2022, arXiv:2106.05237). So a sample has a fixed number of *views*, each a function
of (seed, sample, view): the teacher is evaluated once on each of them, and a student's epochs cycle through them. Where
views are fresh in each epoch, or samples mixed, the teacher is asked live (``lightning_modules.data.live``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_modules.batch import Inputs, join, select

FRESH = "fresh"
"""In place of a number of views: each epoch has its own."""
_LOOKED_AT = 2  # fresh views, where views are looked at


class BatchMix(Protocol):
    """Mixes the samples of a batch, and their targets (``lightning_modules.data.augment.Mix``)."""

    def __call__(self, inputs: Inputs, targets: Tensor, seeds: tuple[int, ...]) -> tuple[Inputs, Tensor]:
        """Return mixed inputs and targets, which depend on ``seeds`` alone."""


@dataclass(frozen=True)
class Views(ABC):
    """Views of samples.

    Attributes:
        count: Number V of views of each sample, at least 1; 1 where they are fresh.
        seed: Seed of the draws, with sample and view, in [0, 2^31).
        fresh: Whether each epoch has a view of its own, so that a teacher's answers to them can't be stored.
        mix: Mixes the samples of each training batch; ``None`` mixes none.
        mixes: Whether a view may mix several samples (MixUp, CutMix). A subclass must declare mixing that can't be
            detected; ``of`` must return targets then, or no gain is claimed.

    Raises:
        ValueError: If ``count`` is below 1, or ``seed`` outside its range.
    """

    count: int = 4
    seed: int = 0
    fresh: bool = field(default=False, kw_only=True)
    mix: BatchMix | None = field(default=None, kw_only=True)
    mixes: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"a sample must have at least 1 view, but got {self.count=}.")
        if not isinstance(self.seed, int) or not 0 <= self.seed < 2**31:
            raise ValueError(f"seed must lie in [0, 2^31), a whole number, but got {self.seed=}.")
        if self.mix is not None and not callable(self.mix):
            raise ValueError(
                f"mix of views must mix the samples of batches, as MixUp(..) does, but got {self.mix!r}; call a "
                "parameter of your own by another name."
            )

    @property
    def can_be_stored(self) -> bool:
        """Return whether a teacher's answers to all views can be stored."""
        return not self.fresh and self.mix is None

    @property
    def examples(self) -> range:
        """Return the views to look at: all, or the first ones where each epoch has its own."""
        return range(_LOOKED_AT if self.fresh else self.count)

    def view_of(self, epoch: int) -> int:
        """Return the view that an epoch shows."""
        return epoch if self.fresh else epoch % self.count

    def __str__(self) -> str:
        views = "fresh views" if self.fresh else f"{self.count} views of each"
        if self.mix is None:
            return views
        return (
            f"samples mixed by {self.mix!r}"
            if self.count == 1 and not self.fresh
            else f"{views}, mixed by {self.mix!r}"
        )

    @abstractmethod
    def of(self, inputs: Inputs, ids: Tensor, view: int) -> Inputs | tuple[Inputs, Tensor]:
        """Return one view of some samples, which must not depend on the batch that they are in.

        A view that mixes samples, or has soft labels, returns targets too: they replace the labels in the hard-label
        loss of teacher, student and control. The samples that it mixes in must be stored with it, and drawn by (seed,
        sample, view): a batch holds other samples each time.

        Args:
            inputs: The original samples, first dimension B.
            ids: Positions of the samples in their split, shape (B,), int64.
            view: Index of the view, in [0, ``count``).

        Returns:
            The inputs, or the inputs and the class probabilities, shape (B, C), floats, each row summing to 1.
        """

    def shown(self, inputs: Inputs, labels: Tensor, ids: Tensor, view: int) -> tuple[Inputs, Tensor | None]:
        """Return one view of some samples, and its targets, if it has any.

        Args:
            inputs: The original samples, first dimension B.
            labels: Their labels, first dimension B.
            ids: Positions of the samples in their split, shape (B,), int64.
            view: Index of the view.
        """
        shown = self.of(inputs, ids, view)
        if not isinstance(shown, tuple):
            return shown, None
        inputs, targets = shown
        return inputs, targets.to(ids.device, torch.float32 if targets.is_floating_point() else targets.dtype)


def shown_each(
    views: Views, inputs: Inputs, labels: Tensor, ids: Tensor, view: int | Tensor
) -> tuple[Inputs, Tensor | None]:
    """Return samples as ``Views.shown`` does, all in one view, or each in its own, shape (B,)."""
    if isinstance(view, int):
        return views.shown(inputs, labels, ids, view)
    order = view.argsort(stable=True)
    parts = order.split(view.unique(return_counts=True)[1].tolist())
    shown = [views.shown(select(inputs, part), labels[part], ids[part], int(view[part[0]])) for part in parts]
    back, targets = order.argsort(), [given for _, given in shown if given is not None]
    return select(join(each for each, _ in shown), back), torch.cat(targets)[back] if targets else None


@dataclass(frozen=True)
class ShiftedViews(Views):
    """Views of images shifted by up to ``most`` pixels in each direction: zero padding by ``most`` and a random crop.

    Attributes:
        most: Pixels, at least 0, and less than height and width of an image.

    Raises:
        ValueError: If ``most`` is out of its range.
    """

    most: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.most < 0:
            raise ValueError(f"images must be moved by at least 0 pixels, but got {self.most=}.")

    def of(self, inputs: Inputs, ids: Tensor, view: int) -> Inputs:
        """Return images (B, C, H, W), shifted."""
        assert isinstance(inputs, Tensor)
        steps = 2 * self.most + 1
        drawn = np.floor(uniforms(self.seed, ids, view, draws=2) * steps).astype(np.int64)
        moves = torch.from_numpy(drawn[:, 0] * steps + drawn[:, 1]).to(inputs.device)
        moved = torch.zeros_like(inputs)
        height, width = inputs.shape[-2:]
        if self.most >= min(height, width):
            raise ValueError(f"images of {height}x{width} pixels can't be moved by up to {self.most}.")
        for move in range(steps * steps):  # a loop over images would take a hundred times as long
            rows = (moves == move).nonzero().squeeze(1)
            down, right = move // steps - self.most, move % steps - self.most
            to_y, from_y = slice(max(down, 0), height + min(down, 0)), slice(max(-down, 0), height - max(down, 0))
            to_x, from_x = slice(max(right, 0), width + min(right, 0)), slice(max(-right, 0), width - max(right, 0))
            moved[rows, :, to_y, to_x] = inputs[rows, :, from_y, from_x]
        return moved


def uniforms(seed: int, ids: Tensor, view: int, *, draws: int) -> NDArray[np.float64]:
    """Return uniform numbers in [0, 1) that depend on (seed, sample, view) alone, shape (B, ``draws``), float64.

    They are a hash of (seed, sample, view), for a generator per sample would take longer than the sample itself. The
    hash applies the mixer of SplitMix64 to one number after the other (Steele, Lea & Flood 2014,
    doi:10.1145/2660193.2660195).
    """
    state = _mixed(np.full(len(ids), seed, dtype=np.uint64))
    state = _mixed(state ^ ids.cpu().numpy().astype(np.uint64))
    state = _mixed(state ^ np.uint64(view))
    mixed = _mixed(state[:, None] ^ np.arange(draws, dtype=np.uint64))
    return np.asarray((mixed >> np.uint64(11)) * 2.0**-53, dtype=np.float64)


def _mixed(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
