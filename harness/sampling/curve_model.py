"""Predict learning curves with a Gaussian process over configurations and epochs (freeze-thaw).

After Swersky, Snoek & Adams (2014), Freeze-Thaw Bayesian Optimization, arXiv:1406.3896. The kernel has three parts:
what similar configurations share, over all epochs and at neighbouring ones; what is particular to a single run; and a
trend over epochs that all curves share. So the first epochs of a configuration inform its last, and those of its
neighbours.

The length scales and variances are fixed, for parameters scaled to [0, 1] and values scaled to mean 0 and deviation 1.
They were fitted to runs; the shared part was then made wider and stronger, so that searches on recorded grids need
fewer epochs (``benchmarks/replay.py``).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.spatial.distance import cdist

Array = NDArray[np.float64]

_LENGTH, _EPOCHS_LENGTH = 1.2, 0.7  # in parameter ranges; in the logarithm of epochs
_SHARED, _SHARED_NEAR, _OWN, _OWN_NEAR, _TREND, _NOISE = (s**2 for s in (0.7, 0.5, 0.05, 0.11, 0.7, 0.05))
_MIN_DEVIATION = 1e-3  # of the observed values, which may all be equal


class CurveModel:
    """Gaussian process conditioned on the observed points of learning curves.

    Args:
        points: Configuration of each observation, its parameters scaled to [0, 1], shape (N, D), N at least 1.
        runs: Run of each observation, shape (N,).
        epochs: Epochs done at each observation, at least 1, shape (N,).
        values: Observed values, to be maximized, shape (N,).
    """

    def __init__(self, points: Array, runs: NDArray[np.int64], epochs: Array, values: Array) -> None:
        self._points, self._runs, self._times = points, runs, np.log(epochs)
        self._mean, self._deviation = values.mean(), values.std() + _MIN_DEVIATION
        covariance = _covariance(points, runs, self._times, points, runs, self._times)
        covariance[np.diag_indices(len(values))] += _NOISE
        self._factor = cho_factor(covariance, lower=True)
        self._weights = cho_solve(self._factor, (values - self._mean) / self._deviation)

    def predict(self, points: Array, runs: NDArray[np.int64], epochs: float) -> tuple[Array, Array]:
        """Predict the values of some runs after a number of epochs.

        Args:
            points: Their configurations, shape (M, D).
            runs: The runs, shape (M,). The part that is particular to a run is luck: it is left out for a run without
                observations, or the same configuration would promise an improvement again and again.
            epochs: Number of epochs, at least 1.

        Returns:
            Mean and standard deviation of each run's value, shape (M,).
        """
        time = np.log([epochs])  # broadcasts over the runs
        across = _covariance(points, runs, time, self._points, self._runs, self._times)
        mean = across @ self._weights
        explained = (solve_triangular(self._factor[0], across.T, lower=True, check_finite=False) ** 2).sum(axis=0)
        own = np.isin(runs, self._runs) * (_OWN + _OWN_NEAR)
        variance = _SHARED + _SHARED_NEAR + _TREND + own - explained
        return mean * self._deviation + self._mean, np.sqrt(np.maximum(variance, 1e-8)) * self._deviation


def _covariance(
    a: Array, a_runs: NDArray[np.int64], a_times: Array, b: Array, b_runs: NDArray[np.int64], b_times: Array
) -> Array:
    scaled = np.sqrt(5) / _LENGTH * cdist(a, b)
    matern = (1 + scaled + scaled**2 / 3) * np.exp(-scaled)  # Matérn 5/2
    near = np.exp(-np.abs(a_times[:, None] - b_times[None]) / _EPOCHS_LENGTH)
    same = a_runs[:, None] == b_runs[None]
    covariance: Array = matern * (_SHARED + _SHARED_NEAR * near) + same * (_OWN + _OWN_NEAR * near) + _TREND * near
    return covariance
