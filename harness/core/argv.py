"""What ``ps`` shows of this program: no password. Imports nothing heavy, for it comes before all else."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from harness.core.addresses import has_password

VARIABLES = {"--storage": "KD_STORAGE", "--tracking-uri": "MLFLOW_TRACKING_URI", "--to": "KD_TO"}
"""The environment variable that each address's flag reads as its default."""


def hide_passwords() -> None:
    """Start this program anew, at once, if its command line holds a password: with the address in the environment.

    Every user of a machine can read the command line of every process; its environment, only its own user. The process
    stays the same one, so whoever started it waits for it and signals it as before.
    """
    kept, addresses = without_passwords(sys.orig_argv[1:])
    if addresses:
        environment = {**os.environ, **addresses}
        os.execve(sys.executable, [sys.executable, *kept], environment)  # nosec B606 # this program itself


def without_passwords(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Return a command line without the flags whose address holds a password, and what their variables must be instead.

    Args:
        arguments: The command line. Of a flag that is repeated the last one counts, as everywhere.
    """
    given: list[tuple[str, str, tuple[str, ...]]] = []  # a flag, its value, and what was typed
    rest = list(arguments)
    while rest:
        flag, sign, value = rest[0].partition("=")
        words = 1 if sign or flag not in VARIABLES or len(rest) == 1 else 2
        given.append((flag, value if words == 1 else rest[1], tuple(rest[:words])))
        del rest[:words]
    secret = {flag for flag, value, _ in given if flag in VARIABLES and has_password(value)}
    kept = [word for flag, _, words in given if flag not in secret for word in words]
    return kept, {VARIABLES[flag]: value for flag, value, _ in given if flag in secret}
