"""The commands that a message recommends, as a person can type them. Imports nothing heavy."""

from __future__ import annotations

import shlex
from pathlib import Path

from harness.core.addresses import has_password
from harness.core.argv import VARIABLES
from harness.options.spaces import space_argument
from harness.settings import DEFAULT_RUNS_DIR, DEFAULT_STORAGE, DEFAULT_TRACKING_URI, Settings, StudyPlaces

_Given = tuple[str, str | Path | None, str | Path | None]  # a flag, its value, and the value that needs no flag


def status_command(places: StudyPlaces) -> str:
    """Return the command that shows how a study stands."""
    return _command(places.program, "status", *_places(places))


def report_command(places: StudyPlaces) -> str:
    """Return the command that reports on a study, and sends to MLflow what was not sent."""
    return _command(places.program, "report", *_places(places))


def confirm_command(settings: Settings) -> str:
    """Return the command that confirms the picks of a study."""
    # An embedded space is found by its name.
    space = ("--space", _space_argument(settings), settings.space_name)
    return _command(settings.program, "confirm", *_places(settings), space)


def doctor_command(settings: Settings, teacher: Path | None) -> str:
    """Return the command that checks the task of a search.

    Args:
        settings: How the task is searched.
        teacher: Checkpoint of the teacher to check; ``None`` checks one that the search trains.
    """
    return _command(
        settings.program,
        "doctor",
        ("--space", _space_argument(settings), None),
        ("--data-dir", settings.data_dir, None),
        ("--runs-dir", settings.runs_dir, DEFAULT_RUNS_DIR),
        ("--teacher", teacher, None),
    )


def _space_argument(settings: Settings) -> str:
    """Return the value of ``--space``; ``FILE`` where Python gave the space, which is in no file yet."""
    return "FILE" if settings.space_file is None else space_argument(settings.space_name, settings.space_file)


def _places(places: StudyPlaces) -> list[_Given]:
    return [
        ("--study", places.study, None),
        ("--storage", places.storage, DEFAULT_STORAGE),
        ("--tracking-uri", places.tracking_uri, DEFAULT_TRACKING_URI),
        ("--runs-dir", places.runs_dir, DEFAULT_RUNS_DIR),
    ]


def _command(program: str, name: str, *given: _Given) -> str:
    """Return a command with the flags that differ from their defaults, but for an address that has a password."""
    words = "".join(
        f" {flag} {shlex.quote(str(value))}"
        for flag, value, default in given
        if value != default and not (flag in VARIABLES and has_password(str(value)))
    )
    return f"{program} {name}{words}"
