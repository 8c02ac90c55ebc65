"""Whole commands beside each other: the harness, and the script that people write today; same trials, same epochs.

    python benchmarks/against_usual_script.py digits --trials 10 --repeats 3
    python benchmarks/against_usual_script.py fashion-mnist --trials 4 --epochs 2 --repeats 2

Both train the configurations of one random search of the harness, each as its defaults have it (the harness with a
worker for each core), with the same teacher, which exists beforehand. Wall time is that of the whole commands, start-up
included, and, beside it, of the trials alone.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import optuna

ROOT = Path(__file__).resolve().parent.parent


def run(folder: Path, *command: str) -> tuple[float, str]:
    """Wall time in seconds and output of a command in ``folder``."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return time.perf_counter() - started, done.stdout


def main() -> None:
    """Measure pairs and print their medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("space", choices=["digits", "fashion-mnist"])
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    top = Path(tempfile.mkdtemp())
    search = (
        str(ROOT / "search.py"), "--no-controls",
        "--space", asked.space, "--trials", str(asked.trials), "--epochs", str(asked.epochs),
        "--sampler", "random", "--pruner", "none", "--study", "beside", "--accelerator", "cpu",
    )  # fmt: skip
    (top / "first").mkdir()
    run(top / "first", *search)  # makes the teacher and the list of configurations
    (teacher,) = (top / "first" / "mlruns" / "cache" / "teachers").glob("*/teacher.safetensors")
    first = optuna.load_study(study_name="beside", storage=f"sqlite:///{top}/first/optuna.db")
    (top / "configurations.json").write_text(json.dumps([trial.params for trial in first.trials]))
    whole, alone = [], []
    for repeat in range(asked.repeats):
        ours, theirs = top / f"ours{repeat}", top / f"theirs{repeat}"
        ours.mkdir()
        theirs.mkdir()
        # The script has a teacher on disk; so has the harness. Its outputs and the costs are each made anew.
        shutil.copytree(top / "first" / "mlruns" / "cache" / "teachers", ours / "mlruns" / "cache" / "teachers")
        script = str(ROOT / "benchmarks" / "usual_script.py")
        listed = str(top / "configurations.json")
        arguments = (asked.space, str(teacher), "--configurations", listed, "--epochs", str(asked.epochs))
        if repeat % 2 == 0:  # what comes second meets a machine that the first has warmed
            ours_s, _ = run(ours, *search)
            theirs_s, output = run(theirs, script, *arguments)
        else:
            theirs_s, output = run(theirs, script, *arguments)
            ours_s, _ = run(ours, *search)
        said = json.loads(output.splitlines()[-1])
        study = optuna.load_study(study_name="beside", storage=f"sqlite:///{ours}/optuna.db")
        trials = study.trials
        began = min(trial.datetime_start for trial in trials if trial.datetime_start)
        ended = max(trial.datetime_complete for trial in trials if trial.datetime_complete)
        ours_search_s = (ended - began).total_seconds()
        whole.append(theirs_s / ours_s)
        alone.append(said["search_s"] / ours_search_s)
        reached = statistics.mean(trial.values[0] for trial in trials)
        print(
            f"whole commands: script {theirs_s:.1f} s, harness {ours_s:.1f} s, ratio {whole[-1]:.2f}; trials alone: "
            f"{said['search_s']:.1f} s, {ours_search_s:.1f} s, ratio {alone[-1]:.2f}; mean accuracy: "
            f"{statistics.mean(said['accuracies']):.4f}, {reached:.4f}",
            flush=True,
        )
    print(
        f"{asked.space}, {asked.trials} trials of {asked.epochs} epochs, medians of {asked.repeats} pairs: "
        f"whole commands {statistics.median(whole):.2f} x, trials alone {statistics.median(alone):.2f} x"
    )


if __name__ == "__main__":
    main()
