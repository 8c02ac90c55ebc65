"""Choose how a worker process starts, by fork or by spawn, and watch a fork for a deadlock."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType

import torch

from harness.core.errors import OWN_THREADS

# A fork that uses less of a processor meanwhile, never wakes and sends nothing, is deadlocked.
DEADLOCK_S, _BUSY_S = 60.0, 0.1


def why_not_fork(threads: int) -> str:
    """Return why a worker must be spawned; empty if it may be a fork of this process.

    Args:
        threads: Threads that the worker computes with.
    """
    if sys.platform != "linux":
        return f"a fork is not safe on {sys.platform}"
    if torch.accelerator.is_available():
        return "gradients may have started threads for other devices here"
    if threads > 1:
        return "a fork of a process whose OpenMP threads have run may use one thread only"  # as torch's own loaders do
    return ""


def describe_foreign_threads() -> str:
    """Return which threads of this process a fork would lack; empty if there are none."""
    others = foreign_threads()
    return f"threads run here that a fork would not have ({', '.join(others[:3])})" if others else ""


def foreign_threads() -> list[str]:
    """Return the names of threads that are neither this project's nor a progress bar's.

    A fork lacks these threads, but inherits the locks that they hold at that moment.
    """
    return [
        thread.name
        for thread in threading.enumerate()
        if thread is not threading.current_thread()
        and not thread.name.startswith(OWN_THREADS)
        and type(thread).__module__.partition(".")[0] not in ("rich", "tqdm")
    ]


@contextlib.contextmanager
def without_main_module() -> Iterator[None]:
    """Start a process in this block without running the program's main module in it.

    A spawned process runs the main module again: a script without ``if __name__ == "__main__"`` would start its whole
    search once more in each worker. A worker needs nothing of it, for its space is in a file.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


class ForkWatchdog:
    """Detect a fork that waits forever for a lock that another thread held when the process was forked.

    A worker that waits for a storage or for other workers' trials is not deadlocked: it wakes up to poll.

    Args:
        process: The fork.
    """

    def __init__(self, process: BaseProcess) -> None:
        self._process = process
        self._used_s = 0.0  # processor time at the last sign of life
        self._wakes = 0  # voluntary context switches at the last sign of life
        self._idle_s = 0.0  # since the last sign of life, while it was checked
        self._checked_s = time.monotonic()

    def reset(self) -> None:
        """Record a sign of life, such as a message from the worker."""
        self._idle_s = 0.0

    def is_deadlocked(self) -> bool:
        """Return whether the fork has shown no sign of life for ``DEADLOCK_S`` seconds; call it repeatedly."""
        now_s = time.monotonic()
        self._idle_s += min(now_s - self._checked_s, DEADLOCK_S / 5)  # Ctrl-Z may have stopped both processes
        self._checked_s = now_s
        used_s, wakes = _processor_time_s(self._process), _context_switches(self._process)
        if used_s - self._used_s > _BUSY_S or wakes > self._wakes:
            self._used_s, self._wakes, self._idle_s = used_s, wakes, 0.0
        return self._idle_s > DEADLOCK_S


def _processor_time_s(process: BaseProcess) -> float:
    """Return the processor time of a Linux process in seconds; 0 if it has ended."""
    try:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _context_switches(process: BaseProcess) -> int:
    """Return the voluntary context switches of a Linux process; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches:"))
