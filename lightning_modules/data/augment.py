"""Augment single samples by any transform, such as torchvision's, and mix the samples of a batch.

A transform draws from the global generators of ``torch``, ``numpy`` and ``random``. They are seeded by (seed, sample,
view) around each call, and restored: so a trial that was killed sees the same bits again, and so does its teacher.
"""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lightning_modules.batch import Inputs, moved_to
from lightning_modules.data.views import FRESH, Views
from lightning_modules.random_states import random_states_restored

Transform = Callable[..., Any]
"""Called with a sample's input, returns another one; called with (input, target) and returns both, if ``joint``."""


@runtime_checkable
class Augmentable(Protocol):
    """A dataset that has more of a sample than it gives, such as a picture before it is cut and normalised."""

    def augmented(self, place: int, transform: Transform) -> tuple[Any, Any]:
        """Return (input, label) of the sample at a position, its original having gone through ``transform``."""


class Mix(ABC):
    """Base class of ways to mix the samples of a batch, each with the one after it.

    Args:
        alpha: Both parameters of the Beta distribution of the share that a sample keeps, above 0.

    Raises:
        ValueError: If ``alpha`` is not positive.
    """

    def __init__(self, alpha: float) -> None:
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha < math.inf:
            raise ValueError(f"alpha of {type(self).__name__} must be a finite number above 0, but got {alpha!r}.")
        self.alpha = float(alpha)

    def __call__(self, inputs: Inputs, targets: Tensor, seeds: tuple[int, ...]) -> tuple[Inputs, Tensor]:
        """Return mixed inputs and targets of a batch; the share is one draw for each batch.

        Args:
            inputs: Inputs of the batch.
            targets: Its targets as floats, first dimension B.
            seeds: Numbers that the draw depends on, alone.
        """
        drawn = np.random.default_rng(seeds)
        return self._mixed(inputs, targets, float(drawn.beta(self.alpha, self.alpha)), drawn)

    @abstractmethod
    def _mixed(
        self, inputs: Inputs, targets: Tensor, share: float, drawn: np.random.Generator
    ) -> tuple[Inputs, Tensor]:
        """Return the mixed batch.

        Args:
            inputs: Inputs of the batch.
            targets: Its targets as floats.
            share: Share that each sample keeps, in [0, 1].
            drawn: Draws what else is drawn.
        """

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.alpha:g})"


class MixUp(Mix):
    """Weighted sums of two samples and of their targets (Zhang et al. 2018, arXiv:1710.09412).

    Args:
        alpha: As of ``Mix``; the paper has 0.1 to 0.4.
    """

    def __init__(self, alpha: float = 0.2) -> None:
        super().__init__(alpha)

    def _mixed(
        self, inputs: Inputs, targets: Tensor, share: float, drawn: np.random.Generator
    ) -> tuple[Inputs, Tensor]:
        named = inputs if isinstance(inputs, dict) else {"": inputs}
        for name, values in named.items():
            if not values.is_floating_point():
                what = f"input {name!r}" if name else "the inputs"
                raise ValueError(f"MixUp must have floats to sum, but {what} are {values.dtype}.")
        mixed = {name: _sum(values, share) for name, values in named.items()}
        return mixed if isinstance(inputs, dict) else mixed[""], _sum(targets, share)


class CutMix(Mix):
    """Images with a rectangle of another one, and targets summed by area (Yun et al. 2019, arXiv:1905.04899).

    Args:
        alpha: As of ``Mix``; the paper has 1.
    """

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__(alpha)

    def _mixed(
        self, inputs: Inputs, targets: Tensor, share: float, drawn: np.random.Generator
    ) -> tuple[Inputs, Tensor]:
        if isinstance(inputs, dict) or inputs.ndim != 4:
            found = "a dict of inputs" if isinstance(inputs, dict) else f"inputs of shape {tuple(inputs.shape)}"
            raise ValueError(f"CutMix must have images (B, C, H, W), but got {found}.")
        height, width = inputs.shape[2:]
        rows, columns = (
            _cut(size, int(size * (1 - share) ** 0.5), int(drawn.integers(size))) for size in (height, width)
        )
        mixed = inputs.clone()
        mixed[:, :, rows, columns] = inputs.roll(-1, 0)[:, :, rows, columns]
        cut = (rows.stop - rows.start) * (columns.stop - columns.start)
        return mixed, _sum(targets, 1 - cut / (height * width))


