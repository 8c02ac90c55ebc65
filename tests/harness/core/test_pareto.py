"""Front, hypervolume and knee beside brute force, and beside numbers worked by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from harness.core.pareto import front_by_spread, hypervolume, knee, pareto_front

Array = NDArray[np.float64]

MIXES: dict[int, list[tuple[str, ...]]] = {
    1: [("minimize",), ("maximize",)],
    2: [("minimize", "minimize"), ("maximize", "minimize")],
    3: [("maximize", "minimize", "minimize"), ("maximize", "maximize", "maximize")],
    4: [("maximize", "minimize", "minimize", "maximize"), ("minimize",) * 4],
}
CASES = [(objectives, directions) for objectives, mixes in MIXES.items() for directions in mixes]


def tied_points(objectives: int, seed: int) -> Array:
    """Points on a coarse grid, some of them several times: many ties in single objectives."""
    rng = np.random.default_rng([objectives, seed])
    points = rng.integers(0, 5, size=(14, objectives)).astype(float)
    return np.concatenate([points, points[rng.integers(14, size=4)]])


def is_better(a: float, b: float, direction: str) -> bool:
    return a > b if direction == "maximize" else a < b


def front_by_definition(points: Array, directions: tuple[str, ...]) -> list[int]:
    def dominates(one: Array, other: Array) -> bool:
        pairs = list(zip(one, other, directions, strict=True))
        return not any(is_better(b, a, way) for a, b, way in pairs) and any(is_better(a, b, way) for a, b, way in pairs)

    return [i for i, point in enumerate(points) if not any(dominates(other, point) for other in points)]


def volume_by_cells(points: Array, reference: Array, directions: tuple[str, ...]) -> float:
    """Count unit cells between whole numbers whose every inner point is dominated."""
    lowest, highest = points.min(axis=0).astype(int), points.max(axis=0).astype(int)
    sides = [
        range(int(end), int(high)) if way == "maximize" else range(int(low), int(end))
        for low, high, end, way in zip(lowest, highest, reference, directions, strict=True)
    ]
    covered = 0
    for cell in itertools.product(*sides):
        middle = np.array(cell) + 0.5
        covered += any(
            all(is_better(p, m, way) for p, m, way in zip(point, middle, directions, strict=True)) for point in points
        )
    return float(covered)


def volume_by_inclusion_and_exclusion(points: Array, reference: Array) -> float:
    """All to be minimised: signed volumes of the boxes that subsets of points have in common."""
    total = 0.0
    for size in range(1, len(points) + 1):
        for subset in itertools.combinations(points, size):
            total -= (-1) ** size * math.prod(np.maximum(reference - np.max(subset, axis=0), 0))
    return total


@pytest.mark.parametrize(("objectives", "directions"), CASES)
@pytest.mark.parametrize("seed", range(4))
def test_no_other_point_dominates_the_front(objectives: int, directions: tuple[str, ...], seed: int) -> None:
    points = tied_points(objectives, seed)
    assert pareto_front(points, directions).tolist() == front_by_definition(points, directions)


@pytest.mark.parametrize(("objectives", "directions"), CASES)
@pytest.mark.parametrize("seed", range(2))
def test_the_hypervolume_is_the_count_of_dominated_cells(
    objectives: int, directions: tuple[str, ...], seed: int
) -> None:
    points = tied_points(objectives, seed)
    # Inside the range of the points: some lie beyond the reference point, or on its planes.
    reference = np.array([1.0 if way == "maximize" else 3.0 for way in directions])
    expected = volume_by_cells(points, reference, directions)
    assert expected > 0
    assert hypervolume(points, reference, directions) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_the_hypervolume_agrees_with_inclusion_and_exclusion(objectives: int) -> None:
    points = np.random.default_rng(objectives).normal(size=(7, objectives))
    reference = np.full(objectives, 0.8)
    expected = volume_by_inclusion_and_exclusion(points, reference)
    assert hypervolume(points, reference) == pytest.approx(expected, rel=1e-9)


def test_a_front_worked_by_hand() -> None:
    # Accuracy up, cost down: c is beaten by b, e equals b, and d costs most without being best.
    points = [(0.9, 10), (0.8, 3), (0.7, 4), (0.85, 20), (0.8, 3), (0.1, 1)]
    assert pareto_front(points, ("maximize", "minimize")).tolist() == [0, 1, 4, 5]
    # Steps from (1, 3) over (2, 2) to (3, 1) below (4, 4): 3 x 1 + 2 x 1 + 1 x 1; (3, 3) adds nothing.
    assert hypervolume([(1, 3), (2, 2), (3, 1), (3, 3)], (4, 4)) == 6


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_no_points_have_no_front_and_no_volume(objectives: int) -> None:
    assert pareto_front(np.empty((0, objectives))).tolist() == []
    assert hypervolume(np.empty((0, objectives)), np.ones(objectives)) == 0
    directions = ["maximize"] * objectives
    assert pareto_front([], directions).tolist() == []
    assert hypervolume([], np.ones(objectives), directions) == 0


def test_an_empty_list_needs_no_directions() -> None:
    assert pareto_front([]).tolist() == []
    assert hypervolume([], (1.0, 1.0)) == 0


def test_points_beyond_the_reference_point_add_nothing() -> None:
    assert hypervolume([(5, 0), (0, 5), (4, 1)], (4, 4)) == 0
    assert hypervolume([(5, 0), (1, 1)], (4, 4)) == 9


def test_one_point_is_its_own_front_and_its_box_the_volume() -> None:
    assert pareto_front([(3.0, 2.0, 1.0)]).tolist() == [0]
    assert hypervolume([(3.0, 2.0, 1.0)], (5.0, 5.0, 5.0)) == 2 * 3 * 4


def test_the_arguments_are_not_modified() -> None:
    points = np.array([[1.0, 2.0], [2.0, 1.0]])
    hypervolume(points, (3.0, 3.0), ("maximize", "minimize"))
    pareto_front(points, ("maximize", "maximize"))
    assert points.tolist() == [[1.0, 2.0], [2.0, 1.0]]


def test_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="must not be NaN"):
        pareto_front([(1.0, math.nan)])
    with pytest.raises(ValueError, match="must not be NaN"):
        hypervolume([(1.0, 2.0)], (math.nan, 3.0))


@pytest.mark.parametrize("directions", [("minimize",), ("minimize", "up"), ("minimize",) * 3])
def test_directions_that_do_not_fit_are_refused(directions: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="directions must name one of"):
        pareto_front([(1.0, 2.0)], directions)


def test_values_and_reference_points_of_a_wrong_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"values must have shape \(N, M\), but got shape \(2,\)"):
        pareto_front([1.0, 2.0])
    with pytest.raises(ValueError, match="a value for each of 2 objectives, but got 3"):
        hypervolume([(1.0, 2.0)], (3.0, 3.0, 3.0))


@pytest.mark.parametrize(
    ("losses", "costs", "expected"),
    [
        # Scaled: losses 0, .1, .2, 1 and costs 1, .3, .25, 0; sums 1, .4, .45, 1.
        ([0.0, 0.1, 0.2, 1.0], [[10.0], [3.0], [2.5], [0.0]], 1),
        # Two costs are averaged: (1 + 1)/2, (.2 + .9)/2, (.3 + .1)/2, 0 beside losses 0, .1, .2, 1; sums 1, .65, .4, 1.
        ([5.0, 5.1, 5.2, 6.0], [[10.0, 100.0], [2.0, 90.0], [3.0, 10.0], [0.0, 0.0]], 2),
        ([3.0, 1.0, 2.0], np.empty((3, 0)), 1),  # no cost: the best
        ([0.5, 0.5, 0.5], [[3.0], [1.0], [2.0]], 1),  # no difference in quality: the cheapest
        ([0.0, 1.0], [[1.0], [0.0]], 0),  # equals: the first
        ([0.7], [[2.0]], 0),
    ],
)
def test_the_knee_is_the_point_of_the_smallest_scaled_sum(losses: list[float], costs: Array, expected: int) -> None:
    assert knee(losses, costs) == expected


def test_the_knee_does_not_depend_on_units() -> None:
    losses, costs = np.array([0.0, 0.1, 0.2, 1.0]), np.array([[10.0], [3.0], [2.5], [0.0]])
    assert knee(1e-3 * losses + 7, 1e6 * costs - 3) == 1


def test_points_that_are_on_a_front_only_by_measurement_noise_are_found() -> None:
    points = [
        (0.95, 1.00, 500.0),
        (0.94, 0.99, 500.0),  # one percent faster than the first, which is more accurate and no larger
        (0.93, 0.97, 400.0),  # the smallest
        (0.92, 0.96, 450.0),  # one percent faster than the one before
        (0.90, 0.90, 600.0),  # six percent faster than any other
    ]
    directions = ("maximize", "minimize", "minimize")
    assert pareto_front(points, directions).tolist() == [0, 1, 2, 3, 4]
    assert front_by_spread(points, (0.0, 0.02, 0.0), directions).tolist() == [1, 3]
    assert front_by_spread(points, (0.0, 0.005, 0.0), directions).tolist() == []
    assert front_by_spread(points, (0.0, 0.07, 0.0), directions).tolist() == [1, 3, 4]
    rates = [(accuracy, 1000 / latency, size) for accuracy, latency, size in points]
    assert front_by_spread(rates, (0.0, 0.02, 0.0), ("maximize", "maximize", "minimize")).tolist() == [1, 3]
    twice = [points[0], points[0]]  # equal points are no better than each other
    assert front_by_spread(twice, (0.0, 0.02, 0.0), directions).tolist() == []
    assert front_by_spread(np.empty((0, 3)), (0.0, 0.02, 0.0), directions).tolist() == []
