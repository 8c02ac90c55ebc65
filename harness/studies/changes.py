"""Checks that a study is resumed with its format, code and start weights, or with changes that are accepted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.core.errors import HarnessError
from harness.core.sources import Code
from harness.studies.start import Start
from harness.studies.study import Study

FORMAT = 4
"""Version of the way in which studies are stored, increased when other versions of this program would misread it."""


def known_starts(study: Study, starts: Mapping[str, Start]) -> dict[str, Start]:
    """Return start weights by name: those that the study is pinned to, where they match the given ones."""
    known = study.starts()
    return {
        name: known[name] if name in known and known[name].is_like(start) else start for name, start in starts.items()
    }


def pin_starts(study: Study, starts: Mapping[str, Start]) -> dict[str, Start]:
    """Pin a study to its networks' start weights, or check that it is pinned to the same, or note accepted changes.

    Args:
        study: The study, whose lock is held.
        starts: Start weights by the networks' names.

    Returns:
        What the study is pinned to.

    Raises:
        HarnessError: If a network has other start weights, and that is not accepted.
    """
    with study.exclusive("bind"):
        known, pinned = study.starts(), known_starts(study, starts)
        others = [name for name, start in pinned.items() if name in known and known[name] != start]
        if others and not study.is_unused():
            more = f" and of {len(others) - 1} more" if len(others) > 1 else ""
            told = f"those of {others[0]}{more} differ (another file is loaded, or no seed decides a draw)"
            refuse_unless_accepted(study, "start weights", [told], accept=study.settings.accept_changes)
            study.accept_changes([f"other start weights of {others[0]}{more}"])
        study.store_starts(pinned)
        study.note_starts(pinned)
    return pinned


def check_format(name: str, identity: Mapping[str, Any]) -> None:
    """Check that this version of the program can read a study.

    Raises:
        HarnessError: If another version made it.
    """
    found = identity.get("format")
    if found != FORMAT:
        raise HarnessError(
            f"study {name!r} was made by another version of kd-harness, which stored it in format {found or 1}, and "
            f"this one reads format {FORMAT}; go on with that version, or use --study to name a new one."
        )


def check_code(study: Study, code: Code, *, accept: bool) -> None:
    """Check that a study is resumed with the code that it was begun with, or note accepted changes.

    Raises:
        HarnessError: If the code differs and that is not accepted, or others work with the code as it was before.
    """
    differences = code.differences(study.code)
    if not differences:
        return
    refuse_unless_accepted(study, "code", differences, accept=accept)
    study.accept_changes(differences)
    study.outdate_costs()  # first: a start that is cut between the two finds the code changed, and repeats both
    study.code = code.to_json()


def refuse_unless_accepted(study: Study, what: str, differences: Sequence[str], *, accept: bool) -> None:
    """Report differences from what a study was begun with, unless they are accepted.

    Raises:
        HarnessError: If they are not.
    """
    if not accept:
        raise HarnessError(
            f"study {study.settings.study!r} was begun with other {what}: {'; '.join(differences)}; use "
            "--accept-changes to go on and note it, or --study to name a new one."
        )
