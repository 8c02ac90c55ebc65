"""Choose an evenly spaced subset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

_Item = TypeVar("_Item")


def evenly_spaced(items: Sequence[_Item], most: int) -> list[_Item]:
    """Return at most ``most`` items, evenly spaced and in order; for two or more, the first and the last included."""
    return [items[place] for place in np.linspace(0, len(items) - 1, min(most, len(items))).astype(int)]
