"""Published settings, in this project's terms, that every study tries first."""

from __future__ import annotations

from typing import Any

from harness.space import SearchSpace, member
from lightning_modules.criterion import HINTON

RECIPES: dict[str, dict[str, float]] = {
    # RepDistiller and mdistiller: T = 4, cross-entropy weight 0.1.
    "repdistiller": {"temperature": 4.0, "alpha": 0.1},
    # DistilBERT: T = 2; its weights 5 (soft targets) and 2 (hard labels) of the two terms that are ours, summed to 1.
    "distilbert": {"temperature": 2.0, "alpha": 2 / 7},
    # The Keras example of knowledge distillation: T = 10, weight of the hard labels 0.1.
    "keras": {"temperature": 10.0, "alpha": 0.1},
}
"""By name; ``alpha`` is the weight of the hard labels."""


def configurations(space: SearchSpace) -> dict[str, dict[str, Any]]:
    """Each recipe as a whole configuration: what it does not say is in the middle of its range.

    A recipe that the space can't reach, or that differs from a value which the person holds fixed, is left out: it
    would be another recipe.

    Args:
        space: The space, with what the person holds fixed.
    """
    if HINTON not in space.methods:
        return {}
    ranges, found = space.methods[HINTON], {}
    for name, recipe in RECIPES.items():
        values = {key: member(ranges[key], value) for key, value in recipe.items()}
        if None not in values.values():
            found[name] = space.middle(HINTON) | values
    return found
