"""A few that stand for many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

_Item = TypeVar("_Item")


def evenly(items: Sequence[_Item], most: int) -> list[_Item]:
    """At most ``most`` of some items, in their order and evenly chosen: from two on, the first and the last too."""
    return [items[place] for place in np.linspace(0, len(items) - 1, min(most, len(items))).astype(int)]
