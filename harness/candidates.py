"""Configurations as points, which a model compares them by, and many of them, from all over a space or nearby."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from harness.space import METHOD, SearchSpace

Array = NDArray[np.float64]

_STEP, _SWITCH = 0.08, 0.2  # to a neighbour: of a range; how often another choice
_NO_PLACE = 0.5  # of a parameter that a method does not have


class Points:
    """The points of a space.

    Each parameter lies in [0, 1], by its logarithm where it is sampled so; a choice has an axis for each of its values,
    so that any two are as far apart as the ends of a range.

    Args:
        space: The space.
    """

    def __init__(self, space: SearchSpace) -> None:
        self._space = space
        self._branches = {method: space.branch(method) for method in space.methods}

    def of(self, configurations: Sequence[Mapping[str, Any]]) -> Array:
        """The points of some configurations, shape (N, D)."""
        axes = []
        for name, distribution in self._space.distributions.items():
            has = np.array([name in configuration for configuration in configurations], dtype=bool)
            values = [configuration[name] for configuration in configurations if name in configuration]
            if isinstance(distribution, CategoricalDistribution):
                axis = np.zeros((len(configurations), len(distribution.choices)))
                axis[np.flatnonzero(has), [int(distribution.to_internal_repr(value)) for value in values]] = 0.5**0.5
            else:
                axis = np.full((len(configurations), 1), _NO_PLACE)
                axis[has, 0] = _shares(distribution, np.array(values, dtype=float))
            axes.append(axis)
        return np.hstack(axes)

    def drawn(self, rng: np.random.Generator, count: int) -> list[dict[str, Any]]:
        """Configurations from all over the space."""
        methods = list(self._branches)
        return [
            self._at(methods[number], rng.random(len(self._branches[methods[number]])))
            for number in rng.integers(len(methods), size=count)
        ]

    def near(self, rng: np.random.Generator, configuration: Mapping[str, Any], count: int) -> list[dict[str, Any]]:
        """Neighbours of a configuration, of its own method."""
        method = configuration.get(METHOD, next(iter(self._branches)))
        branch = self._branches[method]
        place = np.array([_share(distribution, configuration[name]) for name, distribution in branch.items()])
        choices = np.array([isinstance(distribution, CategoricalDistribution) for distribution in branch.values()])
        steps = np.where(choices, 0.0, rng.normal(0, _STEP, size=(count, len(branch))))
        switched = choices & (rng.random((count, len(branch))) < _SWITCH)
        shares = np.where(switched, rng.random((count, len(branch))), np.clip(place + steps, 0, 1 - 1e-12))
        return [self._at(method, row) for row in shares]

    def _at(self, method: str, shares: Array) -> dict[str, Any]:
        branch = self._branches[method]
        values = {name: _value(dist, share) for (name, dist), share in zip(branch.items(), shares, strict=True)}
        return values | ({METHOD: method} if METHOD in branch else {})


def _shares(distribution: BaseDistribution, values: Array) -> Array:
    """Where numbers lie between the ends of their range."""
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if distribution.single():
        return np.full(len(values), _NO_PLACE)
    low, high = float(distribution.low), float(distribution.high)
    if distribution.log:
        values, low, high = np.log(values), math.log(low), math.log(high)
    shares: Array = (values - low) / (high - low)
    return shares


def _share(distribution: BaseDistribution, value: Any) -> float:
    if isinstance(distribution, CategoricalDistribution):
        return (distribution.to_internal_repr(value) + 0.5) / len(distribution.choices)
    return float(_shares(distribution, np.array([value], dtype=float))[0])


def _value(distribution: BaseDistribution, share: float) -> Any:
    """The value at a share of the range, [0, 1); whole numbers and steps get the same room each, as samplers do it."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[int(share * len(distribution.choices))]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high, step = distribution.low, distribution.high, distribution.step
    if distribution.single():
        return low
    half = 0.0 if step is None else step / 2
    if distribution.log:
        value = math.exp(math.log(low - half) + share * (math.log(high + half) - math.log(low - half)))
    else:
        value = low - half + share * (high - low + 2 * half)
    if step is not None:
        value = low + round((value - low) / step) * step
    value = min(max(value, low), high)
    return int(value) if isinstance(distribution, IntDistribution) else float(value)
