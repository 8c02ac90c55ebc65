"""Encode configurations as points of the unit cube, and sample candidates from the space or near a configuration."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from harness.space import METHOD, Branch, SearchSpace

Array = NDArray[np.float64]

_STEP, _SWITCH = 0.08, 0.2  # of a neighbour: standard deviation in ranges; probability of drawing a choice again
_ABSENT = 0.5  # coordinate of a parameter that a method or a family does not have
ABSENT = -1.0
"""Stands for the value of an architecture's parameter that its family does not have; Optuna stores no such one."""


class SpaceEncoder:
    """Encoder of a space's configurations as points.

    A number is scaled to [0, 1], by its logarithm if it is sampled so. A choice is one-hot encoded, scaled so that any
    two are as far apart as the ends of a range.

    Args:
        space: The space.
    """

    def __init__(self, space: SearchSpace) -> None:
        self._space = space
        self._branches = space.branches

    def encode(self, configuration: Mapping[str, Any]) -> Array:
        """Return the point of a configuration, shape (D,)."""
        axes = []
        for name, distribution in self._space.distributions.items():
            has = name in configuration
            value = np.array([distribution.to_internal_repr(configuration[name])], dtype=float) if has else None
            axes.append(self._axes(name, value, 1)[0])
        return np.concatenate(axes)

    def sample(self, rng: np.random.Generator, count: int) -> list[CandidateSet]:
        """Sample configurations uniformly from the space, one set for each method and family that was drawn."""
        counts = rng.multinomial(count, np.full(len(self._branches), 1 / len(self._branches)))
        return [
            self._candidates(key, rng.random((int(number), len(branch))))
            for (key, branch), number in zip(self._branches.items(), counts, strict=True)
            if number
        ]

    def neighbours(self, rng: np.random.Generator, configuration: Mapping[str, Any], count: int) -> CandidateSet:
        """Sample neighbours of a configuration, with the same method and family."""
        key = self._space.branch_key(configuration)
        branch = self._branches[key]
        centre = np.array([_to_unit_interval(dist, configuration[name]) for name, dist in branch.items()])
        choices = np.array([isinstance(distribution, CategoricalDistribution) for distribution in branch.values()])
        steps = np.where(choices, 0.0, rng.normal(0, _STEP, size=(count, len(branch))))
        switched = choices & (rng.random((count, len(branch))) < _SWITCH)
        units = np.where(switched, rng.random((count, len(branch))), np.clip(centre + steps, 0, 1))
        return self._candidates(key, units)

    def _candidates(self, key: Branch, units: Array) -> CandidateSet:
        """Return the configurations of a method and family at points of the unit cube, shape (N, parameters)."""
        branch = self._branches[key]
        columns = {
            name: from_unit_interval(distribution, column)
            for (name, distribution), column in zip(branch.items(), units.T, strict=True)
        }
        for name, chosen in zip((METHOD, self._space.chooser), key, strict=True):
            if name in branch:
                columns[name] = np.full(len(units), branch[name].to_internal_repr(chosen))
        axes = [self._axes(name, columns.get(name), len(units)) for name in self._space.distributions]
        return CandidateSet(branch, columns, np.hstack(axes))

    def _axes(self, name: str, values: Array | None, count: int) -> Array:
        """Return the coordinates of a parameter, shape (N, axes).

        Args:
            name: The parameter.
            values: Its values as Optuna stores them, shape (N,); ``None`` if the configurations lack it.
            count: Number N of configurations.
        """
        distribution = self._space.distributions[name]
        if isinstance(distribution, CategoricalDistribution):
            axes = np.zeros((count, len(distribution.choices)))
            if values is not None:
                axes[np.arange(count), values.astype(int)] = 0.5**0.5
            return axes
        return np.full((count, 1), _ABSENT) if values is None else _coordinates(distribution, values)[:, None]


class CandidateSet:
    """Sampled configurations of one method and family.

    Args:
        branch: Their distributions by name.
        columns: Their values by name, as Optuna stores them, shape (N,) each.
        points: Their points, shape (N, D).
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
        """Return some parameters of each configuration, as Optuna stores them; ``ABSENT`` where it has none."""
        absent = [ABSENT] * len(self)
        columns = [self._columns[name].tolist() if name in self._columns else absent for name in names]
        return list(zip(*columns, strict=True)) if columns else [()] * len(self)


def _coordinates(distribution: BaseDistribution, values: Array) -> Array:
    """Return numbers scaled from the ends of their range to [0, 1]."""
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if distribution.single():
        return np.full(len(values), _ABSENT)
    low, high = float(distribution.low), float(distribution.high)
    if distribution.log:
        values, low, high = np.log(values), float(np.log(low)), float(np.log(high))
    scaled: Array = (values - low) / (high - low)
    return scaled


def _to_unit_interval(distribution: BaseDistribution, value: Any) -> float:
    """Return the number in [0, 1] that ``from_unit_interval`` maps to a value."""
    if isinstance(distribution, CategoricalDistribution):
        return (distribution.to_internal_repr(value) + 0.5) / len(distribution.choices)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if distribution.single():
        return _ABSENT
    low, high = _ends(distribution)
    return float((np.log(value) if distribution.log else value) - low) / (high - low)


def from_unit_interval(distribution: BaseDistribution, units: Array) -> Array:
    """Map numbers in [0, 1] to values of a distribution, as Optuna stores them: each step has the same probability.

    0 and 1 map to the ends of the range to the last bit: alpha = 1 is another training than alpha = 1 - 1e-12.
    """
    if isinstance(distribution, CategoricalDistribution):
        return np.floor(units * len(distribution.choices))
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if distribution.single():
        return np.full(len(units), float(distribution.low))
    low, high = _ends(distribution)
    values = low + units * (high - low)
    if distribution.log:
        values = np.exp(values)
    if distribution.step is not None:
        values = distribution.low + np.round((values - distribution.low) / distribution.step) * distribution.step
    values = np.where(units <= 0, distribution.low, np.where(units >= 1, distribution.high, values))
    clipped: Array = np.clip(values, distribution.low, distribution.high)
    return clipped


def _ends(distribution: FloatDistribution | IntDistribution) -> tuple[float, float]:
    """Return the ends of the sampled interval, half a step wider on each side; logarithms if it is sampled so."""
    half = 0.0 if distribution.step is None else distribution.step / 2
    low, high = distribution.low - half, distribution.high + half
    return (math.log(low), math.log(high)) if distribution.log else (float(low), float(high))
