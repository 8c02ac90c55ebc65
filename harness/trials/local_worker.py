"""A worker's own process: what it runs, and how it is heard of in the first one (``harness.trials.local``)."""

from __future__ import annotations

import contextlib
import faulthandler
import io
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from harness.core.addresses import redact
from harness.core.errors import HarnessError, Interrupted, interrupt, one_line, resend_dropped_signals
from harness.preparation.prepared import Prepared
from harness.settings import Settings
from harness.space import SearchSpace, load_space
from harness.storage.access import storage_in_reach
from harness.studies.changes import check_code
from harness.studies.opening import find_study
from harness.tracking.autologging import switch_off_autologging
from harness.training.allocator import keep_freed_memory
from harness.trials.context import Display, TrialContext


class _Orphaned(BaseException):
    """The first process is gone. No ``Exception``: it is no fault of the trial's, which the next search resumes."""


class _WorkerProxy:
    """What stands for the mirror and the display in a worker: it tells them, in the first process."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def notify(self, folder: Path) -> None:
        self.say("notify", folder)

    def started(self, number: int, params: dict[str, Any], resumed_after: int | None) -> None:
        self.say("started", number, params, resumed_after)

    def epoch(self, number: int, epoch: int) -> None:
        self.say("epoch", number, epoch)

    def finished(self, number: int, metrics: dict[str, float]) -> None:
        self.say("finished", number, metrics)

    def pruned(self, number: int, reason: str) -> None:
        self.say("pruned", number, reason)

    def failed(self, number: int, reason: str) -> None:
        self.say("failed", number, reason)

    def cut(self, number: int, reason: str) -> None:
        self.say("cut", number, reason)

    def waiting(self, running: int) -> None:
        self.say("waiting", running)

    def word(self, text: str) -> None:
        self.say("word", text)

    def say(self, *message: Any) -> None:
        try:
            self._connection.send(message)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise _Orphaned from error


class _Log(io.TextIOWrapper):
    """A worker's log, tracebacks included: what a library says of an address may hold its password."""

    def write(self, text: str) -> int:
        super().write(redact(text))
        return len(text)


def run_worker(
    work: Callable[[TrialContext, Display], None],
    number: int,
    threads: int,
    settings: Settings,
    connection: Connection,
    inherited: tuple[SearchSpace, Prepared] | None,
) -> None:
    """A worker's process, from its start to its end.

    Args:
        work: What it does.
        number: Its own, of those of this machine.
        threads: That it may compute with.
        settings: How the study is searched.
        connection: To the first process, which hears of all that is done.
        inherited: The space, and what every trial stands on, where this process is a fork; ``None`` where the space is
            loaded and the rest is sent.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C at the terminal reaches the first process, which says stop
    signal.signal(signal.SIGTERM, interrupt)
    resend_dropped_signals()
    # A fork's standard output may be a display's that another thread of the first process held locked.
    log = _Log(
        open(log_of(settings, number), "ab", buffering=0), encoding="utf-8", errors="replace", write_through=True
    )
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    sys.stdout = sys.stderr = log
    faulthandler.enable(log)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    keep_freed_memory()
    voice = _WorkerProxy(connection)
    try:
        if inherited is None:
            space = load_space(settings.space_file, settings.epochs).fixed(settings.fixed)
            prepared: Prepared = connection.recv()  # now that the space's own classes are known here
        else:
            space, prepared = inherited
        switch_off_autologging()
        with storage_in_reach(settings):
            study = find_study(settings, on_outage=voice.word)
            if inherited is None:
                check_code(study, space.code, accept=False)  # its file may have been changed since the search began
            with contextlib.closing(study.leases):
                context = TrialContext(settings=settings, space=space, study=study, prepared=prepared, mirror=voice)
                work(context, voice)
        voice.say("over")
    except HarnessError as error:
        voice.say("error", one_line(error))
    except Interrupted as interrupted:
        sys.exit(128 + interrupted.signal_number)  # told by the first process, or by someone else, and then replaced
    except _Orphaned:
        pass
    finally:
        connection.close()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def log_of(settings: Settings, number: int) -> Path:
    """Return the file that a worker writes its output and its tracebacks to."""
    return settings.study_dir / f"worker-{number}.log"
