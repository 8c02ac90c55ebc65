"""Keep passwords out of the command line that ``ps`` shows. Imports nothing heavy, for it runs before all else."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from harness.core.addresses import has_password

VARIABLES = {"--storage": "KD_STORAGE", "--tracking-uri": "MLFLOW_TRACKING_URI", "--to": "KD_TO"}
"""Environment variable that gives the default of each address's flag."""


def hide_passwords() -> None:
    """Re-execute this program with the address in the environment, if its command line holds a password.

    Every user of a machine can read the command line of every process, but the environment only of their own. The
    process id stays, so the parent process can wait for it and signal it as before.
    """
    kept, addresses = without_passwords(sys.orig_argv[1:])
    if addresses:
        environment = {**os.environ, **addresses}
        os.execve(sys.executable, [sys.executable, *kept], environment)  # nosec B606 # this program itself


def without_passwords(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Return a command line without the flags whose address holds a password, and the variables that replace them.

    Args:
        arguments: The command line. Of a repeated flag the last value counts, as everywhere.
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
