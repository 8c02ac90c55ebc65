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
        self._branches = space.branches

    def of(self, configuration: Mapping[str, Any]) -> Array:
        """Return the point of a configuration, shape (D,)."""
        axes = []
        for name, distribution in self._space.distributions.items():
            has = name in configuration
            value = np.array([distribution.to_internal_repr(configuration[name])], dtype=float) if has else None
            axes.append(self._axes(name, value, 1)[0])
        return np.concatenate(axes)

    def drawn(self, rng: np.random.Generator, count: int) -> list[Pool]:
        """Configurations from all over the space, one pool for each method that was drawn."""
        each = rng.multinomial(count, np.full(len(self._branches), 1 / len(self._branches)))
        return [
            self._pool(method, rng.random((int(many), len(branch))))
            for (method, branch), many in zip(self._branches.items(), each, strict=True)
            if many
        ]

    def near(self, rng: np.random.Generator, configuration: Mapping[str, Any], count: int) -> Pool:
        """Neighbours of a configuration, of its own method."""
        method = configuration.get(METHOD, next(iter(self._branches)))
        branch = self._branches[method]
        place = np.array([_share(distribution, configuration[name]) for name, distribution in branch.items()])
        choices = np.array([isinstance(distribution, CategoricalDistribution) for distribution in branch.values()])
        steps = np.where(choices, 0.0, rng.normal(0, _STEP, size=(count, len(branch))))
        switched = choices & (rng.random((count, len(branch))) < _SWITCH)
        shares = np.where(switched, rng.random((count, len(branch))), np.clip(place + steps, 0, 1))
        return self._pool(method, shares)

    def _pool(self, method: str, shares: Array) -> Pool:
        branch = self._branches[method]
        columns = {name: values_at(dist, column) for (name, dist), column in zip(branch.items(), shares.T, strict=True)}
        if METHOD in branch:
            columns[METHOD] = np.full(len(shares), branch[METHOD].to_internal_repr(method))
        axes = [self._axes(name, columns.get(name), len(shares)) for name in self._space.distributions]
        return Pool(branch, columns, np.hstack(axes))

    def _axes(self, name: str, values: Array | None, count: int) -> Array:
        """The axes of a parameter, shape (N, axes); ``values`` as Optuna keeps them, ``None`` if none of N has it."""
        distribution = self._space.distributions[name]
        if isinstance(distribution, CategoricalDistribution):
            axes = np.zeros((count, len(distribution.choices)))
            if values is not None:
                axes[np.arange(count), values.astype(int)] = 0.5**0.5
            return axes
        return np.full((count, 1), _NO_PLACE) if values is None else _shares(distribution, values)[:, None]


class Pool:
    """Configurations of one method.

    Args:
        branch: Their distributions by name.
        columns: Their values by name, as Optuna keeps them, shape (N,) each.
        points: Where they lie, shape (N, D).
    """

    def __init__(self, branch: Mapping[str, BaseDistribution], columns: Mapping[str, Array], points: Array) -> None:
        self._branch, self._columns = branch, columns
        self.points = points

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, place: int) -> dict[str, Any]:
        """Return one configuration, every parameter's value by name."""
        return {name: dist.to_external_repr(float(self._columns[name][place])) for name, dist in self._branch.items()}

    def rows(self, names: Sequence[str]) -> list[tuple[float, ...]]:
        """Return some parameters of each, as Optuna keeps them."""
        columns = [self._columns[name].tolist() for name in names]
        return list(zip(*columns, strict=True)) if columns else [()] * len(self)


def _shares(distribution: BaseDistribution, values: Array) -> Array:
    """Return where numbers lie between the ends of their range."""
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if distribution.single():
        return np.full(len(values), _NO_PLACE)
    low, high = float(distribution.low), float(distribution.high)
    if distribution.log:
        values, low, high = np.log(values), float(np.log(low)), float(np.log(high))
    shares: Array = (values - low) / (high - low)
    return shares


def _share(distribution: BaseDistribution, value: Any) -> float:
    """Return the share of a range that ``values_at`` gives a value for."""
    if isinstance(distribution, CategoricalDistribution):
        return (distribution.to_internal_repr(value) + 0.5) / len(distribution.choices)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if distribution.single():
        return _NO_PLACE
    low, high = _ends(distribution)
    return float((np.log(value) if distribution.log else value) - low) / (high - low)


def values_at(distribution: BaseDistribution, shares: Array) -> Array:
    """Return the values at shares of a range, [0, 1], as Optuna keeps them: each step gets as much room, as there.

    At its ends they are what it ends with, to the last bit: what alpha = 1 asks for is another training than 1 - 1e-12.
    """
    if isinstance(distribution, CategoricalDistribution):
        return np.floor(shares * len(distribution.choices))
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if distribution.single():
        return np.full(len(shares), float(distribution.low))
    low, high = _ends(distribution)
    values = low + shares * (high - low)
    if distribution.log:
        values = np.exp(values)
    if distribution.step is not None:
        values = distribution.low + np.round((values - distribution.low) / distribution.step) * distribution.step
    values = np.where(shares <= 0, distribution.low, np.where(shares >= 1, distribution.high, values))
    clipped: Array = np.clip(values, distribution.low, distribution.high)
    return clipped


def _ends(distribution: FloatDistribution | IntDistribution) -> tuple[float, float]:
    """Return what a range is drawn from, by the logarithm where it is sampled so: half a step more on either side."""
    half = 0.0 if distribution.step is None else distribution.step / 2
    low, high = distribution.low - half, distribution.high + half
    return (math.log(low), math.log(high)) if distribution.log else (float(low), float(high))
