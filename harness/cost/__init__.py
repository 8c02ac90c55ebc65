"""What a network costs: parameters, MACs and size, and what each runtime of ``backends`` measures.

Exports are imported when they are asked for: ``--help`` reads what backends declare, without importing torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.cost.measure import conditions_of, measure_costs

__all__ = ["conditions_of", "measure_costs"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from harness.cost import measure

    return getattr(measure, name)
