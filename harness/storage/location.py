"""Where a study is: which machine's folder it was begun in, and whether it was moved to another storage."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.trial import TrialState

from harness.core.addresses import redact
from harness.core.errors import HarnessError
from harness.settings import StudyPlaces

HERE_ATTR = "kd.first_start"
"""Where it was begun."""
MOVED_ATTR, MOVING_ATTR = "kd.moved", "kd.moving"
"""Where a study went that was moved; and of a copy that is not whole yet, the id of the study that it is of."""


def see_that_it_is_here(attrs: Mapping[str, Any], settings: StudyPlaces) -> None:
    """Check that a study was not moved to another storage; see ``harness.studies.move``.

    Args:
        attrs: What it says of itself.
        settings: Name it, and its storage.

    Raises:
        HarnessError: If it was, or if it is the beginning of a copy.
    """
    if (place := attrs.get(MOVED_ATTR)) is not None:
        raise HarnessError(f"study {settings.study!r} was moved to {place}; go on there, with --storage.")
    if attrs.get(MOVING_ATTR) is not None:
        raise HarnessError(
            f"study {settings.study!r} in {redact(settings.storage)} must be whole, but its move to there is under way "
            "or was cut; the same move again ends it."
        )


def was_moved_here(attrs: Mapping[str, Any]) -> bool:
    """Whether a study came from another storage: when its copy is whole, the mark of a copy is emptied, and stays."""
    return MOVING_ATTR in attrs


def here(settings: StudyPlaces) -> str:
    """This machine's folder of the study: leases tell only there who is at work."""
    return f"{socket.gethostname()}:{settings.study_dir.resolve()}"


def is_first_start(study: optuna.Study, settings: StudyPlaces) -> bool:
    """Return whether a study has begun no trial yet, and was made in this very folder."""
    begun = any(trial.state != TrialState.WAITING for trial in study.get_trials(deepcopy=False))
    return not begun and study.user_attrs.get(HERE_ATTR) == here(settings)
