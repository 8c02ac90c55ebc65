"""Published settings, in this project's terms, that every study tries first."""

from __future__ import annotations

from typing import Any

from harness.errors import HarnessError
from harness.space import SearchSpace

RECIPES: dict[str, dict[str, float]] = {
    # RepDistiller and mdistiller: T = 4, cross-entropy weight 0.1.
    "repdistiller": {"temperature": 4.0, "alpha": 0.1},
    # DistilBERT: T = 2; its weights 5 (soft targets) and 2 (hard labels) of the two terms that are ours, summed to 1.
    "distilbert": {"temperature": 2.0, "alpha": 2 / 7},
    # The Keras example of knowledge distillation: T = 10, weight of the hard labels 0.1.
    "keras": {"temperature": 10.0, "alpha": 0.1},
    # No teacher at all: what every gain is to be seen beside. T has no say here.
    "control": {"temperature": 1.0, "alpha": 1.0},
}
"""By name; ``alpha`` is the weight of the hard labels."""


def configurations(space: SearchSpace, fixed: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Each recipe as a whole configuration: what it does not say is in the middle of its range.

    A recipe that the space can't reach, or that differs from a value which the person holds fixed, is left out: it
    would be another recipe.

    Args:
        space: The space.
        fixed: Parameters held fixed, as text.
    """
    found = {}
    for name, recipe in RECIPES.items():
        try:
            space.fixed({key: repr(value) for key, value in recipe.items()})
        except HarnessError:
            continue
        middle = space.fixed(fixed).middle()
        if all(key not in fixed or float(middle[key]) == value for key, value in recipe.items()):
            found[name] = middle | recipe
    return found
