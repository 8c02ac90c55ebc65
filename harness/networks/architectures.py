"""The architectures of a space at which its students are checked: middle, corners, and the values of each parameter."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from optuna.distributions import BaseDistribution

from harness.networks.students import middle_architecture
from harness.space import SearchSpace
from harness.space_ranges import bounds_of, listed

_MOST_VALUES, _MOST_CORNERS = 32, 32


def corners(space: SearchSpace) -> Iterator[dict[str, Any]]:
    """Yield the middle, the lowest and the highest values of all parameters, and some of the other corners."""
    yield middle_architecture(space)
    ends = [(bounds[0], bounds[-1]) for bounds in map(bounds_of, space.student.values())]
    for side in (0, -1):
        yield dict(zip(space.student, (pair[side] for pair in ends), strict=True))
    for corner in itertools.islice(itertools.product(*ends), _MOST_CORNERS):
        yield dict(zip(space.student, corner, strict=True))


def axes_of(space: SearchSpace) -> dict[str, list[dict[str, Any]]]:
    """Return, for each parameter, architectures with its values; the others are in the middle of their ranges."""
    middle = middle_architecture(space)
    return {
        name: [middle | {name: value} for value in _values(distribution, middle[name])]
        for name, distribution in space.student.items()
    }


def _values(distribution: BaseDistribution, middle: Any) -> list[Any]:
    """Return every value of a distribution, or the ends and the middle where there are too many."""
    values = listed(distribution, _MOST_VALUES)
    return values if values is not None else sorted({*bounds_of(distribution), middle})
