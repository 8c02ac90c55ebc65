"""Where a study is: the machine and folder that it was created in, and whether it was moved to another storage."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.trial import TrialState

from harness.core.addresses import redact
from harness.core.errors import HarnessError
from harness.settings import StudyPlaces

ORIGIN_ATTR = "kd.first_start"
"""Machine and folder that a study was created in."""
MOVED_ATTR, MOVING_ATTR = "kd.moved", "kd.moving"
"""The storage that a study was moved to; and of a copy that is not whole yet, the id of its source."""


def check_not_moved(attrs: Mapping[str, Any], settings: StudyPlaces) -> None:
    """Check, by its user attributes, that a study was not moved to another storage; see ``harness.studies.move``.

    Raises:
        HarnessError: If the study was moved, or is an unfinished copy.
    """
    if (place := attrs.get(MOVED_ATTR)) is not None:
        raise HarnessError(f"study {settings.study!r} was moved to {place}; go on there, with --storage.")
    if attrs.get(MOVING_ATTR) is not None:
        raise HarnessError(
            f"study {settings.study!r} in {redact(settings.storage)} must be complete, but its move there is in "
            "progress or was cut; run the same move again to finish it."
        )


def was_moved_here(attrs: Mapping[str, Any]) -> bool:
    """Return whether a study came from another storage: the mark of a copy is emptied when it is whole, and stays."""
    return MOVING_ATTR in attrs


def origin(settings: StudyPlaces) -> str:
    """Return this machine's name and the study's folder here: only there do locked files tell who is at work."""
    return f"{socket.gethostname()}:{settings.study_dir.resolve()}"


def is_first_start(study: optuna.Study, settings: StudyPlaces) -> bool:
    """Return whether a study has begun no trial yet, and was created in this very folder."""
    begun = any(trial.state != TrialState.WAITING for trial in study.get_trials(deepcopy=False))
    return not begun and study.user_attrs.get(ORIGIN_ATTR) == origin(settings)
