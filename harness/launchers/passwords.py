"""Passwords in addresses, on their way to a worker: through its environment, past what lies on a shared disk."""

from __future__ import annotations

import os
from dataclasses import replace

from harness.core.addresses import redact
from harness.core.argv import VARIABLES
from harness.core.errors import HarnessError
from harness.settings import Settings

_STORAGE, _TRACKING = VARIABLES["--storage"], VARIABLES["--tracking-uri"]


def hidden(settings: Settings) -> tuple[Settings, dict[str, str]]:
    """Return the settings without passwords, and the environment that gives them back.

    What is pickled or written into a script can be read by whoever reads the shared disk; a job's environment, by its
    owner and the scheduler alone.

    Args:
        settings: What a worker does.
    """
    shown = replace(settings, storage=redact(settings.storage), tracking_uri=redact(settings.tracking_uri))
    environment = {}
    if shown.storage != settings.storage:
        environment[_STORAGE] = settings.storage
    if shown.tracking_uri != settings.tracking_uri:
        environment[_TRACKING] = settings.tracking_uri
    return shown, environment


def revealed(settings: Settings) -> Settings:
    """Return the settings with the passwords that were hidden.

    Args:
        settings: As ``hidden`` gives them; others, whose addresses are whole, stay as they are.

    Raises:
        HarnessError: If the environment did not come along.
    """
    return replace(
        settings,
        storage=_revealed(settings.storage, _STORAGE),
        tracking_uri=_revealed(settings.tracking_uri, _TRACKING),
    )


def _revealed(shown: str, variable: str) -> str:
    if "***" not in shown:
        return shown
    address = os.environ.get(variable, "")
    if redact(address) != shown:
        raise HarnessError(
            f"a worker must find the password of {shown} in ${variable}, but got {redact(address)!r}; the scheduler "
            "must export the environment to its jobs."
        )
    return address
