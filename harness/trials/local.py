"""Workers as processes of this machine: started, listened to, replaced when they die, stopped together."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from harness.core.errors import OWN_THREADS, HarnessError, defer_signals
from harness.core.notifier import RateLimitedNotifier
from harness.cost.latency import computing_with
from harness.preparation.concurrency import number_of_workers
from harness.tracking.mirror import Mirror
from harness.training.allocator import give_back_freed_memory
from harness.trials.context import Display, TrialContext
from harness.trials.local_worker import log_of, run_worker
from harness.trials.retraining import Retraining, retrain
from harness.trials.worker import catch_up, work

_GRACE_S = 3.0  # for a worker that is told to stop, before it is killed
# A fork that takes less of a processor meanwhile, never wakes and says nothing, waits for a lock.
_HUNG_S, _MOVES_S = 60.0, 0.1
_IDLE_DEATHS = 3  # of workers without a trial, one after the other, after which no more are started


def search_here(context: TrialContext, display: Display) -> None:
    """Search with as many workers as are asked for, or as this machine has cores; one alone is this process itself.

    Args:
        context: The budget, the number of workers, and what every trial stands on.
        display: Shows each trial.

    Raises:
        HarnessError: If a worker ends by an error that is no trial's own doing, or workers die before they begin.
    """
    _share(_Task(work, context.settings.trials - context.study.finished()), context, display)


def retrain_here(retrainings: list[Retraining], context: TrialContext, display: Display) -> None:
    """Train students of the study anew, with as many workers as a search has.

    Args:
        retrainings: What is to be trained; what is done already is left alone. The display knows each by its place.
        context: The number of workers, and what every training stands on.
        display: Shows each training.

    Raises:
        HarnessError: As ``search_here``.
    """
    _share(_Task(partial(retrain, retrainings), len(retrainings)), context, display)


@dataclass(frozen=True)
class _Task:
    """What workers do.

    Attributes:
        work: All that one of them does; a spawned one is sent it.
        pieces: How many pieces there are, at most.
    """

    work: Callable[[TrialContext, Display], None]
    pieces: int


def _share(task: _Task, context: TrialContext, display: Display) -> None:
    asked = number_of_workers(context.settings, context.space, context.prepared.data.device)
    if (
        asked > 1
        and not context.settings.has_space_file
        and (why := _why_never_fork(torch.get_num_threads() // asked) or _threads_told())
    ):
        display.word(f"one process trains: {why}, and only a fork has a space that is in no file")
        asked = 1
    threads = max(1, torch.get_num_threads() // asked)
    count = min(asked, task.pieces)
    if count > 1:
        _WorkerPool(task, threads, context, display).work(count)
    elif count == 1:
        with computing_with(threads), contextlib.closing(context.study.leases):
            task.work(context, display)


@dataclass
class _Worker:
    number: int
    process: BaseProcess
    is_unproven: bool = False  # it is a fork, which may wait for ever for a lock that a thread held when it was made
    trial: int | None = None
    is_over: bool = False  # nothing is left for it to do; to leave may take its interpreter longer than it is given
    used_s: float = 0.0  # of a processor, when it was last seen to move
    wakes: int = 0  # until then
    still_s: float = 0.0  # since then, while somebody looked
    looked_s: float = field(default_factory=time.monotonic)
    is_hung: bool = False

    def hangs(self) -> bool:
        """Return whether it has stood still for long, and has not come as far as an epoch yet.

        One that waits for a storage, or for others' trials, wakes to ask again.
        """
        if not self.is_unproven:
            return False
        now_s = time.monotonic()
        self.still_s += min(now_s - self.looked_s, _HUNG_S / 5)  # both may have been stopped, as by Ctrl-Z
        self.looked_s = now_s
        used_s, wakes = _processor_s(self.process), _wakes(self.process)
        if used_s - self.used_s > _MOVES_S or wakes > self.wakes:
            self.used_s, self.wakes, self.still_s = used_s, wakes, 0.0
        self.is_hung = self.still_s > _HUNG_S
        return self.is_hung


class _WorkerPool:
    """Workers beside one another, each a process with its share of the cores' threads.

    What is imported and prepared is paid once: a worker on the CPU is a fork of this process and shares its memory. One
    that dies is replaced, and its trial is resumed.
    """

    def __init__(self, task: _Task, threads: int, context: TrialContext, display: Display) -> None:
        self.task = task
        self.threads = threads
        self.context = context
        self.display = display
        self.forks = not _why_never_fork(threads)
        self.ends_at = None if context.settings.timeout_s is None else time.monotonic() + context.settings.timeout_s
        self.workers: dict[Connection, _Worker] = {}
        self.word = RateLimitedNotifier(display.word)
        self.deaths = 0
        self.idle_deaths = 0

    def work(self, count: int) -> None:
        """Work with ``count`` workers until nothing is left to do."""
        if self.forks:
            give_back_freed_memory()
        try:
            for number in range(count):
                self._start(number)
            while self.workers:
                is_watched = any(worker.is_unproven for worker in self.workers.values())
                for worker in self._ended(timeout_s=_HUNG_S / 10 if is_watched else None):
                    if worker.process.exitcode != 0 and not worker.is_over:
                        self._replace(worker)
                self._end_those_that_hang()
            if self.deaths:  # perhaps between telling the study and telling the log
                assert isinstance(self.context.mirror, Mirror)
                catch_up(self.context.study, self.context.mirror)
        finally:
            self._stop()

    def _start(self, number: int) -> None:
        self.context.study.storage.close_connections()  # a database's connections must not cross a fork
        if self.forks and (why := _threads_told()):
            self._spawn_from_now_on(why)
        context = multiprocessing.get_context("fork") if self.forks else multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        settings = self.context.settings
        if self.ends_at is not None:
            settings = replace(settings, timeout_s=self.ends_at - time.monotonic())
        inherited = (self.context.space, self.context.prepared) if self.forks else None
        process = context.Process(
            target=run_worker,
            args=(self.task.work, number, self.threads, settings, theirs, inherited),
            name=f"worker-{number}",
            daemon=True,
        )
        with warnings.catch_warnings(), defer_signals():  # or one that has been started would be known to nobody
            warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads: they hold nothing of ours
            process.start()
            self.workers[ours] = _Worker(number, process, is_unproven=self.forks)
            theirs.close()
        if not self.forks:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # a death is seen where it is listened to
                ours.send(self.context.prepared)

    def _ended(self, *, timeout_s: float | None) -> Iterator[_Worker]:
        """Wait for what workers say, and hear it; those that have ended, after all that they said is heard."""
        for ready in multiprocessing.connection.wait(list(self.workers), timeout_s):
            assert isinstance(ready, Connection)
            try:
                message = ready.recv()
            except (EOFError, OSError):
                worker = self.workers.pop(ready)
                ready.close()
                _end(worker.process)
                yield worker
            else:
                self._hear(message, self.workers[ready])

    def _end_those_that_hang(self) -> None:
        for worker in self.workers.values():
            if not worker.is_hung and worker.hangs():
                self._spawn_from_now_on(f"worker {worker.number}, a fork, has stood still for {_HUNG_S:.0f} s")
                worker.process.kill()

    def _spawn_from_now_on(self, why: str) -> None:
        if not self.context.settings.has_space_file:
            raise HarnessError(f"workers can't be forks, for {why}; save the space to a file, or take workers=1.")
        if self.forks:
            self.forks = False
            self.display.word(f"workers are spawned, not forked: {why}")

    def _hear(self, message: tuple[Any, ...], worker: _Worker) -> None:
        worker.still_s = 0.0
        kind, *content = message
        match kind:
            case "notify":
                self.context.mirror.notify(*content)
            case "error":
                raise HarnessError(content[0])
            case "started":
                self._forget(content[0])
                worker.trial = content[0]
                self.idle_deaths = 0
                self.display.started(*content)
            case "epoch":
                worker.is_unproven = False
                self.display.epoch(*content)
            case "finished":
                worker.trial = None
                self.display.finished(*content)
            case "pruned":
                worker.trial = None
                self.display.pruned(*content)
            case "failed":
                worker.trial = None
                self.display.failed(*content)
            case "cut":
                if worker.trial == content[0]:  # else another worker of this machine has taken it up
                    worker.trial = None
                    self.display.cut(*content)
            case "waiting":
                self.display.waiting(*content)
            case "word":
                self.word(*content)
            case "over":
                worker.is_over = True

    def _replace(self, worker: _Worker) -> None:
        """Start another worker for one that died."""
        self.deaths += 1
        code = worker.process.exitcode
        if worker.trial is not None:
            self.display.cut(worker.trial, f"its worker died, exit code {code}")
        elif not worker.is_hung:
            self.idle_deaths += 1
            if self.idle_deaths >= _IDLE_DEATHS:
                raise HarnessError(
                    f"workers die before they begin a trial, the last one with exit code {code} (see "
                    f"{log_of(self.context.settings, worker.number)}); --workers 1 may show why."
                )
        self._start(worker.number)

    def _forget(self, trial: int) -> None:
        """Take a trial that begins anew from the worker that lost it, and whose end has not been seen yet."""
        for worker in self.workers.values():
            if worker.trial == trial:
                self.display.cut(trial, "its worker died")
                worker.trial = None

    def _stop(self) -> None:
        """Tell who is left to stop, hear their last words, and end those who don't."""
        try:
            for worker in self.workers.values():
                worker.process.terminate()
            ends_at = time.monotonic() + _GRACE_S
            while self.workers and (left_s := ends_at - time.monotonic()) > 0:
                with contextlib.suppress(HarnessError):  # one error is enough
                    for _ in self._ended(timeout_s=left_s):
                        pass
        finally:
            for worker in self.workers.values():
                worker.process.kill()


