"""Whether a study goes on as what it was begun as: its format, and its code; or with changes that were accepted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.core.errors import HarnessError
from harness.core.sources import Code
from harness.studies.start import Start
from harness.studies.study import Study

FORMAT = 3
"""Counts up whenever a study is stored in a way that other versions of this program would misread."""
_FORMAT = "format"


def known_starts(study: Study, starts: Mapping[str, Start]) -> dict[str, Start]:
    """Starts by name: the one that a study knows, where that is like the given one."""
    known = study.starts()
    return {
        name: known[name] if name in known and known[name].is_like(start) else start for name, start in starts.items()
    }


def bind_starts(study: Study, starts: Mapping[str, Start]) -> dict[str, Start]:
    """Tie a study to what networks start from, or see that it is tied to the same, or note what is accepted.

    Args:
        study: The study, whose lease is held.
        starts: By what the networks are called.

    Returns:
        What it is tied to.

    Raises:
        HarnessError: If a network starts from something else, and that is not accepted.
    """
    with study.alone("bind"):
        known, bound = study.starts(), known_starts(study, starts)
        others = [name for name, start in bound.items() if name in known and known[name] != start]
        if others and not study.is_unused():
            more = f" and of {len(others) - 1} more" if len(others) > 1 else ""
            told = f"those of {others[0]}{more} differ (another file is loaded, or no seed decides a draw)"
            refuse_unless_accepted(study, "start weights", [told], accept=study.settings.accept_changes)
            study.accept_changes([f"other start weights of {others[0]}{more}"])
        study.keep_starts(bound)
        study.note_starts(bound)
    return bound


def with_format(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return a study's identity, and the format that it is stored in."""
    return {**identity, _FORMAT: FORMAT}


def check_format(name: str, identity: Mapping[str, Any]) -> None:
    """Check that this version of the program can read a study.

    Raises:
        HarnessError: If another version made it.
    """
    found = identity.get(_FORMAT)
    if found != FORMAT:
        raise HarnessError(
            f"study {name!r} was made by another version of kd-harness, which stored it in format {found or 1}, and "
            f"this one reads format {FORMAT}; go on with that version, or use --study to name a new one."
        )


def check_code(study: Study, code: Code, *, accept: bool) -> None:
    """Check that a study goes on with the code that it was begun with, or note what is accepted.

    Args:
        study: The study.
        code: What is there now.
        accept: Whether changes are accepted.

    Raises:
        HarnessError: If the code differs, and is not accepted, or others work with the code that was there before.
    """
    differences = code.differences(study.code)
    if not differences:
        return
    refuse_unless_accepted(study, "code", differences, accept=accept)
    study.accept_changes(differences)
    study.outdate_costs()  # before: whoever is cut between the two finds the code changed, and does both
    study.keep_code(code.to_json())


def refuse_unless_accepted(study: Study, what: str, differences: Sequence[str], *, accept: bool) -> None:
    """Raise an error that says what differs from what a study was begun with, unless that is accepted.

    Raises:
        HarnessError: Then.
    """
    if not accept:
        raise HarnessError(
            f"study {study.settings.study!r} was begun with other {what}: {'; '.join(differences)}. --accept-changes "
            "goes on all the same, and notes it; --study NAME begins a new one."
        )
