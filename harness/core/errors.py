"""The errors that a person meets."""

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
    """Something that the person at the terminal can mend. Shown as one line, without a traceback, with exit code 2."""


class Unfit(HarnessError):
    """Something in a task that can't be searched: what was found, and what to do about it.

    Attributes:
        found: What was expected and what was found, without a full stop.
        remedy: What to do.
    """

    def __init__(self, found: str, remedy: str) -> None:
        super().__init__(f"{found}; {remedy}.")
        self.found = found
        self.remedy = remedy


class Interrupted(BaseException):
    """Ctrl-C or SIGTERM. No ``KeyboardInterrupt``: Lightning swallows that and exits by itself.

    Attributes:
        signal_number: Which signal it was.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number


OWN_THREADS = "kd-harness-"
"""Begins the names of the threads that this project starts; none of them holds a lock that a fork of it takes."""

_signals: list[int] = []  # that have come


def interrupt(number: int, frame: FrameType | None) -> None:
    """A signal's handler: raises ``Interrupted`` where the program stands."""
    _signals.append(number)
    raise Interrupted(number)


def interrupt_once(number: int, frame: FrameType | None) -> None:
    """As ``interrupt``, but a second signal does not cut short what the first began."""
    _signals.append(number)
    if len(_signals) == 1:
        raise Interrupted(number)


def end_if_told() -> None:
    """Raise what a signal asks for, where a library may have made another error of it, as a driver that cleans up does.

    Raises:
        Interrupted: If a signal has come.
    """
    if _signals:
        raise Interrupted(_signals[0])


def lose_no_signal() -> None:
    """Send a signal to this process again whose ``Interrupted`` came to nothing.

    Python drops what is raised while it forks, or while an object is removed.
    """
    _signals.clear()  # a fork's are its parent's

    def hook(dropped: Any) -> None:
        if not isinstance(dropped.exc_value, Interrupted):
            sys.__unraisablehook__(dropped)
            return
        _signals.clear()
        number = dropped.exc_value.signal_number
        again = threading.Timer(0.05, os.kill, (os.getpid(), number))  # when Python has left it
        again.daemon, again.name = True, f"{OWN_THREADS}signal"
        again.start()

    sys.unraisablehook = hook


@contextlib.contextmanager
def signals_wait() -> Iterator[None]:
    """Let a signal wait that comes meanwhile, and raise what it asks for at the end.

    Python handles signals in the main thread alone; any other thread is not interrupted by them.
    """
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
    """A trial that fails by its own doing; its message is the reason that is recorded."""


class TrialPruned(Exception):
    """A trial that is stopped for want of a chance to reach the front; its message is the reason that is recorded."""


class LeaseLost(Exception):
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


_OUT_OF_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory", re.IGNORECASE)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error is for want of memory; PyTorch says so of some by their words alone."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and bool(_OUT_OF_MEMORY.search(str(error)))  # torch.OutOfMemoryError is one


@contextlib.contextmanager
def if_memory_suffices(otherwise: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Leave undone what memory does not suffice for.

    Args:
        otherwise: Called if it does not.
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
    """Note advice on an error that a wrong value raises, for whoever says the error; empty advice notes nothing."""
    try:
        yield
    except (RuntimeError, ValueError, IndexError, ZeroDivisionError) as error:
        if advice and not isinstance(error, HarnessError):
            error.add_note(f"{_ADVICE}{advice}")
        raise


def advice_of(error: BaseException) -> str:
    """Return the advice that was noted on an error; empty if none was."""
    notes = [note for note in getattr(error, "__notes__", ()) if note.startswith(_ADVICE)]
    return notes[0].removeprefix(_ADVICE) if notes else ""


def did_you_mean(name: object, known: Iterable[str], *, otherwise: str = "") -> str:
    """Return ``"; did you mean alpha?"`` for a name that is like one of those known; else ``otherwise``."""
    asked, near = str(name).lower(), {each.lower(): each for each in known}
    begun = [each for each in near if asked and (each.startswith(asked) or asked.startswith(each))]
    found = begun or difflib.get_close_matches(asked, near, n=1, cutoff=0.7)
    return f"; did you mean {near[found[0]]}?" if found else otherwise


def one_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type's name, without passwords."""
    lines = redact(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
