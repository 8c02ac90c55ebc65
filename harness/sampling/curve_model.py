"""What the learning curves seen so far say of those that nobody has seen: a Gaussian process over students and epochs.

It holds that a curve has three parts: what similar configurations share, all along and at neighbouring epochs alike;
what is a single run's own; and what all curves have in common as epochs go by (after Swersky, Snoek & Adams 2014,
arXiv:1406.3896). So a few epochs of one configuration say something of its end, and of the end of its neighbours.

The scales are fixed. They hold for parameters scaled to [0, 1] and values scaled to mean 0 and deviation 1; they were
fitted to runs, and what runs share was then made wider and stronger for searches on recorded grids to need fewer epochs
(``benchmarks/replay.py``).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.spatial.distance import cdist

Array = NDArray[np.float64]

_LENGTH, _EPOCHS_LENGTH = 1.2, 0.7  # of a parameter's range; of the logarithm of epochs
_SHARED, _SHARED_NEAR, _OWN, _OWN_NEAR, _TREND, _NOISE = (s**2 for s in (0.7, 0.5, 0.05, 0.11, 0.7, 0.05))
_LEAST_DEVIATION = 1e-3  # of values, for those that are all the same


class CurveModel:
    """Curves as far as they are known.

    Args:
        points: The configuration of each observation, its parameters scaled to [0, 1], shape (N, D), N at least 1.
        runs: Which run each observation is of, shape (N,).
        epochs: After how many epochs each was made, at least 1, shape (N,).
        values: What was observed, the higher the better, shape (N,).
    """

    def __init__(self, points: Array, runs: NDArray[np.int64], epochs: Array, values: Array) -> None:
        self._points, self._runs, self._times = points, runs, np.log(epochs)
        self._mean, self._deviation = values.mean(), values.std() + _LEAST_DEVIATION
        covariance = _covariance(points, runs, self._times, points, runs, self._times)
        covariance[np.diag_indices(len(values))] += _NOISE
        self._factor = cho_factor(covariance, lower=True)
        self._weights = cho_solve(self._factor, (values - self._mean) / self._deviation)

    def at(self, points: Array, runs: NDArray[np.int64], epochs: float) -> tuple[Array, Array]:
        """Return what is to be expected of some runs after so many epochs.

        Args:
            points: Their configurations, shape (M, D).
            runs: Which runs they are, shape (M,). What a run has of its own is luck: of one without an observation it
                is left out, or the same configuration would promise something new again and again.
            epochs: At least 1.

        Returns:
            Mean and standard deviation of each one's value, shape (M,).
        """
        time = np.log([epochs])  # one for all: its row is broadcast
        across = _covariance(points, runs, time, self._points, self._runs, self._times)
        mean = across @ self._weights
        explained = (solve_triangular(self._factor[0], across.T, lower=True, check_finite=False) ** 2).sum(axis=0)
        own = np.isin(runs, self._runs) * (_OWN + _OWN_NEAR)
        variance = _SHARED + _SHARED_NEAR + _TREND + own - explained
        return mean * self._deviation + self._mean, np.sqrt(np.maximum(variance, 1e-8)) * self._deviation


def _covariance(
    a: Array, a_runs: NDArray[np.int64], a_times: Array, b: Array, b_runs: NDArray[np.int64], b_times: Array
) -> Array:
    root = np.sqrt(5) / _LENGTH * cdist(a, b)
    alike = (1 + root + root**2 / 3) * np.exp(-root)  # Matérn, 5/2
    near = np.exp(-np.abs(a_times[:, None] - b_times[None]) / _EPOCHS_LENGTH)
    same = a_runs[:, None] == b_runs[None]
    covariance: Array = alike * (_SHARED + _SHARED_NEAR * near) + same * (_OWN + _OWN_NEAR * near) + _TREND * near
    return covariance
