"""Compute the expected hypervolume improvement of students whose costs are known before training.

The volume that a front dominates is an integral over its costs: at each level of costs, the best quality attained by a
student that costs no more (the attainment surface). A student of known costs adds volume at every level where it
surpasses that surface. Its quality is a normal distribution (``curve_model``), so the expected hypervolume improvement
is a sum of expected improvements, each in closed form (after Emmerich 2005, with all objectives but one certain).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr, ndtr

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

_OFFSET = 0.004  # share of the range, added to the distance from the better end: it bounds the logarithm
_MAX_LEVELS = {1: 256, 2: 32, 3: 10}  # of each cost, by the number of costs
_MAX_LEVELS_BEYOND = 5  # of each, if there are more costs than that


@dataclass(frozen=True)
class QualityScale:
    """Monotone transform of the primary metric to the scale of the curve model, where higher is better.

    If the metric has two ends, the scale is minus the logarithm of the distance from the better end: it separates
    values near the top as well as those at the bottom.

    Attributes:
        ends: Worse and better end of the metric; ``None`` if it lacks one.
    """

    ends: tuple[float, float] | None

    def transform(self, values: Array) -> Array:
        """Return values of the metric (a minimized one with its sign reversed) on the scale."""
        if self.ends is None:
            return values
        worst, best = self.ends
        scaled: Array = -np.log(np.clip((best - values) / (best - worst), 0, None) + _OFFSET)
        return scaled

    def inverse(self, scaled: Array) -> Array:
        """Return the values of the metric from values on the scale."""
        if self.ends is None:
            return scaled
        worst, best = self.ends
        values: Array = best - (best - worst) * (np.exp(-scaled) - _OFFSET)
        return values

    def expected_improvement(self, level: Array, mean: Array, deviation: Array) -> Array:
        """Return the expected improvement over a level, in units of the metric.

        Args:
            level: Level on the scale; all arguments broadcast.
            mean: Mean of the quality, which is normal on the scale.
            deviation: Its standard deviation, above 0.
        """
        if self.ends is None:
            z = (mean - level) / deviation
            improvement: Array = deviation * np.exp(-(z**2) / 2) / (2 * np.pi) ** 0.5 + (mean - level) * ndtr(z)
            return np.maximum(improvement, 0)

        def above(bound: Array | float) -> Array:
            z = (mean - bound) / deviation
            # The partial mean of exp(-quality) above the bound, by its logarithm: exp(deviation²) alone may overflow.
            partial: Array = np.exp(-bound) * ndtr(z) - np.exp(deviation**2 / 2 - mean + log_ndtr(z - deviation))
            return partial

        worst, best = self.ends
        return np.maximum((best - worst) * (above(level) - above(-float(np.log(_OFFSET)))), 0)


class ExpectedHypervolumeImprovement:
    """Acquisition function: expected hypervolume improvement over a grid of the architectures' costs.

    Args:
        costs: Costs of each architecture, to be minimized, on the scales of the volume, shape (A, K); K may be 0.
        scale: Scale of the quality.
    """

    def __init__(self, costs: Array, scale: QualityScale) -> None:
        self._scale = scale
        axes = costs if costs.shape[1] else np.zeros((len(costs), 1))
        most = _MAX_LEVELS.get(axes.shape[1], _MAX_LEVELS_BEYOND)
        levels = [_levels(axis, most) for axis in axes.T]
        self._shape = tuple(len(level) for level in levels)
        self._cells = tuple(
            np.maximum(np.searchsorted(level, axis + 1e-12, side="right") - 1, 0)
            for level, axis in zip(levels, axes.T, strict=True)
        )
        self._volumes = np.ones(self._shape)
        for number, level in enumerate(levels):
            # The last cell is as wide as the mean of the others: otherwise the dearest student could add nothing.
            last = (level[-1] - level[0]) / (len(level) - 1) if len(level) > 1 else 1.0
            widths = np.append(np.diff(level), last)
            self._volumes = self._volumes * widths.reshape([-1 if axis == number else 1 for axis in range(len(levels))])

    def attainment_surface(self, architectures: Indices, qualities: Array, *, floor: float) -> Array:
        """Return the best quality attained at each level of costs.

        Args:
            architectures: Architectures of the complete trials, shape (N,).
            qualities: Final quality of each on the scale, shape (N,).
            floor: Quality where nothing is attained.
        """
        surface = np.full(self._shape, floor)
        np.maximum.at(surface, tuple(axis[architectures] for axis in self._cells), qualities)
        for axis in range(surface.ndim):
            surface = np.maximum.accumulate(surface, axis=axis)
        return surface

    def is_nondominated(self, surface: Array, architectures: Indices, qualities: Array) -> NDArray[np.bool_]:
        """Return which complete trials are not surpassed by one that costs no more, shape (N,)."""
        found: NDArray[np.bool_] = qualities >= surface[tuple(axis[architectures] for axis in self._cells)]
        return found

    def evaluate(self, surface: Array, architectures: Indices, mean: Array, deviation: Array) -> Array:
        """Return the expected hypervolume improvement of each of M students, shape (M,).

        Args:
            surface: The attainment surface.
            architectures: Architectures of the students, shape (M,).
            mean: Mean of each one's quality on the scale, shape (M,).
            deviation: Its standard deviation, shape (M,).
        """
        levels, level_of_cell = np.unique(surface.ravel(), return_inverse=True)
        improvements = self._scale.expected_improvement(levels, mean[:, None], deviation[:, None])
        volumes = self._volumes_at_levels(level_of_cell, len(levels))
        total: Array = (improvements * volumes[architectures]).sum(axis=1)
        return total

    def _volumes_at_levels(self, level_of_cell: Indices, count: int) -> Array:
        """Return the volume of cells at each level that cost an architecture's costs or more, shape (A, levels)."""
        split = np.zeros((level_of_cell.size, count))
        split[np.arange(level_of_cell.size), level_of_cell] = self._volumes.ravel()
        volumes = split.reshape(*self._shape, count)
        for axis in range(len(self._shape)):
            volumes = np.flip(np.cumsum(np.flip(volumes, axis), axis=axis), axis)
        found: Array = volumes[self._cells]
        return found


def _levels(axis: Array, most: int) -> Array:
    """Return the distinct values of a cost, or ``most`` of them."""
    levels = np.unique(axis)
    if len(levels) > most:
        levels = np.unique(levels[np.linspace(0, len(levels) - 1, most).astype(int)])
    return levels
