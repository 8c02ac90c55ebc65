"""The mirror's process: sends what the spools hold to MLflow, until it is told to close or the search is gone.

It runs beside the search (see ``harness.tracking.mirror``), so that a trial neither waits for a database nor shares its
interpreter with one, and goes on for a moment when the search is killed, to log what was left.
"""

from __future__ import annotations

import gc
import signal

if __name__ == "__main__":
    gc.disable()  # until all is imported: see Terminal.loading
    # A scheduler's warning reaches every process of a job. This one ends with its search, whose last word it sends;
    # what is imported below takes a second, in which it may come.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)

import json
import logging
import os
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from harness.core.addresses import lock_of, sqlite_path
from harness.core.content import exclusive
from harness.core.errors import one_line
from harness.tracking.inbox import Inbox
from harness.tracking.mlflow_database import check_answers, prepare_database
from harness.tracking.mlflow_sink import MlflowSink

_GATHER_S = 2.0  # events within it go out together: a short trial is one call, not twenty
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0
_HANGS_S = 2.0  # a store that has not answered after it, and fails, is not asked about all else there is to send
_ASKED_FOR_S = 15.0  # how long a store is asked again before whoever waits for a reply is told that it is away


def _tell(**message: Any) -> None:
    try:
        print(json.dumps(message), flush=True)
    except BrokenPipeError:
        pass  # the search is gone; what remains is to send what it left


def _reply_to(request: dict[str, Any], sink: MlflowSink) -> None:
    """Do what the search waits for, or say what is wrong when the store has not answered for some time."""
    folder, file = Path(request["folder"]), Path(request.get("file", ""))

    def do() -> dict[str, Any]:
        match request["request"]:
            case "settle":
                sink.send(folder)
            case "publish":
                sink.publish(folder, file, anew=request["anew"])
            case "fetch":
                return {"found": sink.fetch(folder, file, request["run_key"])}
        return {}

    ends_at = time.monotonic() + _ASKED_FOR_S
    while True:
        try:
            _tell(reply=do())
            return
        except Exception as error:  # of any kind: whoever waits must hear of it
            if time.monotonic() > ends_at:
                _tell(reply={"problem": _why(error)})
                return
        time.sleep(_FIRST_PAUSE_S)


def _send_all(inbox: Inbox, send: Callable[[Path], None]) -> Exception | None:
    """Send what there is to send.

    Returns:
        Why something could not be sent, and is kept, if so.
    """
    problem = None
    for folder in list(inbox.folders):
        began_at = time.monotonic()
        del inbox.folders[folder]
        try:
            send(folder)
        except Exception as error:  # of any kind: the folder is kept, behind the others, which are not held up by it
            problem = error
            inbox.folders[folder] = None
            if time.monotonic() - began_at > _HANGS_S:
                break
    return problem


def _why(error: BaseException) -> str:
    """Return what the system said, where that was the cause: an HTTP client quotes all of its request around it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, (ConnectionError, TimeoutError, socket.gaierror)):
            return one_line(cause)
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return one_line(error)


def main() -> int:
    """Mirror until told to close, or until the search is gone; exit 0 when everything is sent."""
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    first_line = sys.stdin.buffer.raw.readline()  # type: ignore[union-attr]
    if not first_line:
        return 0  # the search ended before it had anything to log
    config = json.loads(first_line)
    try:
        root = Path(config["artifact_root"])
        wait = partial(_tell, word="another process opens the same store; waiting for it")
        with exclusive(lock_of(config["address"], root), on_wait=wait):  # or two first starts would both make tables
            if (path := sqlite_path(config["address"])) is not None:
                prepare_database(path, lambda text: _tell(word=text))
            elif config["address"].startswith(("postgresql", "mysql", "mssql")):
                check_answers(config["address"])
            sink = MlflowSink(config["address"], config["experiment"], root, on_refused=lambda text: _tell(word=text))
    except Exception as error:
        _tell(failed=_why(error))
        return 1
    gc.freeze()
    gc.enable()
    os.nice(19)  # training comes first
    _tell(ready=True, experiment_id=sink.experiment_id, store=sink.store)
    inbox, seen, ending = Inbox(), set(), False

    def send(folder: Path) -> None:
        sink.send(folder)
        if ending:
            sink.cut(folder)
        seen.add(folder)

    pause_s, answered_at = _FIRST_PAUSE_S, 0.0
    while True:
        if not inbox.folders and not inbox.requests:
            if ending:
                return 0
            if inbox.over:
                ending = True
                inbox.folders = dict.fromkeys(seen)  # the last of short epochs are not told, and what runs is cut
            else:
                inbox.listen(None)
                inbox.gather(_GATHER_S)
        inbox.listen(0)
        while inbox.requests:
            _reply_to(inbox.requests.pop(0), sink)
        problem = _send_all(inbox, send)
        inbox.listen(0)  # who hung may have been waited for past the end
        if problem is None:
            if pause_s > _FIRST_PAUSE_S:
                _tell(back=True)
            pause_s, answered_at = _FIRST_PAUSE_S, time.monotonic()
            continue
        _tell(away=_why(problem))
        if inbox.over:
            if time.monotonic() > max(inbox.ended_at, answered_at) + inbox.grace_s:
                return 1
            time.sleep(min(pause_s, 1.0))
        else:
            inbox.gather(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


if __name__ == "__main__":
    sys.exit(main())
