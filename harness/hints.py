"""The commands that a message recommends, as a person can type them. Imports nothing heavy."""

from __future__ import annotations

import shlex
from pathlib import Path

from harness.core.addresses import has_password
from harness.core.argv import VARIABLES
from harness.options.spaces import space_argument
from harness.settings import DEFAULT_RUNS_DIR, DEFAULT_STORAGE, DEFAULT_TRACKING_URI, Settings

_Given = tuple[str, str | Path | None, str | Path | None]  # a flag, its value, and the value that needs no flag


def command_for(name: str, settings: Settings) -> str:
    """Return a command about a study, without an address that has a password.

    Args:
        name: The command.
        settings: Name the study, its places, and the program.
    """
    places: list[_Given] = [
        ("--storage", settings.storage, DEFAULT_STORAGE),
        ("--tracking-uri", settings.tracking_uri, DEFAULT_TRACKING_URI),
        ("--runs-dir", settings.runs_dir, DEFAULT_RUNS_DIR),
    ]
    if name == "confirm":  # which finds an embedded space by itself
        places.append(("--space", _space_argument(settings), settings.space_name))
    return _command(settings.program, name, ("--study", settings.study, None), *places)


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
    return space_argument(settings.space_name, settings.space_file) if settings.has_space_file else "FILE"


def _command(program: str, name: str, *given: _Given) -> str:
    words = "".join(
        f" {flag} {shlex.quote(str(value))}"
        for flag, value, default in given
        if value != default and not (flag in VARIABLES and has_password(str(value)))
    )
    return f"{program} {name}{words}"
