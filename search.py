"""Search the students of a teacher: ``python search.py --trials 50``; see ``--help``."""

from __future__ import annotations

from harness.cli.hints import next_steps
from harness.cli.run import run
from harness.cli.search import parse_search
from harness.launchers import launch


def main() -> None:
    """Parse the command line, and search here or where workers are asked for."""
    launch(*parse_search(), next_steps)


if __name__ == "__main__":
    run(main)
