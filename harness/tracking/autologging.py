"""MLflow's autologging, which a space's code may switch on: off, for it would make runs beside those of a study."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable

_off = contextlib.ExitStack()  # its context is open until the process ends
_switched_off: set[str] = set()
_told: set[str] = set()


def switch_off_autologging(say: Callable[[str], None] | None = None) -> None:
    """Switch off MLflow's autologging in this process, if its code has switched it on.

    To be called before each training: a task may do so as late as in ``teacher()``.

    Args:
        say: Called with a line of text where it was on, once.
    """
    if "mlflow" not in sys.modules:  # to import it takes seconds
        return
    from mlflow.utils import autologging_utils

    known = autologging_utils.AUTOLOGGING_INTEGRATIONS
    on = {name for name in known if not autologging_utils.autologging_is_disabled(name)}
    if on and not _switched_off:
        _off.enter_context(autologging_utils.disable_autologging())
    _switched_off.update(on)
    if say is not None and (new := sorted(_switched_off - _told)):
        _told.update(new)
        say(f"mlflow    autologging of {' and '.join(new)} is off: all that is trained here has a run of its own")
