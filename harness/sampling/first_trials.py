"""Choose the first trials of a study: published recipes that lie in its space, each as a whole configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from harness.core.errors import HarnessError
from harness.recipes import DEFAULT_RECIPES, RECIPES
from harness.space import SearchSpace
from harness.space_module import OWN_TRAINING
from harness.space_ranges import member
from lightning_modules.methods import HINTON


@dataclass(frozen=True, kw_only=True)
class InitialTrials:
    """What a search tries before its sampler is used.

    Attributes:
        recipes: Names of the recipes that the user requests.
        default_recipes: Whether the default recipes follow.
        small: Small architectures for the first and the last of the default recipes; empty if no cost is an objective.
    """

    recipes: Sequence[str] = ()
    default_recipes: bool = True
    small: Sequence[Mapping[str, Any]] = ()


def first_trials(
    space: SearchSpace, requested: Sequence[str] = (), *, defaults: bool = True
) -> dict[str, dict[str, Any]]:
    """Return recipes by name, requested ones first; unspecified parameters are in the middle of their range.

    A default recipe that lies outside the space, or differs from a value that the user fixed, is left out: it would be
    another recipe.

    Args:
        space: The space, with the values that the user fixed.
        requested: Names of the recipes that the user requests.
        defaults: Whether the default recipes follow.

    Raises:
        HarnessError: If a requested recipe lies outside the space; the message says why.
    """
    found = {}
    for name in dict.fromkeys((*requested, *(DEFAULT_RECIPES if defaults else ()))):
        reason = _why_outside(name, space)
        if reason is None:
            method = _method_of(space)
            ranges = space.methods[method]
            values = {key: member(ranges[key], value) for key, value in RECIPES[name].items()}
            found[name] = space.middle(method) | values
        elif name in requested:
            raise HarnessError(f"--recipe {name} can't be tried: {reason}.")
    return found


def _why_outside(name: str, space: SearchSpace) -> str | None:
    """Return why a recipe lies outside the space; ``None`` if it does not."""
    method = _method_of(space)
    if method not in space.methods:
        return f"it is of method {HINTON}, and the space has only {', '.join(space.methods)}"
    ranges = space.methods[method]
    for key, value in RECIPES[name].items():
        if key not in ranges:
            return f"its {key} is {value:.4g}, and {key} is none of module()'s in distillation"
        if member(ranges[key], value) is None:
            return f"its {key} is {value:.4g}, and the space has {_describe(ranges[key])}"
    return None


def _method_of(space: SearchSpace) -> str:
    """Return the method that recipes are of; where students train themselves, they set ``module()``'s parameters."""
    return OWN_TRAINING if space.trains_itself else HINTON


def _describe(distribution: BaseDistribution) -> str:
    if isinstance(distribution, CategoricalDistribution):
        return f"one of {', '.join(map(str, distribution.choices))}"
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if distribution.single():
        return f"it fixed at {distribution.low:.4g}"
    step = f" in steps of {distribution.step:g}" if distribution.step not in (None, 1) else ""
    return f"{distribution.low:g} to {distribution.high:g}{step}"
