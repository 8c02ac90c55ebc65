"""Configurations as points: where they lie, and that whatever is drawn is of the space."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from harness.candidates import Points
from harness.space import SearchSpace, load_space
from search_spaces.digits import SPACE

SPACES = Path(__file__).parents[2] / "search_spaces"
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


def test_a_point_is_where_its_parameters_are_in_their_ranges() -> None:
    given = {"width": 8, "depth": 6, "kind": "5", "temperature": 2.5, "alpha": 0.5}
    found = Points(MANY).of([given | {"learning_rate": 1e-3, "weight_decay": 0.0}])
    assert found == pytest.approx(np.array([[0.5, 0.5, 0, 0.5**0.5, 0.5, 0.5**0.5, 1 / 3, 0.5]]))


def test_two_choices_are_as_far_apart_as_the_ends_of_a_range() -> None:
    given = {"width": 1, "depth": 2, "kind": "5", "temperature": 1.0, "alpha": 0.5, "weight_decay": 0.0}
    a, b, c = Points(MANY).of([{**given, "learning_rate": lr, **more} for lr, more in _three()])
    assert np.linalg.norm(a - b) == pytest.approx(1) and np.linalg.norm(a - c) == pytest.approx(1)


def _three() -> list[tuple[float, dict[str, Any]]]:
    return [(1e-4, {}), (1e-4, {"kind": "3x3"}), (1e-1, {})]


def test_what_a_method_does_not_have_is_in_the_middle() -> None:
    space = load_space(SPACES / "digits_methods.py")
    points = Points(space)
    names = [name for name in space.distributions if not isinstance(space.distributions[name], CategoricalDistribution)]
    a, b = space.middle("label_smoothing"), space.middle("soft_target")
    assert points.of([a]).shape == points.of([b]).shape
    assert "temperature" in b and "temperature" not in a and "temperature" in names
    apart = np.flatnonzero(points.of([a])[0] != points.of([b])[0])
    assert len(apart) >= 2  # the method's two axes at least


@pytest.mark.parametrize("space", [MANY, *(load_space(SPACES / f"{n}.py") for n in ("digits", "digits_methods"))])
def test_whatever_is_drawn_is_of_the_space(space: SearchSpace) -> None:
    points, rng = Points(space), np.random.default_rng(0)
    drawn = points.drawn(rng, 300)
    beside = [near for params in drawn[:10] for near in points.near(rng, params, 20)]
    for params in drawn + beside:
        branch = space.branch_of(params)
        assert branch is not None
        for name, distribution in branch.items():
            assert distribution._contains(distribution.to_internal_repr(params[name])), (name, params[name])
    methods = {params.get("method") for params in drawn}
    assert len(methods) == len(space.methods)
    for params, near in zip(np.repeat(np.array(drawn[:10], dtype=object), 20), beside, strict=True):
        assert params.get("method") == near.get("method")
    at, of_beside = points.of(drawn[:10]), points.of(beside)
    nearby = np.linalg.norm(np.repeat(at, 20, axis=0) - of_beside, axis=1)
    assert np.median(nearby) < np.median(np.linalg.norm(at[:, None] - points.of(drawn)[None], axis=2))


def test_every_value_of_a_range_of_whole_numbers_is_drawn() -> None:
    space = replace(SPACE, student={"width": IntDistribution(2, 8, step=2)})
    drawn = [params["width"] for params in Points(space).drawn(np.random.default_rng(0), 2_000)]
    counts = {width: drawn.count(width) for width in (2, 4, 6, 8)}
    assert sum(counts.values()) == 2_000 and min(counts.values()) > 400  # as often each
