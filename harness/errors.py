"""The errors that a person meets."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from harness.addresses import redact


class HarnessError(ValueError):
    """Something that the person at the terminal can mend. Shown as one line, without a traceback, with exit code 2."""


class Interrupted(BaseException):
    """Ctrl-C or SIGTERM. No ``KeyboardInterrupt``: Lightning swallows that and exits by itself.

    Attributes:
        signal_number: Which signal it was.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number


def interrupt(number: int, frame: FrameType | None) -> None:
    """A signal's handler: raises ``Interrupted`` where the program stands."""
    raise Interrupted(number)


def lose_no_signal(on_lost: Callable[[], None] = lambda: None) -> None:
    """Send a signal to this process again whose ``Interrupted`` came to nothing.

    Python drops what is raised while it forks, or while an object is removed.

    Args:
        on_lost: Called before it is sent again.
    """

    def hook(dropped: Any) -> None:
        if not isinstance(dropped.exc_value, Interrupted):
            sys.__unraisablehook__(dropped)
            return
        on_lost()
        again = threading.Timer(
            0.05, os.kill, (os.getpid(), dropped.exc_value.signal_number)
        )  # when Python has left it
        again.daemon = True
        again.start()

    sys.unraisablehook = hook


class TrialFailed(Exception):
    """A trial that fails by its own doing; its message is the reason that is recorded."""


class TrialPruned(Exception):
    """A trial that is stopped because it can't reach the front any more; its message is the reason that is recorded."""


class PieceTaken(Exception):
    """What a worker had is another one's now, which took it for dead; it must write nothing more of it."""


NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Of an ``OSError``: the disk is full, or what the user may have of it, or of one file."""


@contextlib.contextmanager
def room_on_disk() -> Iterator[None]:
    """Work on what is kept in files.

    Raises:
        HarnessError: If there is no room for them.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise HarnessError(
            f"the disk must have room for what is kept, but is full: {one_line(error)}; make some, and the same "
            "command goes on."
        ) from error


def one_line(error: BaseException) -> str:
    """The first line of an error's message, or its type's name, without passwords."""
    lines = redact(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
