"""How this program was started, so that the commands it prints can be typed as they stand. Imports nothing heavy."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from harness.core.executables import executable, typed

CONSOLE_SCRIPT = "kd-harness"
"""The command that an installation gives; ``[project.scripts]`` in pyproject.toml names it."""


def program() -> str:
    """Return the program that takes a command's name: ``kd-harness`` where it was started, else ``python -m harness``.

    A worker elsewhere has the ``sys.argv`` of the process that submitted it, and a spawned one that of its parent.
    """
    return CONSOLE_SCRIPT if _is_console_script() else "python -m harness"


def program_here() -> str:
    """Return ``program()``, with a path where the shell would find another file by that name, or none."""
    return typed(Path(sys.argv[0])) if _is_console_script() else f"{executable('python')} -m harness"


def command_line_here() -> str:
    """Return the command line that started this program, addresses and their passwords included."""
    script, *arguments = sys.argv
    if _is_console_script() or Path(script) == Path(__file__).parents[1] / "__main__.py":
        return f"{program_here()} {shlex.join(arguments)}"
    return f"{executable('python')} {shlex.join(sys.argv)}"


def _is_console_script() -> bool:
    return Path(sys.argv[0]).name == CONSOLE_SCRIPT
