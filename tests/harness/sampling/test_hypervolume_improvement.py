"""What a student may be expected to add: beside hypervolumes of what is drawn, and at the edges."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from harness.core.pareto import hypervolume
from harness.sampling.hypervolume_improvement import ExpectedHypervolumeImprovement, QualityScale

AT = np.array
QUANTILES = norm.ppf((np.arange(200) + 0.5) / 200)
"""A normal variable at the middles of 200 equally likely parts: their mean is closer than that of 10,000 draws."""


@pytest.mark.parametrize("ends", [None, (0.0, 1.0), (-3.0, 0.0)])
def test_inverse_undoes_transform(ends: tuple[float, float] | None) -> None:
    values = np.linspace(*(ends or (-5, 5)), 11)
    scale = QualityScale(ends)
    scaled = scale.transform(values)
    assert (np.diff(scaled) > 0).all()
    assert scale.inverse(scaled) == pytest.approx(values)


def test_the_scale_separates_values_near_the_top_as_well_as_below() -> None:
    low, lower, high, higher = QualityScale((0.0, 1.0)).transform(AT([0.8, 0.9, 0.95, 0.99]))
    assert higher - high > lower - low


@pytest.mark.parametrize("axes", [0, 1, 2, 3])
@pytest.mark.parametrize("ends", [None, (0.0, 1.0)])
def test_the_expected_hypervolume_improvement_is_the_mean_over_quantiles(
    axes: int, ends: tuple[float, float] | None
) -> None:
    rng = np.random.default_rng(axes)
    # A grid of costs, each a step from the next: the point of reference lies a step beyond the dearest.
    steps = [AT([0.0, 1.0, 2.0, 3.0])] * axes
    costs = np.stack(np.meshgrid(*steps, indexing="ij"), -1).reshape(-1, axes) if axes else np.zeros((1, 0))
    scale = QualityScale(ends)
    acquisition = ExpectedHypervolumeImprovement(costs, scale)
    trained = rng.integers(len(costs), size=5)
    ends_seen = rng.uniform(0.4, 0.8, 5)
    floor = 0.3
    best = acquisition.attainment_surface(
        trained, scale.transform(ends_seen), floor=float(scale.transform(AT([floor]))[0])
    )

    asked = rng.integers(len(costs), size=4)
    mean, deviation = scale.transform(rng.uniform(0.5, 0.85, 4)), rng.uniform(0.02, 0.1, 4)
    gains = acquisition.evaluate(best, asked, mean, deviation)

    reference = [floor, *[4.0] * axes]
    directions = ["maximize", *["minimize"] * axes]
    front = [[value, *costs[place]] for value, place in zip(ends_seen, trained, strict=True)]
    before = hypervolume(front, reference, directions)
    for number, place in enumerate(asked):
        values = scale.inverse(mean[number] + deviation[number] * QUANTILES)
        more = [hypervolume([*front, [value, *costs[place]]], reference, directions) - before for value in values]
        assert gains[number] == pytest.approx(np.mean(more), rel=1e-2, abs=1e-3)


@pytest.mark.parametrize("ends", [None, (0.0, 1.0), (-3.0, 0.0)])
@pytest.mark.parametrize("deviation", [1e-3, 0.05, 0.5, 8.0])
def test_the_expected_improvement_equals_its_numerical_integral(
    ends: tuple[float, float] | None, deviation: float
) -> None:
    scale = QualityScale(ends)
    # No quality is better than the better end.
    top = np.inf if ends is None else float(scale.transform(AT([ends[1]]))[0])
    for mean, level in ((1.0, 1.0), (1.0, 1.0 + deviation), (2.0, 0.5), (0.5, 2.0), (5.0, 1.0)):
        qualities = mean + deviation * np.linspace(-10, 10, 400_001)
        density = np.exp(-(((qualities - mean) / deviation) ** 2) / 2) / (deviation * (2 * np.pi) ** 0.5)
        better = scale.inverse(np.minimum(np.maximum(qualities, level), max(top, level))) - scale.inverse(AT([level]))
        expected = float(np.trapezoid(density * better, qualities))
        found = scale.expected_improvement(AT([level]), AT([mean]), AT([deviation]))[0]
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-12)


def test_of_equal_predictions_the_cheapest_student_improves_the_front_most() -> None:
    acquisition = ExpectedHypervolumeImprovement(AT([[1.0], [2.0], [3.0]]), QualityScale(None))
    best = acquisition.attainment_surface(AT([2]), AT([0.5]), floor=0.0)
    gains = acquisition.evaluate(best, AT([0, 1, 2]), np.full(3, 0.6), np.full(3, 0.05))
    assert gains[0] > gains[1] > gains[2] > 0
    # Of all that costs no more than the dearest, the best is the dearest's own.
    assert acquisition.is_nondominated(best, AT([2, 2]), AT([0.5, 0.4])).tolist() == [True, False]


def test_many_costs_use_a_few_levels_each() -> None:
    rng = np.random.default_rng(0)
    costs = rng.random((256, 4))
    acquisition = ExpectedHypervolumeImprovement(costs, QualityScale((0.0, 1.0)))
    best = acquisition.attainment_surface(np.arange(20), rng.random(20), floor=0.0)
    assert best.size <= 5**4
    gains = acquisition.evaluate(best, np.arange(256), np.full(256, 2.0), np.full(256, 0.5))
    assert gains.shape == (256,) and (gains > 0).all()
