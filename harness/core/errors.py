"""Errors that a person meets, signals as exceptions, and helpers for messages."""

from __future__ import annotations

import contextlib
import difflib
import errno
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any

from harness.core.addresses import redact


class HarnessError(ValueError):
    """An error that the person at the terminal can fix: shown as one line, without a traceback, with exit code 2."""


class Unfit(HarnessError):
    """A fault of a task, because of which it can't be searched.

    Attributes:
        found: What was expected and what was found, without a full stop.
        remedy: What to do.
    """

    def __init__(self, found: str, remedy: str) -> None:
        super().__init__(f"{found}; {remedy}.")
        self.found = found
        self.remedy = remedy


class Interrupted(BaseException):
    """Ctrl-C or SIGTERM; not a ``KeyboardInterrupt``, which Lightning swallows to exit by itself.

    Attributes:
        signal_number: Which signal it was.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number


OWN_THREADS = "kd-harness-"
"""Prefix of the names of this project's threads; none of them holds a lock that a fork would wait for."""

_signals: list[int] = []  # received so far


def interrupt(number: int, frame: FrameType | None) -> None:
    """Raise ``Interrupted`` where the program stands; a signal handler."""
    _signals.append(number)
    raise Interrupted(number)


def interrupt_once(number: int, frame: FrameType | None) -> None:
    """Raise ``Interrupted`` for the first signal only: a second one does not cut short what the first began."""
    _signals.append(number)
    if len(_signals) == 1:
        raise Interrupted(number)


def raise_if_interrupted() -> None:
    """Raise ``Interrupted`` again where a library may have replaced it, as a driver does whose clean-up fails.

    Raises:
        Interrupted: If a signal was received.
    """
    if _signals:
        raise Interrupted(_signals[0])


def forget_signals() -> None:
    """Forget the signals that have come: the process goes on, as a notebook does after Ctrl-C."""
    _signals.clear()


def resend_dropped_signals() -> None:
    """Send this process a signal again if Python drops its ``Interrupted``, raised in a fork or in a finalizer."""
    _signals.clear()  # a fork has those of its parent

    def hook(dropped: Any) -> None:
        if not isinstance(dropped.exc_value, Interrupted):
            sys.__unraisablehook__(dropped)
            return
        _signals.clear()
        number = dropped.exc_value.signal_number
        again = threading.Timer(0.05, os.kill, (os.getpid(), number))  # when Python is out of there
        again.daemon, again.name = True, f"{OWN_THREADS}signal"
        again.start()

    sys.unraisablehook = hook


@contextlib.contextmanager
def defer_signals() -> Iterator[None]:
    """Defer signals until the block ends. Python handles signals in the main thread alone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    handlers = {
        number: signal.signal(number, lambda number, frame: came.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if came:
            os.kill(os.getpid(), came[0])


class TrialFailed(Exception):
    """A trial failed by its own fault; the message is the reason that is recorded."""


class TrialPruned(Exception):
    """A trial was stopped because it can't reach the front; the message is the reason that is recorded."""


class LeaseLost(Exception):
    """Another worker has taken over a lease, because its holder seemed dead; the holder must write nothing more."""


NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Numbers of an ``OSError`` that says: the disk, the user's quota or the largest file is full."""


@contextlib.contextmanager
def room_on_disk() -> Iterator[None]:
    """Run a block that writes files, and report a full disk in one line.

    Raises:
        HarnessError: If there is no room for the files.
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


_OUT_OF_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory", re.IGNORECASE)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory is exhausted; some of PyTorch's say so in their message only."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and bool(_OUT_OF_MEMORY.search(str(error)))  # torch.OutOfMemoryError is one


@contextlib.contextmanager
def if_memory_suffices(otherwise: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Run a block, and skip the rest of it where memory does not suffice.

    Args:
        otherwise: Called then.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        otherwise()


_ADVICE = "advice: "


@contextlib.contextmanager
def advising(advice: str) -> Iterator[None]:
    """Attach advice to an error that a wrong value raises, to be shown with it; empty advice attaches nothing."""
    try:
        yield
    except (RuntimeError, ValueError, IndexError, ZeroDivisionError) as error:
        if advice and not isinstance(error, HarnessError):
            error.add_note(f"{_ADVICE}{advice}")
        raise


def advice_of(error: BaseException) -> str:
    """Return the advice attached to an error; empty if there is none."""
    notes = [note for note in getattr(error, "__notes__", ()) if note.startswith(_ADVICE)]
    return notes[0].removeprefix(_ADVICE) if notes else ""


def did_you_mean(name: object, known: Iterable[str], *, otherwise: str = "") -> str:
    """Return ``"; did you mean alpha?"`` for a name that is similar to a known one; else ``otherwise``."""
    asked, near = str(name).lower(), {each.lower(): each for each in known}
    prefixed = [each for each in near if asked and (each.startswith(asked) or asked.startswith(each))]
    found = prefixed or difflib.get_close_matches(asked, near, n=1, cutoff=0.7)
    return f"; did you mean {near[found[0]]}?" if found else otherwise


def one_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type's name, without passwords."""
    lines = redact(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
