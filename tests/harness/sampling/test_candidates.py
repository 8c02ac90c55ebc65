"""Configurations as points: where they lie, and that whatever is drawn is of the space."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from harness.sampling.candidates import SpaceEncoder
from harness.space import SearchSpace, load_space
from search_spaces.digits import SPACE

SPACES = Path(__file__).parents[3] / "search_spaces"
MANY = replace(
    SPACE,
    student={
        "width": IntDistribution(1, 64, log=True),
        "depth": IntDistribution(2, 10, step=4),
        "kind": CategoricalDistribution(["3x3", "5"]),
    },
    distillation={"temperature": FloatDistribution(1, 4, step=0.5), "alpha": CategoricalDistribution([0.5])},
    training={"learning_rate": FloatDistribution(1e-4, 1e-1, log=True), "weight_decay": FloatDistribution(0, 0)},
)


def test_numbers_are_encoded_by_their_place_in_the_range() -> None:
    given = {"width": 8, "depth": 6, "kind": "5", "temperature": 2.5, "alpha": 0.5}
    found = SpaceEncoder(MANY).encode(given | {"learning_rate": 1e-3, "weight_decay": 0.0})
    assert found == pytest.approx(np.array([0.5, 0.5, 0, 0.5**0.5, 0.5, 0.5**0.5, 1 / 3, 0.5]))


def test_any_two_choices_are_as_far_apart_as_the_ends_of_a_range() -> None:
    given = {"width": 1, "depth": 2, "kind": "5", "temperature": 1.0, "alpha": 0.5, "weight_decay": 0.0}
    a, b, c = (SpaceEncoder(MANY).encode({**given, "learning_rate": lr, **more}) for lr, more in _three())
    assert np.linalg.norm(a - b) == pytest.approx(1) and np.linalg.norm(a - c) == pytest.approx(1)


def _three() -> list[tuple[float, dict[str, Any]]]:
    return [(1e-4, {}), (1e-4, {"kind": "3x3"}), (1e-1, {})]


def test_a_parameter_that_a_method_lacks_is_encoded_in_the_middle() -> None:
    space = load_space(SPACES / "digits_methods.py")
    points = SpaceEncoder(space)
    names = [name for name in space.distributions if not isinstance(space.distributions[name], CategoricalDistribution)]
    a, b = space.middle("label_smoothing"), space.middle("soft_target")
    assert points.encode(a).shape == points.encode(b).shape
    assert "temperature" in b and "temperature" not in a and "temperature" in names
    apart = np.flatnonzero(points.encode(a) != points.encode(b))
    assert len(apart) >= 2  # the method's two axes at least


@pytest.mark.parametrize("space", [MANY, *(load_space(SPACES / f"{n}.py") for n in ("digits", "digits_methods"))])
def test_samples_and_neighbours_lie_in_the_space(space: SearchSpace) -> None:
    points, rng = SpaceEncoder(space), np.random.default_rng(0)
    pools = points.sample(rng, 300)
    assert sum(map(len, pools)) == 300 and len(pools) == len(space.methods)
    centres = [pool[0] for pool in pools]
    beside = [points.neighbours(rng, params, 50) for params in centres]
    for pool in pools + beside:
        for place in range(len(pool)):
            params = pool[place]
            branch = space.branch_of(params)
            assert branch is not None
            for name, distribution in branch.items():
                assert distribution._contains(distribution.to_internal_repr(params[name])), (name, params[name])
            assert pool.points[place] == pytest.approx(points.encode(params))
            row = pool.rows(list(space.student))[place]
            assert row == tuple(space.student[name].to_internal_repr(params[name]) for name in space.student)
    everywhere = np.vstack([pool.points for pool in pools])
    for centre, near in zip(centres, beside, strict=True):
        assert {near[place].get("method") for place in range(50)} == {centre.get("method")}
        at = points.encode(centre)
        assert np.median(np.linalg.norm(near.points - at, axis=1)) < np.median(np.linalg.norm(everywhere - at, axis=1))


def test_every_value_of_an_integer_range_is_sampled() -> None:
    space = replace(SPACE, student={"width": IntDistribution(2, 8, step=2)})
    (pool,) = SpaceEncoder(space).sample(np.random.default_rng(0), 2_000)
    drawn = [pool[place]["width"] for place in range(2_000)]
    counts = {width: drawn.count(width) for width in (2, 4, 6, 8)}
    assert sum(counts.values()) == 2_000 and min(counts.values()) > 400  # as often each


@pytest.mark.parametrize(
    ("distribution", "values"),
    [
        (IntDistribution(1, 32, log=True), (2, 5, 8, 16, 24)),
        (IntDistribution(2, 10, step=4), (6,)),
        (IntDistribution(0, 100), (10, 50, 90)),
        (FloatDistribution(1, 4, step=0.5), (2.0, 3.0)),
        (FloatDistribution(1e-4, 1e-1, log=True), (1e-3, 1e-2)),
    ],
)
def test_as_many_neighbours_are_above_as_below(
    distribution: IntDistribution | FloatDistribution, values: tuple[float, ...]
) -> None:
    space = replace(SPACE, student={"size": distribution}, training={})
    for value in values:
        at = {"size": value, "temperature": 2.0, "alpha": 0.5}
        near = SpaceEncoder(space).neighbours(np.random.default_rng(0), at, 4_000)
        found = np.array([near[place]["size"] for place in range(4_000)])
        above, below = np.mean(found > value * (1 + 1e-9)), np.mean(found < value * (1 - 1e-9))
        # Of whole numbers there is less room to the next one above, by the logarithm.
        assert above <= 0.53 and below <= 0.53 and (above > 0.1) == (below > 0.1), (value, above, below)


def test_neighbours_beyond_the_end_of_a_range_equal_its_end_bit_by_bit() -> None:
    at_the_end = {"width": 32, "temperature": 20.0, "alpha": 1.0, "learning_rate": 0.03}
    pool = SpaceEncoder(SPACE).neighbours(np.random.default_rng(0), at_the_end, 500)
    found = [pool[place] for place in range(len(pool))]
    for name, end in at_the_end.items():
        values = [configuration[name] for configuration in found]
        assert max(values) == end and 100 < values.count(end) < 500
