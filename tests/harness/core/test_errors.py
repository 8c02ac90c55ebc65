"""What ends a command: signals that get lost in Python's own doing are heard all the same."""

from __future__ import annotations

import subprocess
import sys

import pytest
from conftest import environment

_ENDS = """
import os, signal, time
from pathlib import Path
class Removed:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
def main():
    Removed()  # what its end raises is dropped
    time.sleep(30)
"""
_RUNNERS = {
    "a command": ("from harness.cli.run import run\nrun(main)\n", 143),
    "a scheduler's worker": (
        "import harness.session\nfrom harness.launchers.remote import JobSpec\nfrom harness.settings import Settings\n"
        "harness.session.search_and_print = lambda settings, next_steps: main()\n"
        "settings = Settings(space_name='a', space_file=Path('a.py'), study='a', runs_dir=Path('none'))\n"
        "raise SystemExit(JobSpec(settings, Path.cwd(), ('a',), str).run([signal.SIGTERM], Path('log')))\n",
        15,
    ),
}


@pytest.mark.parametrize("who", _RUNNERS)
def test_a_signal_during_a_finalizer_is_not_lost(who: str) -> None:
    runner, code = _RUNNERS[who]
    ended = subprocess.run([sys.executable, "-c", _ENDS + runner], env=environment(), capture_output=True, timeout=25)
    assert (ended.returncode, ended.stderr) == (code, b"")
