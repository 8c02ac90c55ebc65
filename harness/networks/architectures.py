"""The architectures of a space at which its students are checked: middle, corners, and the values of each parameter."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from optuna.distributions import BaseDistribution

from harness.space import SearchSpace
from harness.space_ranges import bounds_of, ends, listed

_MOST_VALUES, _MOST_CORNERS = 32, 32


def corners(space: SearchSpace) -> Iterator[dict[str, Any]]:
    """Yield the middle, the lowest and the highest values of all parameters of each family, then some other corners."""
    for family, group in space.student_groups.items():
        yield space.architecture_of(space.middle(family=family))
        for side in (0, -1):
            yield {name: bounds_of(distribution)[side] for name, distribution in group.items()}
    for group in space.student_groups.values():
        pairs = [(bounds[0], bounds[-1]) for bounds in map(bounds_of, group.values())]
        for corner in itertools.islice(itertools.product(*pairs), _MOST_CORNERS):
            yield dict(zip(group, corner, strict=True))


def outer_architectures(space: SearchSpace) -> list[dict[str, Any]]:
    """Return the architectures at the low and at the high ends of all ranges, of each family."""
    return [
        {name: ends(distribution)[side] for name, distribution in group.items()}
        for group in space.student_groups.values()
        for side in (0, -1)
    ]


def axes_of(space: SearchSpace) -> dict[str, list[dict[str, Any]]]:
    """Return, for each parameter, architectures with its values; the others are in the middle of their ranges.

    One that several families have is varied in each of them; the choice of the family is among them.
    """
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in space.student}
    for family, group in space.student_groups.items():
        middle = space.architecture_of(space.middle(family=family))
        for name, distribution in group.items():
            found[name] += [middle | {name: value} for value in _values(distribution, middle[name])]
    return found


def _values(distribution: BaseDistribution, middle: Any) -> list[Any]:
    """Return every value of a distribution, or the ends and the middle where there are too many."""
    values = listed(distribution, _MOST_VALUES)
    return values if values is not None else sorted({*bounds_of(distribution), middle})
