"""Layers in a space: which of them its methods compare, and what each family of students calls them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from optuna.distributions import BaseDistribution, FloatDistribution

from harness.core.errors import did_you_mean
from harness.space_ranges import listed, middle_of
from lightning_modules.methods import Criterion

Distributions = Mapping[str, BaseDistribution]
FamilyLayers = Mapping[str, Mapping[str, str]]
"""Of each family, its names of layers by those that methods name."""

STUDENT, TEACHER = "student_layer", "teacher_layer"
_MOST_COMBINATIONS = 1_000  # of a method's values, each of which may name other layers


def check_family_layers(layers: FamilyLayers, families: Iterable[str], named: Iterable[str]) -> None:
    """Check the names that families give to layers.

    Args:
        layers: As a space declares them.
        families: The names of its families.
        named: The names of students' layers that its methods may compare.

    Raises:
        ValueError: If a family is unknown, or a name is that of no compared layer, or names none.
    """
    families, named = list(families), list(named)
    if not families:
        raise ValueError(
            "layers must name layers of the families of a Choice, but the space has none; name the student's own "
            f"layers as {STUDENT}."
        )
    for family, names in layers.items():
        if family not in families:
            near = did_you_mean(family, families, otherwise=".")
            raise ValueError(f"layers must name families among {', '.join(families)}, but got {family!r}{near}")
        if not isinstance(names, Mapping) or not all(isinstance(own, str) for own in names.values()):
            raise ValueError(
                f"layers of family {family!r} must be a dict of names, as {{'late': 'layer4'}}, but got {names!r}."
            )
        for name in names:
            if name not in named:
                known = f"compares {', '.join(map(repr, named))}" if named else "compares no layers"
                raise ValueError(
                    f"layers of family {family!r} must name layers that methods compare, but the space {known}, and "
                    f"got {name!r}, which would reach nothing{did_you_mean(name, named, otherwise='.')}"
                )


def kept_family_layers(layers: FamilyLayers, families: Iterable[str], named: Iterable[str]) -> FamilyLayers:
    """Return the names of layers that are left where families or methods are left out.

    Args:
        layers: Of each family, its names of layers.
        families: The families that are left.
        named: The names of students' layers that the methods that are left may compare.
    """
    kept = set(named)
    return {
        family: {name: own for name, own in layers[family].items() if name in kept}
        for family in families
        if family in layers
    }


def compared_layers(
    criteria: Mapping[str, type[Criterion]], methods: Mapping[str, Distributions]
) -> Iterator[tuple[str, dict[str, list[str]]]]:
    """Yield the methods that compare layers, each with the names of its possible layers of student and teacher.

    Args:
        criteria: The criterion of each method.
        methods: The parameters of the methods that are left.
    """
    for method, criterion in criteria.items():
        made = [criterion(**values) for values in _combinations(methods[method])] if method in methods else []
        layers = {
            STUDENT: list(dict.fromkeys(layer for one in made for layer in one.student_layers)),
            TEACHER: list(dict.fromkeys(layer for one in made for layer in one.teacher_layers)),
        }
        if any(layers.values()):
            yield method, layers


def student_layers_of(criteria: Mapping[str, type[Criterion]], methods: Mapping[str, Distributions]) -> list[str]:
    """Return the names of students' layers that methods may compare, each once; takes what ``compared_layers`` does."""
    layers = (layer for _, both in compared_layers(criteria, methods) for layer in both[STUDENT])
    return list(dict.fromkeys(layers))


def _combinations(parameters: Distributions) -> Iterator[dict[str, Any]]:
    """Yield all combinations of a method's choices and whole numbers, which may name layers together.

    Ranges of real numbers are in their middle. Where there are more than ``_MOST_COMBINATIONS``, each value is combined
    with the middle of the others.
    """
    middle = {name: middle_of(distribution) for name, distribution in parameters.items()}
    discrete = {
        name: values
        for name, distribution in parameters.items()
        if not isinstance(distribution, FloatDistribution) and (values := listed(distribution, _MOST_COMBINATIONS))
    }
    if math.prod(map(len, discrete.values())) <= _MOST_COMBINATIONS:
        yield from (
            {**middle, **dict(zip(discrete, row, strict=True))} for row in itertools.product(*discrete.values())
        )
        return
    yield middle
    for name, values in discrete.items():
        yield from ({**middle, name: value} for value in values if value != middle[name])
