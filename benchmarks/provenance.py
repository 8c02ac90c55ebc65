"""What a table says of how it was made."""

from __future__ import annotations

import datetime
import functools
import shlex
import subprocess
import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent


@functools.cache
def provenance() -> str:
    """Return the command, and the commit and the day when this was first asked for."""
    commit = _git("rev-parse", "--short=10", "HEAD") or "unknown"
    if _git("status", "--porcelain", "--", "..", ":!results"):
        commit += " with changes"
    script = Path(sys.argv[0]).resolve()
    name = script.relative_to(_HERE.parent) if script.is_relative_to(_HERE.parent) else script.name
    return f"`python {shlex.join([str(name), *sys.argv[1:]])}`, commit {commit}, {datetime.date.today().isoformat()}."


def _git(*arguments: str) -> str:
    """Return what git says of this checkout; nothing if it is none."""
    command = ["git", *arguments]
    asked = subprocess.run(command, cwd=_HERE, capture_output=True, text=True)
    return asked.stdout.strip()
