"""Send the passwords in addresses to a worker through its environment, and keep them off the shared disk."""

from __future__ import annotations

import os
from dataclasses import replace

from harness.core.addresses import redact
from harness.core.argv import VARIABLES
from harness.core.errors import HarnessError
from harness.settings import Settings

_STORAGE, _TRACKING = VARIABLES["--storage"], VARIABLES["--tracking-uri"]


def hidden(settings: Settings) -> tuple[Settings, dict[str, str]]:
    """Return the settings without passwords, and the environment variables that hold them.

    Anyone who can read the shared disk can read a pickle or a job script; only its owner and the scheduler can read a
    job's environment.

    Args:
        settings: The settings of a worker.
    """
    shown = replace(settings, storage=redact(settings.storage), tracking_uri=redact(settings.tracking_uri))
    environment = {}
    if shown.storage != settings.storage:
        environment[_STORAGE] = settings.storage
    if shown.tracking_uri != settings.tracking_uri:
        environment[_TRACKING] = settings.tracking_uri
    return shown, environment


def revealed(settings: Settings) -> Settings:
    """Return the settings with the passwords that ``hidden`` took out.

    Args:
        settings: From ``hidden``; addresses that have no password stay as they are.

    Raises:
        HarnessError: If the scheduler did not export the environment.
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
