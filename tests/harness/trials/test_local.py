"""A crew whose workers are stopped while they are being started."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import pytest
from conftest import Silent, opened, settings_in

from harness.core.errors import Interrupted
from harness.trials import local
from harness.trials.context import TrialContext
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


def test_a_signal_while_a_worker_starts_stops_the_others_in_good_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Process.made = []
    context = SimpleNamespace(Pipe=multiprocessing.Pipe, Process=Process)
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: context)
    study = opened(settings_in(tmp_path, trials=9))
    display: Any = SimpleNamespace(word=print)
    data: Any = SimpleNamespace(data=None)
    trials = TrialContext(settings=study.settings, space=SPACE, study=study, prepared=data, mirror=Silent())
    crew = local._WorkerPool(local._Task(print, 9), 1, trials, display)
    monkeypatch.setattr(crew, "forks", True)

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise Interrupted(number)

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        with pytest.raises(Interrupted):
            crew.work(3)
        assert signal.getsignal(signal.SIGINT) is interrupt
    finally:
        signal.signal(signal.SIGINT, before)
    assert [process.told for process in Process.made] == [["start", "terminate"], ["start", "terminate"]]


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forks on Linux alone")
def test_a_fork_that_waits_to_ask_again_does_not_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_HUNG_S", 1.0)
    asking = "import time\nwhile True:\n    time.sleep(0.2)"
    commands = {"asks again": [sys.executable, "-c", asking], "for a lock": ["sleep", "60"]}
    processes: dict[str, Any] = {name: subprocess.Popen(command) for name, command in commands.items()}
    workers = {name: local._Worker(0, process, is_unproven=True) for name, process in processes.items()}
    try:
        for _ in range(20):
            time.sleep(0.1)
            found = {name: worker.hangs() for name, worker in workers.items()}
        assert found == {"asks again": False, "for a lock": True}
        stopped = local._Worker(0, processes["for a lock"], is_unproven=True)
        stopped.hangs()
        stopped.looked_s -= 1000  # nobody looked, for this process stood still itself
        assert not stopped.hangs()
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
