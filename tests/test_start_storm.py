"""A search killed with all its processes, repeatedly, from its first moment on."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from conftest import EXAMPLE, PATIENCE_S, ROOT, environment
from mlflow import MlflowClient

pytestmark = pytest.mark.slow

TRIALS = 4
KILLS, FIRST_S, APART_S = 40, 0.1, 0.075  # the last one after 3 s, when trials are at work
COMMAND = f"--space cancer.py --trials {TRIALS} --epochs 3 --pruner none --no-controls --workers 2".split()


def begin(folder: Path) -> subprocess.Popen[bytes]:
    with open(folder / "output.txt", "ab") as output:
        return subprocess.Popen(
            [sys.executable, str(ROOT / "search.py"), *COMMAND],
            cwd=folder,
            env=environment(),
            stdout=output,
            stderr=output,
        )


def family(pid: int) -> list[int]:
    """A process with all that descend from it: workers, and the one that sends to MLflow."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found


def kill(process: subprocess.Popen[bytes]) -> None:
    for pid in family(process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def test_a_search_killed_40_times_in_its_first_seconds_is_resumed_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "cancer.py").write_text(EXAMPLE)
    for number in range(KILLS):
        process = begin(tmp_path)
        time.sleep(FIRST_S + APART_S * number)
        kill(process)
    process = begin(tmp_path)
    try:
        code = process.wait(PATIENCE_S)
    finally:
        kill(process)
    output = (tmp_path / "output.txt").read_text()
    assert code == 0 and "error:" not in output and "Traceback" not in output, output
    trials = optuna.load_study(study_name="cancer", storage=f"sqlite:///{tmp_path}/optuna.db").trials
    assert [(trial.number, trial.state.name) for trial in trials] == [(n, "COMPLETE") for n in range(TRIALS)]
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("kd-cancer")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(run.data.tags["kd.role"] for run in runs) == ["study", "teacher", *["trial"] * TRIALS]
    assert {run.info.status for run in runs} == {"FINISHED"}
    files = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()]
    unfinished = [name for name in files if re.search(r"\.new$|\.new-|-journal$|/\.[^/]+\.\d+$|checkpoint", name)]
    assert not unfinished
