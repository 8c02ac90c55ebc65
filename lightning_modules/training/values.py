"""Check the values of a training's keywords, one by one."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from numbers import Integral, Real
from typing import Any

OPTIMIZERS = ("adamw", "adam", "sgd")
SCHEDULES = ("one_cycle", "cosine", "step", "constant")
PRECISIONS = ("32", "bf16-mixed")
DECAY_ON = ("weights", "all")
FACTORS = ("learning_rate", "weight_decay")
"""What a group of parameters can have a factor of."""
FROZEN = "frozen"
"""Share of the steps in which a group of parameters is not trained at first."""


def checked(name: str, value: Any) -> Any:
    """Return the value of a keyword in its own type: Python's numbers for NumPy's, a tuple for a list.

    Raises:
        ValueError: If the name is no keyword, or the value is not one that it can have.
    """
    if name not in KEYWORDS:
        raise ValueError(f"a training must name some of {', '.join(KEYWORDS)}, but got {name!r}.")
    try:
        return KEYWORDS[name](value)
    except _Unfit as error:
        raise ValueError(f"{name} must be {error.wanted}, but got {value!r}{error.hint or '.'}") from None


class _Unfit(Exception):
    def __init__(self, wanted: str, hint: str = "") -> None:
        super().__init__(wanted)
        self.wanted, self.hint = wanted, hint


_Check = Callable[[Any], Any]


def _number(wanted: str, holds: Callable[[float], bool]) -> _Check:
    def check(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, Real) or not holds(float(value)):
            raise _Unfit(wanted)
        return float(value)

    return check


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise _Unfit("a whole number of at least 1")
    return int(value)


def _one_of(names: tuple[str, ...], *, or_else: str = "") -> _Check:
    wanted = f"one of {', '.join(names)}{or_else}"

    def check(value: Any) -> str:
        if not isinstance(value, str) or value not in names:
            near = difflib.get_close_matches(value.lower(), names, n=1) if isinstance(value, str) else []
            raise _Unfit(wanted, f"; did you mean {near[0]!r}?" if near else "")
        return value

    return check


def _optional(check: _Check) -> _Check:
    return lambda value: None if value is None else check(value)


def _optimizer(value: Any) -> Any:
    return value if callable(value) else _one_of(OPTIMIZERS, or_else=", or a factory")(value)


def _milestones(value: Any) -> tuple[float, ...]:
    wanted = "shares of the steps in (0, 1), ascending"
    if not isinstance(value, tuple | list) or not value:
        raise _Unfit(wanted)
    shares = tuple(_number(wanted, lambda share: 0 < share < 1)(one) for one in value)
    if any(one >= other for one, other in pairwise(shares)):
        raise _Unfit(wanted)
    return shares


def _groups(value: Any) -> dict[str, dict[str, float]]:
    wanted = "patterns of names with factors, as {'head.*': {'learning_rate': 10.0}},"
    if not isinstance(value, Mapping) or not all(isinstance(factors, Mapping) for factors in value.values()):
        raise _Unfit(wanted)
    found: dict[str, dict[str, float]] = {}
    for pattern, factors in value.items():
        if not isinstance(pattern, str) or not pattern or not factors:
            raise _Unfit(wanted)
        for factor in factors:
            _one_of((*FACTORS, FROZEN))(factor)
        at_least_0 = _number("factors of at least 0 and finite", lambda factor: 0 <= factor < math.inf)
        share = _number("frozen for a share of the steps in [0, 1)", lambda value: 0 <= value < 1)
        found[pattern] = {name: (share if name == FROZEN else at_least_0)(value) for name, value in factors.items()}
    return found


_POSITIVE = _number("positive and finite", lambda value: 0 < value < math.inf)
_FRACTION = _number("in [0, 1)", lambda value: 0 <= value < 1)
_INSIDE = _number("in (0, 1)", lambda value: 0 < value < 1)

KEYWORDS: Mapping[str, _Check] = {
    "optimizer": _optimizer,
    "learning_rate": _POSITIVE,
    "momentum": _optional(_FRACTION),
    "weight_decay": _optional(_number("at least 0 and finite", lambda value: 0 <= value < math.inf)),
    "decay_on": _optional(_one_of(DECAY_ON)),
    "schedule": _one_of(SCHEDULES),
    "warmup": _optional(_FRACTION),
    "milestones": _optional(_milestones),
    "step_factor": _optional(_INSIDE),
    "batch_size": _optional(_count),
    "accumulate": _count,
    "clip_norm": _optional(_POSITIVE),
    "precision": _one_of(PRECISIONS),
    "ema_decay": _optional(_INSIDE),
    "label_smoothing": _FRACTION,
    "groups": _groups,
}
"""The keywords of ``Training`` by name, each with what checks its value."""
