"""What a study tries first: recipes, as far as its space can reach them, each as a whole configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from harness.core.errors import HarnessError
from harness.recipes import DEFAULT_RECIPES, RECIPES
from harness.space import SearchSpace
from harness.space_ranges import member
from lightning_modules.methods import HINTON


def first_trials(space: SearchSpace, asked: Sequence[str] = (), *, defaults: bool = True) -> dict[str, dict[str, Any]]:
    """Recipes by name, those that are asked for first; what one does not say is in the middle of its range.

    One of the defaults that the space can't reach, or that differs from a value which the person holds fixed, is left
    out: it would be another recipe.

    Args:
        space: The space, with what the person holds fixed.
        asked: Names of recipes that the person asks for.
        defaults: Whether those that are tried unasked follow.

    Raises:
        HarnessError: If one that is asked for is out of reach; says why.
    """
    found = {}
    for name in dict.fromkeys((*asked, *(DEFAULT_RECIPES if defaults else ()))):
        reason = _out_of_reach(name, space)
        if reason is None:
            ranges = space.methods[HINTON]
            values = {key: member(ranges[key], value) for key, value in RECIPES[name].items()}
            found[name] = space.middle(HINTON) | values
        elif name in asked:
            raise HarnessError(f"--recipe {name} can't be tried: {reason}.")
    return found


def _out_of_reach(name: str, space: SearchSpace) -> str | None:
    """Return why the space does not hold a recipe; ``None`` if it does."""
    if HINTON not in space.methods:
        return f"it is of method {HINTON}, and the space has only {', '.join(space.methods)}"
    ranges = space.methods[HINTON]
    for key, value in RECIPES[name].items():
        if member(ranges[key], value) is None:
            return f"its {key} is {value:.4g}, and the space has {_shown(ranges[key])}"
    return None


def _shown(distribution: BaseDistribution) -> str:
    if isinstance(distribution, CategoricalDistribution):
        return f"one of {', '.join(map(str, distribution.choices))}"
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if distribution.single():
        return f"it held at {distribution.low:.4g}"
    step = f" in steps of {distribution.step:g}" if distribution.step not in (None, 1) else ""
    return f"{distribution.low:g} to {distribution.high:g}{step}"
