"""The start method of workers: a fork would wait forever for a lock that a thread of the space holds."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from conftest import EXAMPLE, PATIENCE_S, environment, search
from forked import Forked

from harness.core.errors import OWN_THREADS, defer_signals
from harness.trials import start_method
from harness.trials.start_method import ForkWatchdog, foreign_threads

HELD = """
import threading, time
LOCK = vars(time).setdefault("held", threading.Lock())  # a library's, which a fork does not import anew
def hold():
    with LOCK:
        time.sleep(3600)
def hold_on():
    if {where}:
        threading.Thread(target=hold, daemon=True, name="pool").start()
        time.sleep(0.1)
"""
"""A thread of the first process alone holds a lock for an hour."""

FIRST = "__import__('multiprocessing').parent_process() is None"


def holding(folder: Path, *, named: str = "pool") -> None:
    """Write the README's example into a file whose students wait for a lock that was held when the search forked."""
    body = "    def student(self, *, width):\n"
    assert EXAMPLE.count(body) == 1
    space = EXAMPLE.replace(body, body + f"        if not ({FIRST}):\n            with LOCK: pass\n")
    space = HELD.format(where=FIRST).replace('name="pool"', f'name="{named}"') + space + "\nhold_on()\n"
    (folder / "cancer.py").write_text(space)


def test_a_search_in_another_thread_does_not_fork_beside_the_main_thread_and_lets_no_signal_wait() -> None:
    found: list[object] = []

    def ask() -> None:
        found.extend(foreign_threads())
        with defer_signals():
            found.append("no error")

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert "MainThread" in found and thread.name not in found and found[-1] == "no error"


def test_foreign_threads_are_found() -> None:
    over = threading.Event()
    before = foreign_threads()
    threads = [threading.Thread(target=over.wait, name=name) for name in ("pool", f"{OWN_THREADS}mirror")]
    for thread in threads:
        thread.start()
    try:
        assert sorted({*foreign_threads()} - {*before}) == ["pool"]
    finally:
        over.set()
        for thread in threads:
            thread.join()


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forks on Linux alone")
def test_a_fork_that_polls_is_not_deadlocked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start_method, "DEADLOCK_S", 1.0)
    polling = "import time\nwhile True:\n    time.sleep(0.2)"
    commands = {"polls": [sys.executable, "-c", polling], "waits": ["sleep", "60"]}
    processes: dict[str, Any] = {name: subprocess.Popen(command) for name, command in commands.items()}
    watchdogs = {name: ForkWatchdog(process) for name, process in processes.items()}
    try:
        for _ in range(20):
            time.sleep(0.1)
            found = {name: watchdog.is_deadlocked() for name, watchdog in watchdogs.items()}
        assert found == {"polls": False, "waits": True}
        stopped = ForkWatchdog(processes["waits"])
        stopped.is_deadlocked()
        stopped._checked_s -= 1000  # this process was stopped itself, and did not check
        assert not stopped.is_deadlocked()
    finally:
        for process in processes.values():
            process.kill()
            process.wait()


FLAGS = ("--space", "cancer.py", "--trials", "2", "--epochs", "2", "--no-controls", "--workers", "2")


@pytest.mark.slow
def test_workers_are_spawned_if_a_foreign_thread_runs(example: Path) -> None:
    holding(example)
    output = search(example, *FLAGS)
    assert "workers are spawned, not forked: threads run here that a fork would not have (pool)" in output
    assert "2/2 done" in output and "was interrupted" not in output


@pytest.mark.slow
def test_a_deadlocked_fork_is_killed_and_a_spawned_worker_resumes_its_work(example: Path) -> None:
    holding(example, named=f"{OWN_THREADS}unseen")  # as one of a library in C, which Python does not know
    script = example / "sooner.py"
    script.write_text(
        "import runpy, sys\nimport harness.trials.start_method\nharness.trials.start_method.DEADLOCK_S = 3\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "runpy.run_path(sys.argv.pop(1) + '/search.py', run_name='__main__')\n"
    )
    root = environment()["PYTHONPATH"]
    process = Forked(script, root, *FLAGS, output=example / "output.txt", env=environment())
    try:
        code, output = process.wait(PATIENCE_S), (example / "output.txt").read_text()
    finally:
        process.kill()
    assert code == 0 and "2/2 done" in output, output
    assert "a fork, was deadlocked for 3 s" in output


@pytest.mark.slow
def test_autologging_enabled_by_a_task_adds_no_runs(example: Path) -> None:
    space = EXAMPLE.replace("    def teacher(self):\n", "    def teacher(self):\n        mlflow.pytorch.autolog()\n")
    (example / "cancer.py").write_text("import mlflow\n" + space)
    output = search(example, *FLAGS)
    assert "autologging of pytorch is off" in output and "2/2 done" in output
    with closing(sqlite3.connect(example / "mlflow.db")) as database:
        runs = database.execute("select count(*), count(distinct experiment_id) from runs").fetchone()
    assert runs == (4, 1)  # a teacher, a study and two trials
