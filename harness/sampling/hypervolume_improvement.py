"""What a student may still add to the front: its costs are known before it trains, so only its quality is uncertain.

The volume that a front dominates is a sum over its costs: for each level of cost, the best quality that may be had for
it. A student of known costs adds to it wherever it is better than what may be had so far for as much. How good it will
be is a normal distribution (``curve_model``), so the volume that it may be expected to add is a sum of expected
improvements, each in closed form (after the expected hypervolume improvement of Emmerich 2005, with all objectives but
one certain).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr, ndtr

Array = NDArray[np.float64]
Places = NDArray[np.int64]

_FLOOR = 0.004  # of the range, beside what is missing to its end: no logarithm is without bound
_MOST_STEPS = {1: 256, 2: 32, 3: 10}  # of each cost, by how many costs there are; fewer where they are more
_FEWEST_STEPS = 5


@dataclass(frozen=True)
class Scale:
    """Quality as a model is to see it: the higher the better, and runs near the top told apart as those at the bottom.

    Where the metric has two ends, it is minus the logarithm of what is missing to the better one.

    Attributes:
        ends: The worse and the better end of the metric; ``None`` where it has not both.
    """

    ends: tuple[float, float] | None

    def of(self, values: Array) -> Array:
        """Values of the metric, the higher the better (a minimised one with its sign turned), on the scale."""
        if self.ends is None:
            return values
        worst, best = self.ends
        scaled: Array = -np.log(np.clip((best - values) / (best - worst), 0, None) + _FLOOR)
        return scaled

    def back(self, scaled: Array) -> Array:
        """Return what ``of`` was given."""
        if self.ends is None:
            return scaled
        worst, best = self.ends
        values: Array = best - (best - worst) * (np.exp(-scaled) - _FLOOR)
        return values

    def improvement(self, level: Array, mean: Array, deviation: Array) -> Array:
        """By how much of the metric a quality may be expected to be better than a level, and none where it is worse.

        Args:
            level: On the scale; as the others, of shapes that broadcast.
            mean: Of the quality, which is normal on the scale.
            deviation: Its standard deviation, above 0.
        """
        if self.ends is None:
            z = (mean - level) / deviation
            found: Array = deviation * np.exp(-(z**2) / 2) / (2 * np.pi) ** 0.5 + (mean - level) * ndtr(z)
            return np.maximum(found, 0)

        def beyond(at: Array | float) -> Array:
            z = (mean - at) / deviation
            # The mean of exp(-quality), where that is better, by its logarithm: a wide one alone is beyond any number.
            beneath: Array = np.exp(-at) * ndtr(z) - np.exp(deviation**2 / 2 - mean + log_ndtr(z - deviation))
            return beneath

        worst, best = self.ends
        return np.maximum((best - worst) * (beyond(level) - beyond(-float(np.log(_FLOOR)))), 0)


class ExpectedImprovement:
    """The front so far over the costs of all architectures.

    Args:
        costs: Of each architecture, the lower the better, on the scales that the volume is measured on, shape (A, K);
            K may be 0.
        scale: Of quality.
    """

    def __init__(self, costs: Array, scale: Scale) -> None:
        self._scale = scale
        axes = costs if costs.shape[1] else np.zeros((len(costs), 1))
        most = _MOST_STEPS.get(axes.shape[1], _FEWEST_STEPS)
        steps = [_steps(axis, most) for axis in axes.T]
        self._shape = tuple(len(step) for step in steps)
        self._places = tuple(
            np.maximum(np.searchsorted(step, axis + 1e-12, side="right") - 1, 0)
            for step, axis in zip(steps, axes.T, strict=True)
        )
        self._room = np.ones(self._shape)
        for number, step in enumerate(steps):
            # Beyond the dearest one lies as much as between two: or it would have nothing to gain.
            widths = np.append(np.diff(step), (step[-1] - step[0]) / (len(step) - 1) if len(step) > 1 else 1.0)
            self._room = self._room * widths.reshape([-1 if axis == number else 1 for axis in range(len(steps))])

    def best(self, architectures: Places, ends: Array, *, floor: float) -> Array:
        """Return the best quality that may be had for each level of costs.

        Args:
            architectures: Of the students trained to the end, shape (N,).
            ends: The quality of each, on the scale, shape (N,).
            floor: Quality where nothing may be had.
        """
        best = np.full(self._shape, floor)
        np.maximum.at(best, tuple(axis[architectures] for axis in self._places), ends)
        for axis in range(best.ndim):
            best = np.maximum.accumulate(best, axis=axis)
        return best

    def is_best(self, best: Array, architectures: Places, ends: Array) -> NDArray[np.bool_]:
        """Return which students trained to the end nothing that costs no more surpasses, shape (N,)."""
        found: NDArray[np.bool_] = ends >= best[tuple(axis[architectures] for axis in self._places)]
        return found

    def gains(self, best: Array, architectures: Places, mean: Array, deviation: Array) -> Array:
        """Return the volume that each of some students may be expected to add.

        Args:
            best: What may be had so far.
            architectures: Of the students, shape (M,).
            mean: Of the quality that each may have, on the scale, shape (M,).
            deviation: Standard deviation of it, shape (M,).
        """
        levels, which = np.unique(best.ravel(), return_inverse=True)
        improvements = self._scale.improvement(levels, mean[:, None], deviation[:, None])
        gains: Array = (improvements * self._rooms(which, len(levels))[architectures]).sum(axis=1)
        return gains

    def _rooms(self, which: Places, count: int) -> Array:
        """For each architecture, how much room of its costs or more lies at each of some levels, shape (A, levels)."""
        at = np.zeros((which.size, count))
        at[np.arange(which.size), which] = self._room.ravel()
        rooms = at.reshape(*self._shape, count)
        for axis in range(len(self._shape)):
            rooms = np.flip(np.cumsum(np.flip(rooms, axis), axis=axis), axis)
        found: Array = rooms[self._places]
        return found


def _steps(axis: Array, most: int) -> Array:
    """Return the levels of a cost: every one that there is, or so many."""
    levels = np.unique(axis)
    if len(levels) > most:
        levels = np.unique(levels[np.linspace(0, len(levels) - 1, most).astype(int)])
    return levels
