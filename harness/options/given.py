"""Read the options that a person gave to a command, one by one, and name the option in each error."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import TypeVar

from harness.core.errors import HarnessError

_Value = TypeVar("_Value")
_Default = TypeVar("_Default")


class InvalidOption(HarnessError):
    """An option that has an invalid value, is missing, or contradicts another option."""


def variable(name: str, default: str) -> str:
    """Return an environment variable; one that is empty or blank counts as unset, as in the tools around this one."""
    return os.environ.get(name, "").strip() or default


class Given:
    """The options that a person gave to a command, not checked yet.

    Args:
        values: Value by option name, as text or as a Python value. ``None``, ``False`` and an empty sequence stand for
            an option that was left out.
        spell: Return an option's name as the person wrote it: ``--min-share`` for ``min_share`` on a command line.
        program: What starts this program's commands, for the hints of messages.
    """

    def __init__(self, values: Mapping[str, object], *, spell: Callable[[str], str] = str, program: str) -> None:
        self._values = values
        self.spell = spell
        self.program = program

    def has(self, name: str) -> bool:
        """Return whether an option was given."""
        value = self._values.get(name)
        return not (value is None or value is False or (isinstance(value, tuple | list) and not value))

    def read(self, name: str, check: Callable[[object], _Value], default: _Default) -> _Value | _Default:
        """Return the checked value of an option, or a default where it was left out.

        Args:
            name: The option.
            check: One of ``harness.options.values``.
            default: Returned as it is.

        Raises:
            InvalidOption: If the check refuses the value.
        """
        return self._checked(name, check, self._values[name]) if self.has(name) else default

    def read_required(self, name: str, check: Callable[[object], _Value], otherwise: str = "") -> _Value:
        """Return the checked value of an option that has no default.

        Args:
            name: The option.
            check: One of ``harness.options.values``.
            otherwise: Environment variable that is read where the option was left out; empty for none.

        Raises:
            InvalidOption: If the option is missing or invalid.
        """
        value = self._values[name] if self.has(name) else otherwise and variable(otherwise, "")
        if not self.has(name) and not value:
            raise InvalidOption(f"{self.spell(name)} is required{f', or ${otherwise}' if otherwise else ''}")
        return self._checked(name, check, value)

    def read_or_variable(self, name: str, check: Callable[[object], _Value], where: str, default: object) -> _Value:
        """Return the checked value of an option, of an environment variable where it was left out, or of a default.

        Args:
            name: The option.
            check: One of ``harness.options.values``.
            where: The environment variable.
            default: Used where neither is set.

        Raises:
            InvalidOption: If the value is invalid.
        """
        value = self._values[name] if self.has(name) else variable(where, str(default))
        return self._checked(name, check, value)

    def read_all(self, name: str, check: Callable[[str], _Value]) -> list[_Value]:
        """Return the checked values of an option that may be repeated.

        Args:
            name: The option. A mapping is read as ``NAME=VALUE`` each.
            check: One of ``harness.options.values``.

        Raises:
            InvalidOption: If the check refuses a value.
        """
        return [self._checked(name, check, text) for text in self._texts(name)]

    def read_named(self, name: str, check: Callable[[str], tuple[str, _Value]], what: str) -> dict[str, _Value]:
        """Return the checked values of an option that may be repeated, by the name that each has.

        Args:
            name: The option.
            check: Returns a name and a value.
            what: What the names are names of, for the error.

        Raises:
            InvalidOption: If the check refuses a value, or two have the same name.
        """
        return self.each_once(name, what, self.read_all(name, check))

    def each_once(self, name: str, what: str, pairs: Sequence[tuple[str, _Value]]) -> dict[str, _Value]:
        """Return named values by name.

        Raises:
            InvalidOption: If two have the same name.
        """
        named = dict(pairs)
        if len(named) < len(pairs):
            raise InvalidOption(f"{self.spell(name)} must name each {what} once")
        return named

    def _texts(self, name: str) -> list[str]:
        value = self._values.get(name)
        if not self.has(name):
            return []
        if isinstance(value, Mapping):
            return [f"{key}={one.name if isinstance(one, Enum) else one}" for key, one in value.items()]
        if isinstance(value, Sequence) and not isinstance(value, str):
            return [str(one) for one in value]
        return [str(value)]

    def _checked(self, name: str, check: Callable[..., _Value], value: object) -> _Value:
        try:
            return check(value)
        except ValueError as error:
            raise InvalidOption(f"{self.spell(name)} {error}") from None
