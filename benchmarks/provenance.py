"""What a table says of how it was made."""

from __future__ import annotations

import datetime
import shlex
import subprocess
import sys
from pathlib import Path


def provenance() -> str:
    """The command, the commit and the day."""
    folder = Path(__file__).resolve().parent
    command = ["git", "describe", "--always", "--dirty", "--abbrev=10"]
    asked = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    commit = asked.stdout.strip() or "no checkout"
    script = Path(sys.argv[0]).resolve()
    name = script.relative_to(folder.parent) if script.is_relative_to(folder.parent) else script.name
    return f"`python {shlex.join([str(name), *sys.argv[1:]])}`, commit {commit}, {datetime.date.today().isoformat()}."
