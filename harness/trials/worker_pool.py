"""Run workers as processes of this machine: start them, handle their messages, replace dead ones, stop them."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from harness.core.errors import HarnessError, defer_signals
from harness.core.notifier import RateLimitedNotifier
from harness.cost.latency import computing_with
from harness.preparation.concurrency import number_of_workers
from harness.tracking.mirror import Mirror
from harness.training.allocator import trim_heap
from harness.trials import start_method
from harness.trials.context import Display, TrialContext
from harness.trials.retraining import Retraining, retrain
from harness.trials.start_method import ForkWatchdog, describe_foreign_threads, why_not_fork
from harness.trials.worker import run_trials, sync_spools
from harness.trials.worker_process import run_worker, worker_log

_GRACE_S = 3.0  # between SIGTERM and SIGKILL of a worker
_MAX_IDLE_DEATHS = 3  # consecutive deaths of workers without a trial, after which no more are started


def search_locally(context: TrialContext, display: Display) -> None:
    """Search with as many workers as requested, by default one per core; a single one is this process itself.

    Args:
        context: The budget, the number of workers, and what every trial needs.
        display: Shows each trial.

    Raises:
        HarnessError: If a worker ends with an error that no trial caused, or workers die before they begin a trial.
    """
    _distribute(_Task(run_trials, context.settings.trials - context.study.finished()), context, display)


def retrain_locally(retrainings: list[Retraining], context: TrialContext, display: Display) -> None:
    """Retrain students of the study with as many workers as a search has.

    Args:
        retrainings: The trainings; those with a result are skipped. The display identifies each by its index.
        context: The number of workers, and what every training needs.
        display: Shows each training.

    Raises:
        HarnessError: As ``search_locally``.
    """
    _distribute(_Task(partial(retrain, retrainings), len(retrainings)), context, display)


@dataclass(frozen=True)
class _Task:
    """The work of a pool.

    Attributes:
        work: What each worker runs; it is pickled for a spawned one.
        pieces: Upper bound on the number of trainings.
    """

    work: Callable[[TrialContext, Display], None]
    pieces: int


def _distribute(task: _Task, context: TrialContext, display: Display) -> None:
    """Run a task in this process if one worker is enough, else in a pool."""
    requested = number_of_workers(context.settings, context.space, context.prepared.data.device)
    if (
        requested > 1
        and context.settings.space_file is None
        and (why := why_not_fork(torch.get_num_threads() // requested) or describe_foreign_threads())
    ):
        display.message(f"one process trains: {why}, and a space without a file needs workers that are forks")
        requested = 1
    threads = max(1, torch.get_num_threads() // requested)
    count = min(requested, task.pieces)
    if count > 1:
        _WorkerPool(task, threads, context, display).run(count)
    elif count == 1:
        with computing_with(threads), contextlib.closing(context.study.leases):
            task.work(context, display)


@dataclass
class _Worker:
    """A worker as its pool sees it.

    Attributes:
        number: Its index in the pool.
        process: Its process.
        watchdog: Detects a deadlocked fork until its first epoch; ``None`` from then on, and for a spawned worker.
        trial: Number of the training in progress.
        is_over: Whether it has no work left; its interpreter may take longer to exit than the grace period.
        was_deadlocked: Whether the watchdog had it killed.
    """

    number: int
    process: BaseProcess
    watchdog: ForkWatchdog | None = None
    trial: int | None = None
    is_over: bool = False
    was_deadlocked: bool = False


class _WorkerPool:
    """A pool of worker processes, each with its share of the cores' threads.

    Imports and preparation are paid for once: a worker on the CPU is a fork of this process and shares its memory. A
    dead worker is replaced, and its trial resumed.
    """

    def __init__(self, task: _Task, threads: int, context: TrialContext, display: Display) -> None:
        self.task = task
        self.threads = threads
        self.context = context
        self.display = display
        self.forks = not why_not_fork(threads)
        self.ends_at = None if context.settings.timeout_s is None else time.monotonic() + context.settings.timeout_s
        self.workers: dict[Connection, _Worker] = {}
        self.notifier = RateLimitedNotifier(display.message)
        self.deaths = 0
        self.idle_deaths = 0

    def run(self, count: int) -> None:
        """Run ``count`` workers until no work is left."""
        if self.forks:
            trim_heap()
        try:
            for number in range(count):
                self._start(number)
            while self.workers:
                is_watched = any(worker.watchdog is not None for worker in self.workers.values())
                for worker in self._handle_messages(timeout_s=start_method.DEADLOCK_S / 10 if is_watched else None):
                    if worker.process.exitcode != 0 and not worker.is_over:
                        self._replace(worker)
                self._kill_deadlocked()
            if self.deaths:  # a worker may have died between storing a result and logging it
                assert isinstance(self.context.mirror, Mirror)
                sync_spools(self.context.study, self.context.mirror)
        finally:
            self._stop()

    def _start(self, number: int) -> None:
        self.context.study.storage.close_connections()  # a database's connections must not cross a fork
        if self.forks and (why := describe_foreign_threads()):
            self._switch_to_spawn(why)
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
            daemon=False,  # a daemon may start no processes, and data that are on disk are read by some
        )
        # A signal between the start of a process and its registration here would leave the process without an owner.
        without_main = contextlib.nullcontext() if self.forks else start_method.without_main_module()
        with warnings.catch_warnings(), defer_signals(), without_main:
            warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads: they hold no lock of ours
            process.start()
            self.workers[ours] = _Worker(number, process, ForkWatchdog(process) if self.forks else None)
            theirs.close()
        if not self.forks:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # reading from it detects the death
                ours.send(self.context.prepared)

    def _handle_messages(self, *, timeout_s: float | None) -> Iterator[_Worker]:
        """Wait for messages and handle them; yield each worker that has ended, after its last message."""
        for ready in multiprocessing.connection.wait(list(self.workers), timeout_s):
            assert isinstance(ready, Connection)
            try:
                message = ready.recv()
            except (EOFError, OSError):
                worker = self.workers.pop(ready)
                ready.close()
                _join(worker.process)
                yield worker
            else:
                self._handle(message, self.workers[ready])

    def _kill_deadlocked(self) -> None:
        for worker in self.workers.values():
            if not worker.was_deadlocked and worker.watchdog is not None and worker.watchdog.is_deadlocked():
                worker.was_deadlocked = True
                seconds = f"{start_method.DEADLOCK_S:.0f} s"
                self._switch_to_spawn(f"worker {worker.number}, a fork, was deadlocked for {seconds}")
                worker.process.kill()

    def _switch_to_spawn(self, why: str) -> None:
        """Spawn the workers that start from now on.

        Raises:
            HarnessError: If the space has no file that a spawned worker could load it from.
        """
        if self.context.settings.space_file is None:
            raise HarnessError(f"workers can't be forks, for {why}; save the space to a file, or take workers=1.")
        if self.forks:
            self.forks = False
            self.display.message(f"workers are spawned, not forked: {why}")

    def _handle(self, message: tuple[Any, ...], worker: _Worker) -> None:
        if worker.watchdog is not None:
            worker.watchdog.reset()
        kind, *content = message
        match kind:
            case "notify":
                self.context.mirror.notify(*content)
            case "error":
                raise HarnessError(content[0])
            case "started":
                self._release(content[0])
                worker.trial = content[0]
                self.idle_deaths = 0
                self.display.started(*content)
            case "epoch":
                worker.watchdog = None
                self.display.epoch(*content)
            case "finished" | "pruned" | "failed":
                worker.trial = None
                getattr(self.display, kind)(*content)
            case "interrupted":
                if worker.trial == content[0]:  # else another worker of this pool has taken it over
                    worker.trial = None
                    self.display.interrupted(*content)
            case "waiting":
                self.display.waiting(*content)
            case "message":
                self.notifier(*content)
            case "over":
                worker.is_over = True

    def _replace(self, worker: _Worker) -> None:
        """Start another worker in place of a dead one."""
        self.deaths += 1
        code = worker.process.exitcode
        if worker.trial is not None:
            self.display.interrupted(worker.trial, f"its worker died, exit code {code}")
        elif not worker.was_deadlocked:
            self.idle_deaths += 1
            if self.idle_deaths >= _MAX_IDLE_DEATHS:
                raise HarnessError(
                    f"workers die before they begin a trial, the last one with exit code {code} (see "
                    f"{worker_log(self.context.settings, worker.number)}); --workers 1 may show why."
                )
        self._start(worker.number)

    def _release(self, trial: int) -> None:
        """Take a restarted trial from the worker that lost it, whose end has not been seen yet."""
        for worker in self.workers.values():
            if worker.trial == trial:
                self.display.interrupted(trial, "its worker died")
                worker.trial = None

    def _stop(self) -> None:
        """Terminate the remaining workers, handle their last messages, and kill those that do not end."""
        try:
            for worker in self.workers.values():
                worker.process.terminate()
            ends_at = time.monotonic() + _GRACE_S
            while self.workers and (left_s := ends_at - time.monotonic()) > 0:
                with contextlib.suppress(HarnessError):  # one error is enough
                    for _ in self._handle_messages(timeout_s=left_s):
                        pass
        finally:
            for worker in self.workers.values():
                worker.process.kill()


def _join(process: BaseProcess) -> None:
    """Wait for a process that has closed its pipe; kill it if it hangs on exit."""
    process.join(_GRACE_S)
    if process.exitcode is None:
        process.kill()
        process.join()
