"""The model of learning curves: beside a process worked out from its definition, and what it says of its own runs."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from harness.sampling.curve_model import CurveModel


def covariance(a: tuple[np.ndarray, int, float], b: tuple[np.ndarray, int, float]) -> float:
    """Of two observations, from the definition: shared, own and common parts."""
    (x, run, epoch), (y, other_run, other_epoch) = a, b
    root = math.sqrt(5) * math.dist(x, y) / 1.2
    alike = (1 + root + root**2 / 3) * math.exp(-root)
    near = math.exp(-abs(math.log(epoch / other_epoch)) / 0.7)
    own = (0.05**2 + 0.11**2 * near) if run == other_run else 0.0
    return alike * (0.7**2 + 0.5**2 * near) + own + 0.7**2 * near


def test_predictions_equal_those_of_a_gaussian_process_written_out() -> None:
    rng = np.random.default_rng(0)
    points, runs = rng.random((7, 3)), np.array([0, 0, 0, 1, 1, 2, 3])
    points[1] = points[2] = points[0]
    points[4] = points[3]
    epochs, values = np.array([1.0, 2, 20, 1, 7, 20, 2]), rng.random(7)
    asked, asked_runs = np.vstack([points[3], rng.random((2, 3))]), np.array([1, -1, -2])
    mean, deviation = CurveModel(points, runs, epochs, values).predict(asked, asked_runs, 20.0)

    seen = list(zip(points, runs.tolist(), epochs.tolist(), strict=True))
    k = np.array([[covariance(a, b) for b in seen] for a in seen]) + np.eye(7) * 0.05**2
    middle, spread = values.mean(), values.std() + 1e-3
    for place, (point, run) in enumerate(zip(asked, asked_runs.tolist(), strict=True)):
        across = np.array([covariance((point, run, 20.0), one) for one in seen])
        expected = across @ np.linalg.inv(k) @ ((values - middle) / spread) * spread + middle
        luck = 0.0 if run in runs else 0.05**2 + 0.11**2
        variance = covariance((point, run, 20.0), (point, run, 20.0)) - luck - across @ np.linalg.inv(k) @ across
        assert mean[place] == pytest.approx(expected, rel=1e-6)
        assert deviation[place] == pytest.approx(math.sqrt(variance) * spread, rel=1e-6)


def test_more_epochs_of_a_run_reduce_its_deviation_and_that_of_its_neighbours() -> None:
    rng = np.random.default_rng(1)
    points, values = rng.random((6, 2)), rng.random(6)
    near, far = points[:1] + 0.02, np.array([[9.0, 9.0]])
    found = []
    for reached in (1.0, 7.0, 20.0):
        model = CurveModel(points, np.arange(6), np.array([reached, 20, 20, 20, 20, 20]), values)
        found.append([float(model.predict(x, np.array([run]), 20.0)[1][0]) for x, run in ((points[:1], 0), (near, -1))])
        assert float(model.predict(far, np.array([-1]), 20.0)[1][0]) > max(found[-1])
    own, beside = zip(*found, strict=True)
    assert all(a > b for a, b in itertools.pairwise(own)) and all(a > b for a, b in itertools.pairwise(beside))


def test_equal_values_are_predicted() -> None:
    model = CurveModel(np.zeros((3, 2)), np.arange(3), np.ones(3), np.full(3, 0.5))
    mean, deviation = model.predict(np.ones((1, 2)), np.array([-1]), 20.0)
    assert mean[0] == pytest.approx(0.5) and 0 < deviation[0] < 0.01
