"""Names and numbers as a person reads them, in tables, bars and pictures."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable
from typing import Any

from harness.metrics import METRICS

_HEADINGS = {
    "tuned_control": "tuned",
    "temperature": "T",
    "alpha": "α",
    "learning_rate": "lr",
}
_SHORT = ("temperature", "alpha")
_UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")  # control characters, lone surrogates, breaks of lines and paragraphs


def printable(text: str, longest: int | None = None) -> str:
    """Return a text as it can stand within a line: without breaks and control characters, at most ``longest`` long."""
    shown = "".join(" " if unicodedata.category(character) in _UNPRINTABLE else character for character in text)
    shown = " ".join(shown.split())
    return shown if longest is None or len(shown) <= longest else f"{shown[: longest - 1]}…"


def heading(name: str) -> str:
    """Return what a metric or parameter is called above its column."""
    return METRICS[name].heading if name in METRICS else _HEADINGS.get(name, printable(name))


def cell(name: str, value: Any) -> str:
    """Return a metric's or parameter's value in a table; empty where there is none."""
    if _is_missing(value):
        return ""  # another method's parameter, or what was not trained
    if name == "gain":
        return f"{value:+.4f}"
    if name in METRICS:
        return METRICS[name].format.format(value)
    if isinstance(value, float):
        return f"{value:.4f}" if name not in _SHORT else f"{value:.3g}"
    return printable(str(value))


def configuration_text(params: dict[str, Any]) -> str:
    """Parameters in few words, as in ``width 8, T 4, α 0.1``."""
    return ", ".join(parameter_texts(params.items()))


def parameter_texts(params: Iterable[tuple[str, Any]]) -> list[str]:
    """Return those parameters that have a value, each in few words."""
    return [parameter_text(name, value) for name, value in params if not _is_missing(value)]


def parameter_text(name: str, value: Any) -> str:
    """Return a parameter in few words, as in ``T 4`` or ``hint_weight 1,250``."""
    if isinstance(value, float):
        value = f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{heading(name)} {printable(str(value))}"


def _is_missing(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
