"""Parameter values that Optuna's storages keep exactly: other choices are stored as text, large integers refused."""

from __future__ import annotations

import copy
import itertools
import math
from enum import Enum
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

_LARGEST = 2**53  # storages keep numbers as doubles, which round integers beyond it


class StoredChoice(str):
    """A choice that a storage can't keep, as the text that represents it: ``"(16, 8)"`` for a tuple.

    Attributes:
        value: The choice itself, which ``student()`` is called with.
    """

    value: Any

    def __new__(cls, value: Any, text: str) -> StoredChoice:
        choice = super().__new__(cls, text)
        choice.value = value
        return choice

    def __reduce__(self) -> tuple[type[StoredChoice], tuple[Any, str]]:
        return StoredChoice, (self.value, str(self))


def storable(name: str, distribution: BaseDistribution, *, plain: bool = False) -> BaseDistribution:
    """Return a distribution that any storage keeps exactly.

    NumPy's numbers are converted to Python's. Tuples, lists, dicts and members of an ``Enum`` are stored as text.

    Args:
        name: The parameter's name.
        distribution: As it was declared.
        plain: Whether its choices must be numbers or strings, as for a loss.

    Raises:
        ValueError: If it is no distribution, or a storage can't keep its choices or numbers.
    """
    match distribution:
        case CategoricalDistribution():
            return _storable_choices(name, distribution, plain)
        case FloatDistribution():
            ends = (distribution.low, distribution.high, distribution.high - distribution.low)
            if not all(map(math.isfinite, ends)):
                raise ValueError(f"{name} must have finite ends, but got {distribution}.")
        case IntDistribution():
            if max(abs(distribution.low), abs(distribution.high)) > _LARGEST:
                raise ValueError(
                    f"{name} must lie within ±{_LARGEST:,} (2^53), beyond which storages round integers, but got "
                    f"{distribution}; let student() scale a smaller number."
                )
        case _:
            raise ValueError(f"{name} must be an optuna distribution, but got {distribution!r}.")
    return distribution


def holds(distribution: BaseDistribution, value: Any) -> bool:
    """Return whether a distribution contains a value."""
    try:
        number = distribution.to_internal_repr(value)
    except (TypeError, ValueError):
        return False
    if isinstance(distribution, CategoricalDistribution):
        return True  # it has an index among the choices
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    steps = 0.0 if distribution.step is None else (number - distribution.low) / distribution.step
    return distribution.low <= number <= distribution.high and abs(steps - round(steps)) < 1e-8


def chosen(distribution: BaseDistribution, value: Any) -> Any:
    """Return the value that ``student()`` is called with, given the stored one; a fresh copy each time."""
    if not isinstance(distribution, CategoricalDistribution):
        return value
    choice = next((choice for choice in distribution.choices if choice == value), value)
    return copy.deepcopy(choice.value) if isinstance(choice, StoredChoice) else choice


def _storable_choices(name: str, distribution: CategoricalDistribution, plain: bool) -> CategoricalDistribution:
    choices = [_stored(name, choice, plain) for choice in distribution.choices]
    for one, other in itertools.combinations(choices, 2):
        if one == other or str(one) == str(other):
            raise ValueError(
                f"choices of {name} must differ, also when they are written, but got {one!r} and {other!r}; leave one "
                "out, or name one by a string."
            )
    return CategoricalDistribution(choices)


def _stored(name: str, choice: Any, plain: bool) -> Any:
    choice = _of_python(choice)
    if isinstance(choice, Enum) and not plain:
        return StoredChoice(choice, choice.name)
    if isinstance(choice, StoredChoice) or _is_plain(choice):
        return choice
    if isinstance(choice, tuple | list | dict) and not plain and _is_literal(choice):
        return StoredChoice(choice, repr(choice))
    others = "" if plain else ", or tuples, lists and dicts of these"
    raise ValueError(
        f"choices of {name} must be None, bool, int, float or str{others}, but got {choice!r}; name "
        "it by a string, and let student() look it up."
    )


def _of_python(choice: Any) -> Any:
    """Replace NumPy's numbers by Python's, also within tuples, lists and dicts."""
    if isinstance(choice, np.generic):
        return choice.item()
    if type(choice) in (tuple, list):  # no named tuple
        return type(choice)(map(_of_python, choice))
    if type(choice) is dict:
        return {_of_python(key): _of_python(value) for key, value in choice.items()}
    return choice


def _is_plain(choice: Any) -> bool:
    if isinstance(choice, float):
        return not math.isnan(choice)  # NaN does not equal itself
    if isinstance(choice, int):
        return abs(choice) < 2**63
    return choice is None or isinstance(choice, str)


def _is_literal(choice: Any) -> bool:
    match choice:
        case tuple() | list():
            return all(map(_is_literal, choice))
        case dict():
            return all(map(_is_literal, (*choice.keys(), *choice.values())))
    return _is_plain(choice)
