"""A command, with all the processes that it starts: how much processor time they took, and their end. Linux only."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

_PR_SET_CHILD_SUBREAPER = 36


class ProcessTree:
    """A command's processes, daemons included: who loses its parent becomes this process's child, and stays in reach.

    One at a time, in a process that has no other children.

    Args:
        command: Program and arguments.
        folder: Where it runs.
        log: File that gets what it says.
        environment: Its whole environment.

    Attributes:
        started: When the command was started, in seconds since the epoch.
    """

    def __init__(self, command: Sequence[str], *, folder: Path, log: Path, environment: Mapping[str, str]) -> None:
        failed = ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        assert not failed
        self._self = psutil.Process()
        # CPU seconds by process: its own, and those of the children that it has waited for.
        self._last = {self._self: (0.0, self._waited_for_s())}
        self._lost_s, self._before_s = 0.0, self._waited_for_s()
        with open(log, "w") as output:
            self.started = time.time()
            self._root = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )

    @property
    def exit_code(self) -> int | None:
        """That of the command; ``None`` while it runs."""
        return self._root.poll()

    def cpu_s(self) -> float:
        """CPU seconds so far, user and system, those of processes that have ended included.

        A process that nobody waits for takes with it what it used since the last call: call it often.
        """
        now = {self._self: (0.0, self._waited_for_s())}
        for process in self._self.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                now[process] = (times.user + times.system, times.children_user + times.children_system)
        gone = sum(sum(self._last[process]) for process in self._last if process not in now)
        passed_on = sum(waited - self._last.get(process, (0.0, 0.0))[1] for process, (_, waited) in now.items())
        self._lost_s += max(0.0, gone - passed_on)
        self._last = now
        return sum(own + waited for own, waited in now.values()) + self._lost_s - self._before_s

    def end(self) -> None:
        """Kill what is left, and wait for it."""
        while left := self._self.children(recursive=True):
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            self._root.wait()
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            time.sleep(0.05)

    def _waited_for_s(self) -> float:
        times = self._self.cpu_times()
        return float(times.children_user + times.children_system)
