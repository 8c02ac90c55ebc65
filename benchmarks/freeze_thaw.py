"""A search that may put any trial aside and take it up again: freeze-thaw, with costs that are known beforehand.

One Gaussian process speaks of every configuration after every number of epochs: what configurations share at all
epochs, what they share at neighbouring ones, and what a single run has of its own (after Swersky, Snoek & Adams 2014,
arXiv:1406.3896). After each rung the search goes wherever the expected gain of hypervolume for an epoch that is left is
largest: on with this run, back to one that was put aside, or to a new one. A student's costs are known, so that gain is
a sum over the steps of the front, with nothing to be sampled.

The process's scales are fixed: they were fitted once to 150 digits runs, and fitting them anew as runs come in made no
search faster. They hold for parameters scaled to [0, 1] and for accuracies scaled to mean 0 and deviation 1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.stats import norm

Array = NDArray[np.float64]

_LENGTH, _EPOCHS_LENGTH = 0.8, 0.7  # of a parameter's range; of the logarithm of epochs
_SHARED, _SHARED_NEAR, _OWN, _OWN_NEAR, _TREND, _NOISE = (s**2 for s in (0.3, 0.55, 0.05, 0.11, 0.7, 0.05))
_LEVELS = np.linspace(0.5, 1.0, 201)  # of accuracy, between which a gain is summed
_FLOOR = 0.004  # of the error in the logarithm


class FreezeThaw:
    """Chooses which configuration to train to its next rung.

    Args:
        configurations: Every configuration, its parameters scaled to [0, 1], shape (N, D).
        sizes: What each costs, shape (N,); the lower the better.
        most: Cost at the reference point.
        rungs: Epochs after which a run may be put aside; the last is the end.
        rng: Draws the first ones.
    """

    def __init__(
        self, configurations: Array, sizes: Array, *, most: float, rungs: tuple[int, ...], rng: np.random.Generator
    ) -> None:
        self._x, self._sizes, self._rungs, self._rng = configurations, sizes, rungs, rng
        self._reached = np.zeros(len(sizes), dtype=int)  # rungs
        self._seen: list[tuple[int, int, float]] = []  # configuration, epochs, accuracy
        self._best = np.full(len(_LEVELS) - 1, most)  # the least cost, by level, of those trained to the end
        first = [rng.choice(np.flatnonzero(sizes == size)) for size in rng.permutation(np.unique(sizes))]
        self._first = [int(place) for place in first]

    def ask(self) -> int:
        """The configuration to go on with."""
        return self._first.pop() if self._first else int(np.argmax(self._gain_an_epoch()))

    def reached(self, place: int) -> int:
        """Epochs that a configuration has been trained for."""
        return self._rungs[self._reached[place] - 1] if self._reached[place] else 0

    def tell(self, place: int, accuracy: float) -> None:
        """A configuration was trained to its next rung."""
        epochs = self._rungs[self._reached[place]]
        self._reached[place] += 1
        self._seen.append((place, epochs, accuracy))
        if epochs == self._rungs[-1]:
            lower = _LEVELS[1:] <= accuracy + 1e-9
            self._best[lower] = np.minimum(self._best[lower], self._sizes[place])

    def _gain_an_epoch(self) -> Array:
        mean, deviation = self._end()
        levels = _error_scale((_LEVELS[:-1] + _LEVELS[1:]) / 2)
        above = norm.sf((levels - mean[:, None]) / deviation[:, None])
        gain = (above * np.clip(self._best - self._sizes[:, None], 0, None)).sum(axis=1)
        done = np.array([0, *self._rungs])[self._reached]
        left = self._rungs[-1] - done
        return np.where(left > 0, gain / np.maximum(left, 1) * (1 + 1e-6 * self._rng.random(len(gain))), -1.0)

    def _end(self) -> tuple[Array, Array]:
        """Mean and deviation of every configuration's accuracy at its end, on the scale of its error's logarithm."""
        places = np.array([place for place, _, _ in self._seen])
        epochs = np.log([float(epochs) for _, epochs, _ in self._seen])
        values = _error_scale(np.array([accuracy for _, _, accuracy in self._seen]))
        middle, spread = values.mean(), values.std() + 1e-3
        covariance = self._covariance(places, epochs, places, epochs) + np.eye(len(places)) * (_NOISE + 1e-6)
        factor = cho_factor(covariance, lower=True)
        everyone, end = np.arange(len(self._x)), np.full(len(self._x), np.log(float(self._rungs[-1])))
        across = self._covariance(everyone, end, places, epochs)
        mean = across @ cho_solve(factor, (values - middle) / spread)
        explained = (solve_triangular(factor[0], across.T, lower=True) ** 2).sum(axis=0)
        variance = _SHARED + _SHARED_NEAR + _OWN + _OWN_NEAR + _TREND - explained
        return mean * spread + middle, np.sqrt(np.maximum(variance, 1e-8)) * spread

    def _covariance(self, a: NDArray[np.int64], a_epochs: Array, b: NDArray[np.int64], b_epochs: Array) -> Array:
        distance = np.sqrt(((self._x[a][:, None] - self._x[b][None]) ** 2).sum(axis=2)) / _LENGTH
        root = np.sqrt(5) * distance
        alike = (1 + root + root**2 / 3) * np.exp(-root)  # Matérn 5/2
        near = np.exp(-np.abs(a_epochs[:, None] - b_epochs[None]) / _EPOCHS_LENGTH)
        same = a[:, None] == b[None]
        covariance: Array = alike * (_SHARED + _SHARED_NEAR * near) + same * (_OWN + _OWN_NEAR * near) + _TREND * near
        return covariance


def _error_scale(accuracy: Array) -> Array:
    """Minus the logarithm of the error: runs near the top are told apart as well as those at the bottom."""
    scaled: Array = -np.log(1 - accuracy + _FLOOR)
    return scaled