def _why_never_fork(threads: int) -> str:
    """Return why a worker of so many threads can't be a fork of this process; empty where it may be one."""
    if sys.platform != "linux":
        return f"a fork is not safe on {sys.platform}"
    if torch.accelerator.is_available():
        return "gradients may have started threads for other devices here"
    if threads > 1:
        return "a fork of a process whose OpenMP threads have run may use one thread only"  # as torch's own loaders do
    return ""


def _threads_told() -> str:
    """Return which threads run that a fork would not have; empty where there are none."""
    others = foreign_threads()
    return f"threads run here that a fork would not have ({', '.join(others[:3])})" if others else ""


def foreign_threads() -> list[str]:
    """Return the names of threads that are not this project's, nor those of what it shows on the screen.

    A fork has none of them, but whatever locks they hold just then.
    """
    return [
        thread.name
        for thread in threading.enumerate()
        if thread is not threading.main_thread()
        and not thread.name.startswith(OWN_THREADS)
        and type(thread).__module__.partition(".")[0] not in ("rich", "tqdm")
    ]


def _processor_s(process: BaseProcess) -> float:
    """Return how long a process of this Linux has computed; 0 for one that has ended."""
    try:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _wakes(process: BaseProcess) -> int:
    """Return how often a process of this Linux went on after it had waited; 0 for one that has ended."""
    try:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches:"))


def _end(process: BaseProcess) -> None:
    """Wait for a process that has said its last word; one that hangs on its way out is killed."""
    process.join(_GRACE_S)
    if process.exitcode is None:
        process.kill()
        process.join()
