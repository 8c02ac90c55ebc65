"""Run a worker in a process of its own, and report to the pool in the parent (``harness.trials.worker_pool``)."""

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
from harness.training.allocator import raise_malloc_thresholds
from harness.trials.context import Display, TrialContext


class _Orphaned(BaseException):
    """Raised when the parent process is gone. No ``Exception``: the trial did not fail, the next search resumes it."""


class _WorkerProxy:
    """Proxy of the parent's mirror and display: it forwards each call through the worker's pipe."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def notify(self, folder: Path) -> None:
        self.send("notify", folder)

    def started(self, number: int, params: dict[str, Any], resumed_after: int | None) -> None:
        self.send("started", number, params, resumed_after)

    def epoch(self, number: int, epoch: int) -> None:
        self.send("epoch", number, epoch)

    def finished(self, number: int, metrics: dict[str, float]) -> None:
        self.send("finished", number, metrics)

    def pruned(self, number: int, reason: str) -> None:
        self.send("pruned", number, reason)

    def failed(self, number: int, reason: str) -> None:
        self.send("failed", number, reason)

    def interrupted(self, number: int, reason: str) -> None:
        self.send("interrupted", number, reason)

    def waiting(self, running: int) -> None:
        self.send("waiting", running)

    def message(self, text: str) -> None:
        self.send("message", text)

    def send(self, *message: Any) -> None:
        try:
            self._connection.send(message)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise _Orphaned from error


class _Log(io.TextIOWrapper):
    """Log of a worker's output. It redacts passwords: a library's traceback may show an address that holds one."""

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
    """Run a worker's process from start to exit.

    Args:
        work: The work itself.
        number: Index of the worker in its pool.
        threads: Threads that the worker computes with.
        settings: How the study is searched.
        connection: Pipe to the parent, which is told of every event.
        inherited: The space and the prepared data, if this process is a fork; ``None`` if the space is loaded from its
            file and the prepared data is received through the pipe.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which terminates its workers
    signal.signal(signal.SIGTERM, interrupt)
    resend_dropped_signals()
    # A fork inherits standard output, which a display thread of the parent may have held locked.
    log = _Log(
        open(worker_log(settings, number), "ab", buffering=0), encoding="utf-8", errors="replace", write_through=True
    )
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    sys.stdout = sys.stderr = log
    faulthandler.enable(log)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    raise_malloc_thresholds()
    proxy = _WorkerProxy(connection)
    try:
        if inherited is None:
            space = load_space(settings.file_of_space, settings.epochs).fixed(settings.fixed)
            prepared: Prepared = connection.recv()  # after the space, whose classes unpickling needs
        else:
            space, prepared = inherited
        switch_off_autologging()
        with storage_in_reach(settings):
            study = find_study(settings, on_outage=proxy.message)
            if inherited is None:
                check_code(study, space.code, accept=False)  # its file may have been changed since the search began
            with contextlib.closing(study.leases):
                context = TrialContext(settings=settings, space=space, study=study, prepared=prepared, mirror=proxy)
                work(context, proxy)
        proxy.send("over")
    except HarnessError as error:
        proxy.send("error", one_line(error))
    except Interrupted as interrupted:
        sys.exit(128 + interrupted.signal_number)  # if the parent did not send the signal, it replaces this worker
    except _Orphaned:
        pass
    finally:
        connection.close()


def _exit_with_parent() -> None:
    """Exit at once when the parent has ended, however it ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def worker_log(settings: Settings, number: int) -> Path:
    """Return the path of a worker's log, which holds its output and tracebacks."""
    return settings.study_dir / f"worker-{number}.log"
