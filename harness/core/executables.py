"""Name an executable of this environment as a person can type it. Imports nothing heavy."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path


def executable(name: str) -> str:
    """Return what to type for an executable of this environment, which may not be the active one."""
    here = Path(sys.executable).with_name(name)
    return typed(here) if here.exists() else name


def typed(file: Path) -> str:
    """Return what to type for a program: its name where the shell finds this file by it, else its path."""
    here = file.absolute()
    if shutil.which(here.name) == str(here):
        return here.name
    return shlex.quote(str(here.relative_to(Path.cwd()) if here.is_relative_to(Path.cwd()) else here))
