"""Switches off MLflow's autologging, which a space's code may switch on: it would create runs beside the study's."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable

_off = contextlib.ExitStack()  # its context is open until autologging is restored, or the process ends
_switched_off: set[str] = set()
_reported: set[str] = set()


def switch_off_autologging(say: Callable[[str], None] | None = None) -> None:
    """Switch off MLflow's autologging in this process, if a space's code has switched it on.

    Call it before each training: a task may switch autologging on as late as in ``teacher()``.

    Args:
        say: Called with a line of text, once, if autologging was on.
    """
    if "mlflow" not in sys.modules:  # an import takes seconds
        return
    from mlflow.utils import autologging_utils

    known = autologging_utils.AUTOLOGGING_INTEGRATIONS
    on = {name for name in known if not autologging_utils.autologging_is_disabled(name)}
    if on and not _switched_off:
        _off.enter_context(autologging_utils.disable_autologging())
    _switched_off.update(on)
    if say is not None and (new := sorted(_switched_off - _reported)):
        _reported.update(new)
        say(f"mlflow    autologging of {' and '.join(new)} is off: each training here has a run of its own")


def restore_autologging() -> None:
    """Switch on again what ``switch_off_autologging`` switched off."""
    _off.close()
    _switched_off.clear()
    _reported.clear()
