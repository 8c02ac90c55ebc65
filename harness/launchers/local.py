"""Workers as processes of this machine: started, listened to, replaced when they die, stopped together."""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import time
import warnings
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from harness.errors import HarnessError, Interrupted, interrupt, one_line
from harness.mirror import Mirror
from harness.prepare import Prepared
from harness.settings import Settings
from harness.space import SearchSpace, load_space
from harness.storage import close_connections, storage_in_reach
from harness.study import Study, find_study
from harness.terminal import SearchDisplay
from harness.worker import catch_up, work

_GRACE_S = 3.0  # for a worker that is told to stop, before it is killed
_DEATHS = 3  # of workers, without an epoch between them, after which something is wrong beyond them


def usable_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def search_here(
    settings: Settings, space: SearchSpace, study: Study, prepared: Prepared, mirror: Mirror, display: SearchDisplay
) -> None:
    """Search with as many workers as are asked for, or as this machine has cores; one alone is this process itself.

    Args:
        settings: The budget, and the number of workers.
        space: What varies, with what the person holds fixed.
        study: The study.
        prepared: What every trial stands on.
        mirror: Told of each trial's news.
        display: Shows each trial.

    Raises:
        HarnessError: If a worker ends by an error that is no trial's own doing, or workers die again and again.
    """
    count = settings.workers or (usable_cores() if prepared.data.device.type == "cpu" else 1)
    count = min(count, settings.trials - study.finished())
    if count == 1:
        work(settings, space, study, prepared, mirror, display)
    else:
        run_workers(count, settings, study, prepared, mirror, display)


def run_workers(
    count: int, settings: Settings, study: Study, prepared: Prepared, mirror: Mirror, display: SearchDisplay
) -> None:
    """Search with ``count`` workers beside one another, until the study's budget is spent.

    Each is a process with its share of the cores' threads. What is imported and prepared is paid once: a worker on the
    CPU is a fork of this process and shares its memory. One that dies is replaced, and its trial is resumed.

    Args:
        count: Workers, at least 1.
        settings: The budget.
        study: The study.
        prepared: What every trial stands on.
        mirror: Told of each trial's news.
        display: Shows each trial.

    Raises:
        HarnessError: If a worker ends by an error that is no trial's own doing, or workers die again and again.
    """
    threads = max(1, usable_cores() // count)
    # A fork of a process whose OpenMP threads have run may use one thread only; torch's own loaders do it so.
    fork = threads == 1 and prepared.data.device.type == "cpu" and sys.platform == "linux"
    context = multiprocessing.get_context("fork") if fork else multiprocessing.get_context("spawn")
    crew: dict[Connection, _Worker] = {}
    ends_at = None if settings.timeout_s is None else time.monotonic() + settings.timeout_s

    def start(number: int) -> None:
        close_connections(study.optuna)  # a database's connections must not cross a fork
        ours, theirs = context.Pipe(duplex=False)
        left = settings if ends_at is None else replace(settings, timeout_s=ends_at - time.monotonic())
        process = context.Process(target=_main, args=(number, threads, left, prepared, theirs), name=f"worker-{number}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads: they hold nothing of ours
            process.start()
        theirs.close()
        crew[ours] = _Worker(number, process)

    deaths, dead = 0, False
    try:
        for number in range(count):
            start(number)
        while crew:
            for ready in multiprocessing.connection.wait(list(crew)):
                assert isinstance(ready, Connection)
                worker = crew[ready]
                try:
                    message = ready.recv()
                except (EOFError, OSError):  # it has ended, and all that it said is heard
                    del crew[ready]
                    ready.close()
                    worker.process.join()
                    if worker.trial is not None:
                        display.cut(worker.trial)
                    if worker.process.exitcode == 0:
                        continue
                    deaths, dead = deaths + 1, True
                    if deaths >= _DEATHS:
                        raise HarnessError(
                            f"workers die again and again, the last one with exit code {worker.process.exitcode} (see "
                            f"{_log(settings, worker.number)}); --workers 1 may show why, and the same command goes on."
                        ) from None
                    start(worker.number)
                else:
                    if message[0] == "epoch":
                        deaths = 0
                    _hear(message, worker, mirror, display)
        if dead:  # perhaps between telling the study and telling the log
            catch_up(study, mirror)
    finally:
        _stop(crew, mirror, display)


@dataclass
class _Worker:
    number: int
    process: BaseProcess
    trial: int | None = None


def _hear(message: tuple[Any, ...], worker: _Worker, mirror: Mirror, display: SearchDisplay) -> None:
    kind, *content = message
    match kind:
        case "notify":
            mirror.notify(*content)
        case "error":
            raise HarnessError(content[0])
        case "started":
            worker.trial = content[0]
            display.started(*content)
        case "epoch":
            display.epoch(*content)
        case "finished":
            worker.trial = None
            display.finished(*content)
        case "failed":
            worker.trial = None
            display.failed(*content)


def _stop(crew: dict[Connection, _Worker], mirror: Mirror, display: SearchDisplay) -> None:
    """Tell what is left of the crew to stop, hear their last words, and end those who don't."""
    for worker in crew.values():
        worker.process.terminate()
    ends_at = time.monotonic() + _GRACE_S
    while crew and (left_s := ends_at - time.monotonic()) > 0:
        for ready in multiprocessing.connection.wait(list(crew), left_s):
            assert isinstance(ready, Connection)
            try:
                message = ready.recv()
            except (EOFError, OSError):
                crew.pop(ready).process.join()
                ready.close()
            else:
                with contextlib.suppress(HarnessError):  # one error is enough
                    _hear(message, crew[ready], mirror, display)
    for connection, worker in crew.items():
        worker.process.kill()
        worker.process.join()
        connection.close()


class _Voice:
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

    def failed(self, number: int, reason: str) -> None:
        self.say("failed", number, reason)

    def say(self, *message: Any) -> None:
        self._connection.send(message)


def _main(number: int, threads: int, settings: Settings, prepared: Prepared, connection: Connection) -> None:
    """A worker's process, from its start to its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C at the terminal reaches the first process, which says stop
    signal.signal(signal.SIGTERM, interrupt)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    log = os.open(_log(settings, number), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(log, 1)
    os.dup2(log, 2)
    faulthandler.enable(log)
    torch.set_num_threads(threads)
    voice = _Voice(connection)
    try:
        space = load_space(settings.space_file).fixed(settings.fixed)
        with storage_in_reach(settings):
            work(settings, space, find_study(settings), prepared, voice, voice)
    except HarnessError as error:
        voice.say("error", one_line(error))
    except Interrupted:
        pass
    except (BrokenPipeError, ConnectionResetError):
        pass  # the first process is gone; the trial is resumed by the next search
    finally:
        connection.close()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _log(settings: Settings, number: int) -> Path:
    return settings.study_dir / f"worker-{number}.log"