def _sum(values: Tensor, share: float) -> Tensor:
    """Return each row times ``share``, and the next one times the rest."""
    return share * values + (1 - share) * values.roll(-1, 0)


def _cut(size: int, length: int, center: int) -> slice:
    """Return a part of ``length`` places around one, as far as it is within ``size``."""
    return slice(max(0, center - length // 2), min(size, center - length // 2 + length))


class Augment(Views):
    """Views of samples by any transform of one sample.

    Args:
        transform: Called with a sample's input: a tensor, or, of a folder of pictures, the picture's pixels (C, H, W),
            uint8, as they are in the file. ``None`` leaves samples as they are, to be mixed.
        views: Number of views of each sample, each drawn once, which the epochs show in turn; or ``"fresh"``: each
            epoch draws its own. The teacher is asked live about fresh views.
        mix: Mixes the samples of each training batch; the teacher is asked live about the mix.
        joint: Whether the transform is called with (input, target) and returns both, as for masks.
        seed: Seed of all draws, in [0, 2^31).

    Raises:
        TypeError: If ``transform`` can't be called, or ``mix`` is no ``Mix``.
        ValueError: If ``views`` is neither ``"fresh"`` nor a number of at least 1, or nothing is augmented.
    """

    def __init__(
        self,
        transform: Transform | None = None,
        *,
        views: int | Literal["fresh"] = 4,
        mix: Mix | None = None,
        joint: bool = False,
        seed: int = 0,
    ) -> None:
        if views != FRESH and (isinstance(views, bool) or not isinstance(views, int)):
            raise ValueError(f'views must be "fresh" or a whole number of at least 1, but got {views!r}.')
        if transform is not None and not callable(transform):
            raise TypeError(f"transform must be called with a sample's input, but {transform!r} can't be.")
        if mix is not None and not isinstance(mix, Mix):
            raise TypeError(f"mix must be MixUp(..), CutMix(..) or another Mix, but got {mix!r}.")
        if transform is None and mix is None:
            raise ValueError("Augment must have a transform or a mix, but has neither.")
        if joint and transform is None:
            raise ValueError("joint=True needs a transform of (input, target).")
        if transform is None:  # all views are alike
            views = 1
        super().__init__(count=1 if views == FRESH else int(views), seed=seed, fresh=views == FRESH, mix=mix)
        object.__setattr__(self, "transform", transform)
        object.__setattr__(self, "joint", joint)

    transform: Transform | None
    joint: bool

    def of(self, inputs: Inputs, ids: Tensor, view: int) -> Inputs:
        """Return one view of samples in memory: the transform is called with one after the other."""
        if self.transform is None:
            return inputs
        rows = [self._called(one, place=place, view=view) for place, one in _rows(ids, inputs)]
        return stacked(rows, ids.device)

    def shown(self, inputs: Inputs, labels: Tensor, ids: Tensor, view: int) -> tuple[Inputs, Tensor | None]:
        """Return one view of samples in memory, and targets where the transform gives them too."""
        if not self.joint:
            return self.of(inputs, ids, view), None
        targets = dict(_rows(ids, labels))
        pairs = [self._called(one, targets[place], place=place, view=view) for place, one in _rows(ids, inputs)]
        given = stacked([torch.as_tensor(target) for _, target in pairs], ids.device)
        assert isinstance(given, Tensor)
        return stacked([one for one, _ in pairs], ids.device), given

    def read(self, dataset: Dataset[Any], place: int, view: int) -> tuple[Any, Any]:
        """Return (input, label) of one view of a sample of a dataset."""
        if self.transform is None:
            return dataset[place]  # type: ignore[no-any-return]
        transform = partial(self._called, place=place, view=view)
        if isinstance(dataset, Augmentable):
            if not self.joint:
                return dataset.augmented(place, transform)
            raise ValueError(f"{type(dataset).__name__} gives its transform pictures alone, so joint=True is no use.")
        found, label = dataset[place]
        return transform(found, label) if self.joint else (transform(found), label)

    def _called(self, *sample: Any, place: int, view: int) -> Any:
        """Call the transform with generators that are seeded by (seed, sample, view), on a copy of the sample."""
        assert self.transform is not None
        with seeded(self.seed, place, view):
            shown = self.transform(*(copied(one) for one in sample))
        return _checked_pair(shown) if self.joint else _checked(shown)

    __eq__ = object.__eq__  # transforms can't be compared
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        views = '"fresh"' if self.fresh else self.count
        return f"Augment({self.transform!r}, views={views}, mix={self.mix!r}, joint={self.joint}, seed={self.seed})"


@contextmanager
def seeded(*seeds: int) -> Iterator[None]:
    """Seed the generators of ``torch`` (on the CPU), ``numpy`` and ``random``, and restore them at the end.

    Args:
        seeds: Numbers that the seed depends on.
    """
    with random_states_restored():
        first, second = np.random.SeedSequence(seeds).generate_state(2)
        torch.default_generator.manual_seed(int(first) << 32 | int(second))
        np.random.seed(int(first))
        random.seed(int(second))
        yield


def stacked(samples: list[Any], device: torch.device) -> Inputs:
    """Return samples as a batch.

    Raises:
        ValueError: If they are no tensors of one shape.
    """
    if isinstance(samples[0], dict):
        names = list(samples[0])
        if any(not isinstance(one, dict) or list(one) != names for one in samples):
            raise ValueError(f"a transform must give all samples the same names, {', '.join(names)}, in one order.")
        return {name: _stacked([one[name] for one in samples], device) for name in names}
    return _stacked(samples, device)


def _stacked(samples: list[Any], device: torch.device) -> Tensor:
    odd = next((one for one in samples if not isinstance(one, Tensor)), None)
    if odd is not None:
        raise ValueError(f"a transform must return tensors, but returned {type(odd).__name__}; v2.ToImage() makes one.")
    shapes = sorted({tuple(one.shape) for one in samples})
    if len(shapes) > 1:
        raise ValueError(f"a transform must give all samples one shape, but gave {shapes[0]} and {shapes[1]}.")
    return torch.stack([one.as_subclass(Tensor) for one in samples]).to(device)


def _rows(ids: Tensor, inputs: Inputs) -> Iterator[tuple[int, Any]]:
    """Yield the position of each sample, and the sample, on the CPU."""
    here = moved_to(torch.device("cpu"), inputs)
    for row, place in enumerate(ids.tolist()):
        yield place, {name: value[row] for name, value in here.items()} if isinstance(here, dict) else here[row]


def copied(sample: Any) -> Any:
    """Return a copy of the tensors of a sample: a transform may work in place."""
    if isinstance(sample, dict):
        return {name: copied(value) for name, value in sample.items()}
    return sample.clone() if isinstance(sample, Tensor) else sample


def _checked(shown: Any) -> Any:
    """Return what a transform gave.

    Raises:
        ValueError: If it is float64: networks are float32.
    """
    for one in shown.values() if isinstance(shown, dict) else (shown,):
        if isinstance(one, Tensor) and one.dtype == torch.float64:
            raise ValueError("a transform must return float32, as networks are, but returned float64: call .float().")
    return shown


def _checked_pair(given: Any) -> tuple[Any, Any]:
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise ValueError(f"a joint transform must return (input, target), but returned {type(given).__name__}.")
    return _checked(given[0]), _checked(given[1])
