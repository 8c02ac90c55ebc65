"""Texts of names, numbers and durations, for tables, progress bars and pictures."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable
from typing import Any

from harness.core.names import FOLD_SPREAD
from harness.metrics import METRICS

_HEADINGS = {
    "tuned_control": "tuned",
    FOLD_SPREAD: "± folds",
    "temperature": "T",
    "alpha": "α",
    "learning_rate": "lr",
}
_SHORT = ("temperature", "alpha")
_UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")  # control characters, lone surrogates, breaks of lines and paragraphs


def printable(text: str, longest: int | None = None) -> str:
    """Return a text that fits into a line: without line breaks and control characters, at most ``longest`` long."""
    shown = "".join(" " if unicodedata.category(character) in _UNPRINTABLE else character for character in text)
    shown = " ".join(shown.split())
    return shown if longest is None or len(shown) <= longest else f"{shown[: longest - 1]}…"


def heading(name: str) -> str:
    """Return the heading of the column of a metric or parameter."""
    return METRICS[name].heading if name in METRICS else _HEADINGS.get(name, printable(name))


def cell(name: str, value: Any) -> str:
    """Return the text of a metric's or parameter's value in a table; empty if it is missing."""
    if _is_missing(value):
        return ""  # as of another method's parameter
    if name == "gain":
        return signed(value)
    if name in METRICS:
        return METRICS[name].format.format(value)
    if isinstance(value, float):
        return f"{value:.4f}" if name not in _SHORT else f"{value:.3g}"
    return printable(str(value))


def configuration_text(params: dict[str, Any]) -> str:
    """Return parameters in one line, as in ``width 8, T 4, α 0.1``."""
    return ", ".join(parameter_texts(params.items()))


def parameter_texts(params: Iterable[tuple[str, Any]]) -> list[str]:
    """Return the text of each parameter that has a value."""
    return [parameter_text(name, value) for name, value in params if not _is_missing(value)]


def parameter_text(name: str, value: Any) -> str:
    """Return the text of a parameter, as in ``T 4`` or ``hint_weight 1,250``."""
    if isinstance(value, float):
        value = f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{heading(name)} {printable(str(value))}"


def signed(value: float) -> str:
    """Return a gain with its sign."""
    return f"{value:+.4f}"


def duration_text(seconds: float) -> str:
    """Return a duration as ``m:ss``, or ``h:mm:ss`` from an hour on."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def _is_missing(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
