"""Search the students of a teacher: ``python search.py --trials 50``; ``--help`` says the rest."""

from __future__ import annotations

from harness.cli.search import parse_search, run
from harness.launchers import launch


def main() -> None:
    """Parse, and search: here, or where workers are asked for."""
    launch(*parse_search())


if __name__ == "__main__":
    run(main)
