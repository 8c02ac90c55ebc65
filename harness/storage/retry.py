"""Retries of storage calls while a database server is away, with exponential backoff and a deadline."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, PendingRollbackError

from harness.core.errors import OWN_THREADS, one_line, raise_if_interrupted
from harness.core.notifier import RateLimitedNotifier

_Result = TypeVar("_Result")
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 10.0
_PERMANENT = re.compile(
    "authentication failed|does not exist|no password supplied|no pg_hba.conf entry|permission denied|not permitted"
    "|could not translate host name|failed to resolve host|Name or service not known"
    "|Access denied|command denied|Unknown database|Unknown column|max_allowed_packet"
)
_CALL_TIMEOUT_S, _DEADLINE_S = 3.0, 8.0  # for a call, and for all together, once the process was told to stop
_GIVE_UP_AFTER_S = 1800.0  # a server that is being upgraded is back by then


class RetryPolicy:
    """Retries storage calls with exponential backoff while a server is away.

    Args:
        say: Called with a line of text.
        of_server: Whether the storage is a server. An error of a file on this machine's disk does not pass: it is
            raised at once.
    """

    def __init__(self, say: Callable[[str], None] = lambda text: None, *, of_server: bool = True) -> None:
        self._of_server = of_server
        self.notifier = RateLimitedNotifier(say)
        self._in_call = False
        self._deadline_s: float | None = None

    def set_deadline(self) -> None:
        """Bound all further calls together, and retry none: the process was told to stop."""
        self._deadline_s = self._deadline_s or time.monotonic() + _DEADLINE_S

    def is_away(self, error: BaseException) -> bool:
        """Return whether an error says that the storage is away, and tell the person if so."""
        away = self._is_outage(error)
        if away:
            self.notifier(f"the study's storage is away ({driver_message(error)}); training goes on")
        return away

    def try_once(self, call: Callable[[], _Result]) -> _Result:
        """Return the result of a call; it is not retried, nor are the calls within it."""
        if self._in_call:
            return call()
        self._in_call = True
        try:
            return self._attempt(call)
        finally:
            self._in_call = False

    def call(self, call: Callable[[], _Result]) -> _Result:
        """Return the result of a call, retried as a whole where the storage is away in it or in a call within it.

        Raises:
            StorageInternalError, SQLAlchemyError: If the storage stays away for half an hour, or fails otherwise.
        """
        if self._in_call:
            return call()  # the outer call retries as a whole
        failing_since_s, pause_s = None, _FIRST_PAUSE_S
        while True:
            try:
                result = self.try_once(call)
            except Exception as error:
                failing_since_s = failing_since_s or time.monotonic()
                over = self._deadline_s is not None or time.monotonic() - failing_since_s > _GIVE_UP_AFTER_S
                if over or not self._is_outage(error):
                    raise
                reason = driver_message(error)
                self.notifier(f"the study's storage is away ({reason}); it is asked again until it is back")
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            else:
                if failing_since_s is not None:
                    self.notifier.end("the study's storage answers again")
                return result

    def _is_outage(self, error: BaseException) -> bool:
        return self._of_server and server_is_away(error)

    def _attempt(self, call: Callable[[], _Result]) -> _Result:
        """Return the result of a call; of a server, and after ``set_deadline``, with a timeout.

        Raises:
            StorageInternalError: If the call takes longer.
        """
        if self._deadline_s is None:
            try:
                return call()
            except Exception:
                raise_if_interrupted()
                raise
        if not self._of_server:
            return call()
        left_s = max(0.0, self._deadline_s - time.monotonic())
        future = run_with_timeout(call, timeout_s=min(_CALL_TIMEOUT_S, left_s))
        if not future.done():
            self._deadline_s = time.monotonic()  # it is not waited for again
            raise StorageInternalError("it does not answer in time")
        return future.result()


def run_with_timeout(call: Callable[[], _Result], *, timeout_s: float) -> Future[_Result]:
    """Run a call that may never return in a thread of its own, where it goes on after the timeout.

    Returns:
        Its future, which is done unless the call takes longer.
    """
    future: Future[_Result] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except Exception as error:
            future.set_exception(error)

    thread = threading.Thread(target=run, name=f"{OWN_THREADS}storage", daemon=True)
    thread.start()
    thread.join(timeout_s)
    return future


def server_is_away(error: BaseException) -> bool:
    """Return whether an error of a database server's driver says that it can't be reached, or ended the connection."""
    found = _driver_error(error)
    if not isinstance(found, DBAPIError):
        return False
    gone = isinstance(found, (OperationalError, InterfaceError)) or found.connection_invalidated
    return gone and not _PERMANENT.search(str(found.orig))


def driver_message(error: BaseException) -> str:
    """Return the message of a database driver, in one line without passwords."""
    found: Any = _driver_error(error)
    return one_line(getattr(found, "orig", None) or found)


def _driver_error(error: BaseException) -> BaseException:
    """Return the first cause: Optuna wraps what the driver raises, and so does SQLAlchemy at the next statement."""
    while not isinstance(error, DBAPIError):
        cause = error.__context__ if isinstance(error, PendingRollbackError) else error.__cause__
        if cause is None:
            break
        error = cause
    return error
