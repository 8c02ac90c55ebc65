"""Check the value of one option, given as text or as a Python value. Imports nothing heavy.

Each function returns the checked value or raises ``ValueError``, whose message continues the option's name:
``must be a whole number of at least 1, but got 0``.
"""

from __future__ import annotations

import errno
import math
import os
import re
from collections.abc import Callable, Collection
from pathlib import Path

from harness.core.addresses import is_showable
from harness.core.errors import did_you_mean
from harness.metrics import budget_names
from harness.options.spaces import space_file, space_names
from harness.settings import Bound

_ENDING = "; leave it out for the default"


def at_least_one(value: object) -> int:
    """Return a whole number of at least 1."""
    return _at_least(1, value)


def at_least_two(value: object) -> int:
    """Return a whole number of at least 2."""
    return _at_least(2, value, why=", for an interval")


def _at_least(least: int, value: object, why: str = "") -> int:
    text = str(value)
    if not re.fullmatch(r"[+-]?\d+", text) or int(text) < least:
        raise ValueError(f"must be a whole number of at least {least}{why}, but got {value!r}")
    return int(text)


def seed(value: object) -> int:
    """Return a seed in [0, 2^31)."""
    text = str(value)
    if not re.fullmatch(r"[0-9]+", text) or int(text) >= 2**31:
        raise ValueError(f"must be a whole number from 0 to 2147483647, but got {value!r}")
    return int(text)


def seconds(value: object) -> float:
    """Return a positive number of seconds."""
    number = _positive(value)
    if number is None:
        raise ValueError(f"must be a positive number of seconds, but got {value!r}")
    return number


def share(value: object) -> float:
    """Return a share of the teacher's score, above 0 and at most 1."""
    number = _positive(value)
    if number is None or number > 1:
        raise ValueError(f"must be a share above 0 and at most 1, as 0.98, but got {value!r}")
    return number


def one_of(choices: Collection[str]) -> Callable[[object], str]:
    """Return a check that a value is one of several words."""

    def check(value: object) -> str:
        if value not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}, but got {value!r}{did_you_mean(value, choices)}")
        return str(value)

    return check


def names(value: object) -> tuple[str, ...]:
    """Return different names, given as a list or as text joined by commas."""
    found = tuple(map(str, value)) if isinstance(value, list | tuple) else tuple(str(value).split(","))
    if len(set(found)) < len(found) or "" in found:
        raise ValueError(f"must be different names joined by commas, but got {value!r}")
    return found


def assignment(text: str) -> tuple[str, str]:
    """Return the name and the value of ``NAME=VALUE``, as text."""
    name, sign, value = text.partition("=")
    if not (name and sign and value):
        raise ValueError(f"must be NAME=VALUE, but got {text!r}")
    return name, value


def maximum(text: str) -> tuple[str, float]:
    """Return the name and the value of an upper bound: positive for a cost, any finite number for another metric."""
    name, _, number = text.rpartition("=")
    value = _positive(number) if name in budget_names() else _finite(number)
    if not name:
        raise ValueError(
            f"must name one of {', '.join(budget_names())} or the primary metric, as in NAME=VALUE, but got {text!r}"
        )
    if value is None:
        kind = "a positive" if name in budget_names() else "a finite"
        raise ValueError(f"must give {name} {kind} number, but got {text!r}")
    return name, value


def minimum(text: str) -> Bound:
    """Return a lower bound on the primary metric, given as ``METRIC=VALUE``; ``none`` lifts the bound."""
    if text == "none":
        return Bound("--min")
    name, _, number = text.rpartition("=")
    value = _finite(number)
    if not name or value is None:
        raise ValueError(f"must be METRIC=VALUE with a finite number, or none, but got {text!r}")
    return Bound("--min", name, value)


def address(value: object) -> str:
    """Return an address whose password ``redact`` can hide. Any other is not shown in the message either."""
    text = str(value)
    if not text.strip():
        raise ValueError(f"must be an address, but got {text!r}{_ENDING}")
    if not is_showable(text):
        raise ValueError(
            "must be an address with '://' after its kind, and with %20 for a blank, but got one without; it is not "
            "shown, for it may hold a password"
        )
    return text


def folder(value: object) -> Path:
    """Return the path of a folder, which need not exist."""
    text = str(value)
    if not text.strip():
        raise ValueError(f"must be a folder, but got {text!r}{_ENDING}")
    try:
        Path(text).stat()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise ValueError(f"must be a folder, but got {text!r}: {error.strerror}") from None
    return Path(text)


def folder_or_file(value: object) -> Path:
    """Return the path of a folder or a file that exists."""
    if not os.path.exists(str(value)):  # Path's own raises for a name that is too long
        raise ValueError(f"must be a folder or a file, but there is no {str(value)!r}")
    return Path(str(value))


def writable_folder(value: object) -> Path:
    """Create a folder where it does not exist, check that it can be written, and return its path."""
    path = folder(value)
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"must be a folder whose whole name is UTF-8, for MLflow keeps no artifacts in others, but got "
            f"{os.fsencode(path.absolute())!r}"
        ) from None
    probe = path / f".writable.{os.getpid()}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(f"must be a folder that can be written, but {str(path)!r} can't: {error.strerror}") from None
    return path


MODEL_FILES = ("saved_model.pb", "model.safetensors", "model.safetensors.index.json")
"""What tells that a folder holds a model: of TensorFlow, or one of safetensors, whole or in shards."""


def checkpoint(value: object) -> Path:
    """Return the path of a teacher's checkpoint or answers: a file, or the folder that a library saves a model in."""
    is_model = any(os.path.isfile(os.path.join(str(value), name)) for name in MODEL_FILES)
    if not os.path.isfile(str(value)) and not is_model:  # Path's own raises for a name that is too long
        raise ValueError(f"must be a checkpoint file, but there is no file {str(value)!r}")
    return Path(str(value))


def study_name(value: object) -> str:
    """Return the name of a study, which becomes the name of a folder: nothing in it may lead out of the runs."""
    text = str(value)
    if not re.fullmatch(r"[A-Za-z0-9][\w.+-]{0,99}", text, re.ASCII):
        raise ValueError(f"must be letters, digits and . _ + -, at most 100, a letter or digit first, but got {text!r}")
    return text


def space(value: object) -> tuple[str, Path]:
    """Return the name and the file of a space, given as the name of an embedded one or as a Python file."""
    text = str(value)
    if text.endswith(".py"):
        if not os.path.isfile(text):
            found = ", which is a folder" if os.path.isdir(text) else ""
            raise ValueError(f"must be a Python file that exists, but got {text!r}{found}")
        return Path(text).stem.replace("_", "-"), Path(text)
    if text not in space_names():
        near = [file for file in (f"{text}.py", f"{text.replace('-', '_')}.py") if os.path.isfile(file)]
        hint = f"; did you mean {near[0]}?" if near else did_you_mean(text, space_names())
        raise ValueError(f"must be one of {', '.join(space_names())} or a Python file, but got {text!r}{hint}")
    return text, space_file(text)


def _finite(value: object) -> float | None:
    """Return a finite number; ``None`` for anything else."""
    try:
        number = float(str(value))
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _positive(value: object) -> float | None:
    """Return a finite number above zero; ``None`` for anything else."""
    number = _finite(value)
    return number if number is not None and number > 0 else None
