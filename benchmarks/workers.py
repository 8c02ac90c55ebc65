"""Workers beside one another: how the time of unpruned trials falls with their number, and whether memory grows.

    python benchmarks/workers.py
    python benchmarks/workers.py --memory --trials 500

Each worker has one thread, whatever their number. Time is from the first trial's begin to the last one's end, of whole
commands that take turns. Memory is sampled while short trials run: all that a worker has in memory (RSS), and what it
holds for itself (USS), which also grows as it touches what it shared with the process that it is a fork of.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import optuna
import psutil

ROOT = Path(__file__).resolve().parent.parent
_MB = 1e6


def command(trials: int, workers: int, epochs: int) -> list[str]:
    """Return a search of digits whose trials all cost the same."""
    flags = "--study bench --sampler random --pruner none --no-controls --fix width=8"
    flags += f" --trials {trials} --workers {workers}"
    return [sys.executable, str(ROOT / "search.py"), *flags.split(), "--epochs", str(epochs), "--accelerator", "cpu"]


def started(folder: Path, trials: int, workers: int, epochs: int) -> subprocess.Popen[bytes]:
    """Return the search, started in ``folder``."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command(trials, workers, epochs), cwd=folder, env=environment, stdout=subprocess.DEVNULL)


def span_s(trials: int, workers: int) -> float:
    """Return seconds from the first trial's begin to the last one's end."""
    folder = Path(tempfile.mkdtemp())
    assert started(folder, trials, workers, epochs=20).wait() == 0
    found = optuna.load_study(study_name="bench", storage=f"sqlite:///{folder}/optuna.db").trials
    begins = [trial.datetime_start for trial in found if trial.datetime_start]
    ends = [trial.datetime_complete for trial in found if trial.datetime_complete]
    assert len(ends) == trials
    return (max(ends) - min(begins)).total_seconds()


def linearity(trials: int, workers: int, repeats: int) -> None:
    """Pairs of one worker and of all."""
    ratios = []
    for repeat in range(repeats):
        order = (1, workers) if repeat % 2 == 0 else (workers, 1)
        spans = {count: span_s(trials, count) for count in order}
        ratios.append(spans[1] / spans[workers])
        print(f"1 worker {spans[1]:.1f} s, {workers} workers {spans[workers]:.1f} s, {ratios[-1]:.2f} x", flush=True)
    print(f"{trials} trials, {workers} workers: {statistics.median(ratios):.2f} x (median of {repeats} pairs)")


def memory(trials: int, workers: int) -> None:
    """What each worker has in memory, by the trials that are finished."""
    folder = Path(tempfile.mkdtemp())
    search, shown = started(folder, trials, workers, epochs=2), -1
    students = folder / "mlruns" / "trials" / "bench"
    while search.poll() is None:
        time.sleep(1)
        done = sum(1 for _ in students.glob("*/student.safetensors"))
        if done // 50 > shown:
            shown = done // 50
            children = psutil.Process(search.pid).children()
            held = [_held(child) for child in children if "harness.tracking.mirror_process" not in child.cmdline()]
            first = _held(psutil.Process(search.pid))
            print(f"{done} trials: workers {', '.join(held)}; first process {first}", flush=True)
    assert search.returncode == 0


def _held(process: psutil.Process) -> str:
    memory = process.memory_full_info()
    return f"{memory.rss / _MB:.0f} MB ({memory.uss / _MB:.0f} of its own)"


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--trials", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", action="store_true")
    asked = parser.parse_args()
    if asked.memory:
        memory(asked.trials, asked.workers)
    else:
        linearity(asked.trials, asked.workers, asked.repeats)


if __name__ == "__main__":
    main()
