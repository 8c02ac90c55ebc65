"""Full learning curves of a grid of configurations, for rules of pruning and samplers to be tried on.

    python benchmarks/learning_curves.py digits
    python benchmarks/learning_curves.py fashion-mnist

Each run is trained as a trial is, to its end, with one thread, on every core at once. A grid that was cut goes on where
it was. Fashion-MNIST's students are trained on 10,000 of the 50,000 training samples, 10 epochs, for the grid to end
within an hour on two cores.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from harness.cli.search import parse_search
from harness.core.content import derived_seed
from harness.cost.table import key_of
from harness.preparation.concurrency import usable_cores
from harness.preparation.prepare import prepare
from harness.preparation.prepared import Prepared
from harness.screen.terminal import Terminal
from harness.space import SearchSpace, load_space
from harness.storage.access import open_storage
from harness.studies.opening import open_study
from harness.task import primary_metric
from harness.tracking.mirror import Mirror
from harness.trials.trial import TrainingSpec, train_student
from lightning_modules.batch import select
from lightning_modules.data.tensors import Split

GRIDS: dict[str, dict[str, list[Any]]] = {
    "digits": {
        "width": [2, 3, 4, 6, 8, 12, 16, 24, 32],
        "temperature": [1.0, 4.0, 16.0],
        "alpha": [0.1, 0.4, 0.7, 1.0],
        "learning_rate": [0.001, 0.003, 0.01, 0.03],
    },
    "fashion-mnist": {
        "width": [2, 3, 4, 6, 8, 12, 16],
        "temperature": [1.0, 4.0, 16.0],
        "alpha": [0.1, 0.5, 0.9],
        "learning_rate": [0.002, 0.007, 0.025],
    },
}
EPOCHS = {"digits": 20, "fashion-mnist": 10}
SEEDS = 3
_FASHION_SAMPLES = 10_000

_task: tuple[SearchSpace, Prepared]


def run(job: tuple[dict[str, Any], int]) -> dict[str, Any]:
    """Train one student to the end; its configuration, seed, seconds and validation accuracy after each epoch."""
    (values, seed), (space, prepared) = job, _task
    started = time.perf_counter()
    accuracy: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        train_student(
            TrainingSpec(
                configuration=space.configuration(values),
                seed=derived_seed(seed, json.dumps(values)),
                order_seed=seed,
            ),
            space,
            prepared,
            folder=Path(folder),
            accelerator="cpu",
            listeners=[lambda epoch, metrics: accuracy.append(metrics[f"val/{primary_metric(space.task).name}"])],
        )
    return {**values, "seed": seed, "seconds": time.perf_counter() - started, "accuracy": accuracy}


def prepared_for(space: str, runs_dir: Path, *flags: str) -> tuple[SearchSpace, Prepared]:
    """Return a space, and what its trials stand on, kept in ``runs_dir``.

    Args:
        space: Value of ``--space``.
        runs_dir: Value of ``--runs-dir``.
        flags: Further flags of ``search.py``.
    """
    folder = Path(tempfile.mkdtemp())
    settings, _ = parse_search(
        [
            *("--space", space, "--accelerator", "cpu", "--runs-dir", str(runs_dir), "--study", "grid", *flags),
            *("--storage", f"sqlite:///{folder}/optuna.db", "--tracking-uri", f"sqlite:///{folder}/mlflow.db"),
        ]
    )
    declared = load_space(settings.file_of_space, settings.epochs)
    with Mirror(settings.tracking_uri) as mirror:
        mirror.connect(settings.experiment, settings.runs_dir, say=print)
        study = open_study(settings, declared, open_storage(settings))
        return declared, prepare(settings, declared, study, Terminal(), mirror)


def thin_out(prepared: Prepared) -> None:
    """Keep the first of the shuffled training samples; classes stay as even as chance has them."""
    data = prepared.data
    kept = torch.randperm(len(data.splits["train"]), generator=torch.Generator().manual_seed(0))[:_FASHION_SAMPLES]
    train = data.splits["train"]
    data.splits["train"] = Split(select(train.inputs, kept), train.labels[kept])
    outputs = data.teacher_outputs
    data.attach({**outputs, "train": {name: values[kept] for name, values in outputs["train"].items()}})


def main() -> None:
    """Train what the grid still lacks."""
    global _task
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("space", choices=GRIDS)
    parser.add_argument("--runs-dir", type=Path, default=Path("mlruns"))
    asked = parser.parse_args()
    torch.set_num_threads(1)  # what is forked below must not have started threads
    space, prepared = prepared_for(asked.space, asked.runs_dir)
    if asked.space == "fashion-mnist":
        thin_out(prepared)
    _task = (replace(space, epochs=EPOCHS[asked.space]), prepared)
    grid = GRIDS[asked.space]
    file = asked.runs_dir / "curves" / f"{asked.space}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    costs = {width: prepared.costs[{"width": width}] for width in grid["width"]}
    (file.with_suffix(".costs.json")).write_text(
        json.dumps({key_of({"width": w}): {"parameters": c["parameters"], "macs": c["macs"]} for w, c in costs.items()})
    )
    done = set()
    if file.exists():
        for line in file.read_text().splitlines():
            known = json.loads(line)
            done.add((*(known[name] for name in grid), known["seed"]))
    configurations = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    jobs = [
        (configuration, seed)
        for seed in range(SEEDS)
        for configuration in configurations
        if (*configuration.values(), seed) not in done
    ]
    jobs.sort(key=lambda job: (job[1], -job[0]["width"]))  # the long ones first, so that no core waits at the end
    print(f"{len(done)} runs are there, {len(jobs)} to go", flush=True)
    started = time.perf_counter()
    context = multiprocessing.get_context("fork")
    with context.Pool(usable_cores(), torch.set_num_threads, (1,)) as pool, open(file, "a", buffering=1) as out:
        for count, result in enumerate(pool.imap_unordered(run, jobs), start=1):
            out.write(json.dumps(result) + "\n")
            if count % 50 == 0 or count == len(jobs):
                left_s = (time.perf_counter() - started) / count * (len(jobs) - count)
                print(f"{count}/{len(jobs)}, {left_s / 60:.0f} min left", flush=True)


if __name__ == "__main__":
    main()
