"""Riding out a database that is away: asked again after growing pauses, a word each minute, and an end to it."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, PendingRollbackError

from harness.core.errors import OWN_THREADS, end_if_told, one_line
from harness.core.notifier import RateLimitedNotifier

_Result = TypeVar("_Result")
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 10.0
_FOR_GOOD = re.compile(
    "authentication failed|does not exist|no password supplied|no pg_hba.conf entry|permission denied|not permitted"
    "|could not translate host name|failed to resolve host|Name or service not known"
    "|Access denied|command denied|Unknown database|Unknown column|max_allowed_packet"
)
_HURRIED_S, _HURRIED_IN_ALL_S = 3.0, 8.0  # for an answer, and for all, once the process was told to stop
_PATIENCE_S = 1800.0  # a server that is being upgraded is back by then


class RetryPolicy:
    """Asks a storage again while it is away.

    Only a server's absence passes: what ails a file on this machine's disk does not mend itself.

    Args:
        away: Whether an error says that the storage is away.
        say: Called with a line of text.
    """

    def __init__(self, away: Callable[[BaseException], bool], say: Callable[[str], None] = lambda text: None) -> None:
        self._away = away
        self.word = RateLimitedNotifier(say)
        self._asking = False
        self._ends_s: float | None = None

    def set_deadline(self) -> None:
        """Wait no more from now on: the process was told to stop."""
        self._ends_s = self._ends_s or time.monotonic() + _HURRIED_IN_ALL_S

    def _call(self, call: Callable[[], _Result]) -> _Result:
        """Return what ``call`` gives; in a set_deadline, from a server that answers in time.

        Raises:
            StorageInternalError: If it does not.
        """
        if self._ends_s is None or self._away is never:
            return call()
        found = within(min(_HURRIED_S, max(0.0, self._ends_s - time.monotonic())), call)
        if found is None:
            self._ends_s = time.monotonic()  # it is not waited for again
            raise StorageInternalError("it does not answer in time")
        return found()

    def is_away(self, error: BaseException) -> bool:
        """Return whether an error says that the storage is away; said to the person, if so."""
        away = self._away(error)
        if away:
            self.word(f"the study's storage is away ({reason(error)}); training goes on")
        return away

    def try_once(self, call: Callable[[], _Result]) -> _Result:
        """Return what ``call`` gives, at once or never."""
        before, self._asking = self._asking, True
        try:
            return call() if before else self._call(call)
        except Exception:
            if self._ends_s is None:
                end_if_told()
            raise
        finally:
            self._asking = before

    def call(self, call: Callable[[], _Result]) -> _Result:
        """Return what ``call`` gives; asked as a whole again if the storage is away, within it or within what it calls.

        Raises:
            StorageInternalError, SQLAlchemyError: If the storage stays away for half an hour, or fails otherwise.
        """
        if self._asking:
            return call()  # whoever asks for the whole begins the whole again
        failing_since_s, pause_s = None, _FIRST_PAUSE_S
        self._asking = True
        try:
            while True:
                try:
                    result = self._call(call)
                except Exception as error:
                    if self._ends_s is None:
                        end_if_told()
                    failing_since_s = failing_since_s or time.monotonic()
                    over = self._ends_s is not None or time.monotonic() - failing_since_s > _PATIENCE_S
                    if over or not self._away(error):
                        raise
                    self.word(f"the study's storage is away ({reason(error)}); it is asked again until it is back")
                    time.sleep(pause_s)
                    pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                else:
                    if failing_since_s is not None:
                        self.word.end("the study's storage answers again")
                    return result
        finally:
            self._asking = False


def within(timeout_s: float, call: Callable[[], _Result]) -> Callable[[], _Result] | None:
    """Call what may never return.

    Args:
        timeout_s: How long it may take.
        call: It goes on by itself where it takes longer.

    Returns:
        What gives its result or raises its error; ``None`` if it has not returned in time.
    """
    ends: list[Callable[[], _Result]] = []

    def run() -> None:
        try:
            result = call()
        except Exception as error:
            failure = error  # the name of an exception ends with its clause

            def fail() -> _Result:
                raise failure

            ends.append(fail)
        else:
            ends.append(lambda: result)

    thread = threading.Thread(target=run, name=f"{OWN_THREADS}storage", daemon=True)
    thread.start()
    thread.join(timeout_s)
    return ends[0] if ends else None


def server_is_away(error: BaseException) -> bool:
    """Return whether an error of a database server's driver says that it can't be reached, or ended the connection."""
    found = _of_the_driver(error)
    if not isinstance(found, DBAPIError):
        return False
    gone = isinstance(found, (OperationalError, InterfaceError)) or found.connection_invalidated
    return gone and not _FOR_GOOD.search(str(found.orig))


def never(error: BaseException) -> bool:
    """Return whether waiting helps where nothing is a server's."""
    return False


def reason(error: BaseException) -> str:
    """Return what a driver says, in one line without passwords."""
    found: Any = _of_the_driver(error)
    return one_line(getattr(found, "orig", None) or found)


def _of_the_driver(error: BaseException) -> BaseException:
    """Return the first cause: Optuna wraps what the driver raises, and so does SQLAlchemy at the next statement."""
    while not isinstance(error, DBAPIError):
        cause = error.__context__ if isinstance(error, PendingRollbackError) else error.__cause__
        if cause is None:
            break
        error = cause
    return error
