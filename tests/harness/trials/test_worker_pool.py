"""The worker pool: signals while a worker starts."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import pytest
from conftest import Silent, opened, settings_in

from harness.core.errors import Interrupted
from harness.trials.context import TrialContext
from harness.trials.worker_pool import _Task, _WorkerPool
from search_spaces.digits import SPACE


class Process:
    """A worker's process, the second of which a signal meets as it starts."""

    made: list[Process]

    def __init__(self, **_: Any) -> None:
        self.made.append(self)
        self.told: list[str] = []

    def start(self) -> None:
        if len(self.made) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        self.told.append("start")

    def terminate(self) -> None:
        assert self.told == ["start"], "a process that was never started"
        self.told.append("terminate")

    def join(self, timeout_s: float) -> None:
        self.exitcode = 0


def test_a_signal_while_a_worker_starts_terminates_every_started_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Process.made = []
    context = SimpleNamespace(Pipe=multiprocessing.Pipe, Process=Process)
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: context)
    study = opened(settings_in(tmp_path, trials=9))
    display: Any = SimpleNamespace(message=print)
    data: Any = SimpleNamespace(data=None)
    trials = TrialContext(settings=study.settings, space=SPACE, study=study, prepared=data, mirror=Silent())
    pool = _WorkerPool(_Task(print, 9), 1, trials, display)
    monkeypatch.setattr(pool, "forks", True)

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise Interrupted(number)

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        with pytest.raises(Interrupted):
            pool.run(3)
        assert signal.getsignal(signal.SIGINT) is interrupt
    finally:
        signal.signal(signal.SIGINT, before)
    assert [process.told for process in Process.made] == [["start", "terminate"], ["start", "terminate"]]
