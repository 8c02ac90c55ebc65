"""The mirror's process: sends spools to the tracker until it is told to close, or the search is gone.

It runs beside the search (see ``harness.tracking.mirror``), so that a trial neither waits for a database nor shares its
interpreter with one. When the search is killed, it runs on for a moment and sends the rest.
"""

from __future__ import annotations

import gc
import signal

if __name__ == "__main__":
    gc.disable()  # until all is imported: see Terminal.loading
    # A scheduler's warning reaches every process of a job. This one ends with its search, whose last events it sends;
    # the imports below take a second, within which the warning may come.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)

import json
import os
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from harness.core.addresses import lock_of
from harness.core.content import exclusive, is_worked_on
from harness.core.errors import HarnessError, one_line
from harness.tracking.base import MIRROR_LOCK, RunStore, find_tracker, tracker_named
from harness.tracking.inbox import Inbox

_GATHER_S = 2.0  # events within it go out together: a short trial is one call, not twenty
_FIRST_BACKOFF_S, _LONGEST_BACKOFF_S = 1.0, 30.0
_LONGEST_BACKOFF_AT_THE_END_S = 1.0
_HANGS_S = 2.0  # a store that fails after it has not answered for so long is not asked about the other folders
_RETRY_REQUEST_S = 15.0  # how long a request is retried before the search is told that the store is away


def _tell(**message: Any) -> None:
    """Send a message to the search, if it still runs."""
    try:
        print(json.dumps(message), flush=True)
    except BrokenPipeError:
        pass


def _reply_to(request: dict[str, Any], store: RunStore) -> None:
    """Answer a request of the search; retry for a while, then reply with the problem."""
    folder, file = Path(request["folder"]), Path(request.get("file", ""))

    def attempt() -> dict[str, Any]:
        match request["request"]:
            case "settle":
                store.send(folder)
            case "publish":
                store.publish(folder, file, anew=request["anew"])
            case "fetch":
                return {"found": store.fetch(folder, file, request["run_key"])}
        return {}

    ends_at = time.monotonic() + _RETRY_REQUEST_S
    while True:
        try:
            _tell(reply=attempt())
            return
        except Exception as error:  # of any type: the search waits for a reply
            if time.monotonic() > ends_at:
                _tell(reply={"problem": _cause(error)})
                return
        time.sleep(_FIRST_BACKOFF_S)


def _send_all(inbox: Inbox, send: Callable[[Path], None]) -> Exception | None:
    """Send all folders with new events; keep those that fail.

    Returns:
        The last error, if a folder failed.
    """
    problem = None
    for folder in list(inbox.folders):
        began_at = time.monotonic()
        del inbox.folders[folder]
        try:
            send(folder)
        except Exception as error:  # of any type: the folder goes behind the others, which need not wait for it
            problem = error
            inbox.folders[folder] = None
            if time.monotonic() - began_at > _HANGS_S:
                break
    return problem


def _mark_if_interrupted(folder: Path, store: RunStore) -> None:
    """Mark a run that a process left in the middle, unless another process goes on with it.

    The lock keeps out another mirror: it will send that the run goes on after it is marked here, or has sent it before
    the folder is looked at.
    """
    with exclusive(folder / MIRROR_LOCK):
        if not is_worked_on(folder):
            store.mark_interrupted(folder)


def _cause(error: BaseException) -> str:
    """Return what the system said, if that was the cause: an HTTP client quotes all of its request around it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, (ConnectionError, TimeoutError, socket.gaierror)):
            return one_line(cause)
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return one_line(error)


def _open_store(config: dict[str, str]) -> RunStore:
    """Open the store, one process at a time: two first starts would both create its tables."""
    root = Path(config["artifact_root"])
    wait = partial(_tell, notice="another process opens the same store; waiting for it")
    with exclusive(lock_of(config["address"], root), on_wait=wait):
        tracker = find_tracker(config["address"])
        return tracker.open(config["experiment"], root, say=lambda text: _tell(notice=text))


def main(tracker_name: str) -> int:
    """Mirror until told to close, or until the search is gone.

    Args:
        tracker_name: The tracker of the address that will come (``Tracker.name``).

    Returns:
        The exit code: 0 if everything was sent.
    """
    tracker_named(tracker_name).preload()
    first_line = sys.stdin.buffer.raw.readline()  # type: ignore[union-attr]
    if not first_line:
        return 0  # the search ended before it had anything to log
    try:
        store = _open_store(json.loads(first_line))
    except HarnessError as error:
        _tell(refused=str(error))
        return 1
    except Exception as error:
        _tell(failed=_cause(error))
        return 1
    gc.freeze()
    gc.enable()
    os.nice(19)  # training comes first
    _tell(ready=True, experiment_id=store.experiment_id, store=store.identity)
    return _mirror(Inbox(), store)


def _mirror(inbox: Inbox, store: RunStore) -> int:
    """Send new events as they come, with exponential backoff while the store is away; return the exit code."""
    sent, ending = set[Path](), False

    def send(folder: Path) -> None:
        store.send(folder)
        if ending:
            _mark_if_interrupted(folder, store)
        sent.add(folder)

    backoff_s, answered_at = _FIRST_BACKOFF_S, 0.0
    while True:
        if not inbox.folders and not inbox.requests:
            if ending:
                return 0
            if inbox.over:
                ending = True
                inbox.folders = dict.fromkeys(sent)  # for the last short epochs, which came without a notice
            else:
                inbox.receive(None)
                inbox.receive_during(_GATHER_S)
        inbox.receive(0)
        while inbox.requests:
            _reply_to(inbox.requests.pop(0), store)
        problem = _send_all(inbox, send)
        inbox.receive(0)  # a store that hung may have kept this process past the end
        if problem is None:
            if backoff_s > _FIRST_BACKOFF_S:
                _tell(back=True)
            backoff_s, answered_at = _FIRST_BACKOFF_S, time.monotonic()
            continue
        _tell(away=_cause(problem))
        if inbox.over:
            if time.monotonic() > max(inbox.last_message_at, answered_at) + inbox.grace_s:
                return 1
            time.sleep(min(backoff_s, _LONGEST_BACKOFF_AT_THE_END_S))
        else:
            inbox.receive_during(backoff_s)
        backoff_s = min(2 * backoff_s, _LONGEST_BACKOFF_S)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
