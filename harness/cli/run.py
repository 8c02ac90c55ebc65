"""How a command runs and ends: one line for a mistake, 130 or 143 after a signal. Imports nothing heavy."""

from __future__ import annotations

import io
import os
import signal
import sys
import traceback
from collections.abc import Callable

from harness.core.addresses import redact
from harness.core.argv import hide_passwords
from harness.core.errors import HarnessError, Interrupted, interrupt, one_line, resend_dropped_signals, room_on_disk


def run(main: Callable[[], None]) -> None:
    """Run a command to its end, and exit with code 2 for a mistake, 130 or 143 after a signal, 1 for a bug."""
    hide_passwords()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # what its encoding lacks is shown as "?"
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    resend_dropped_signals()
    try:
        _check_working_folder()
        with room_on_disk():
            main()
    except HarnessError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(2)
    except Interrupted as interrupted:
        sys.exit(128 + interrupted.signal_number)
    except Exception:  # a bug; what a library says of an address may hold its password
        print(redact(traceback.format_exc()), end="", file=sys.stderr)
        sys.exit(1)


def _check_working_folder() -> None:
    """Raise ``HarnessError`` if the working folder was deleted; libraries fail there in ways of their own."""
    try:
        os.getcwd()
    except FileNotFoundError:
        raise HarnessError("the folder that you are in must exist, but was deleted; cd to one that does.") from None
