"""The same students searched with Ray Tune, as its documentation has it: OptunaSearch, with or without ASHA.

Run by ``benchmarks/against_tuners.py``. A trial has one core, as many run at a time as there are cores, and actors are
used again, so that a process imports PyTorch once. ASHA is that of Ray's own Lightning example (grace period 1,
reduction factor 2), on accuracy: a scheduler takes one objective.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch
from usual_script import EachEpoch, be_quiet, search_arguments, train_student


def train(config: dict[str, Any], *, space: str, teacher: Path, epochs: int, results: Path) -> None:
    """A trial."""
    be_quiet()
    # What TuneReportCheckpointCallback(save_checkpoints=False) does, with the parameters beside the accuracy.
    callbacks = [EachEpoch(results, report=tune.report)]
    train_student(space, teacher, config, epochs=epochs, callbacks=callbacks, logger=False, enable_checkpointing=False)


def main() -> None:
    """Search."""
    parser = search_arguments()
    parser.add_argument("--workers", type=int, required=True, help="trials at a time")
    parser.add_argument("--asha", action="store_true")
    asked = parser.parse_args()
    ray.init(num_cpus=asked.workers, include_dashboard=False, object_store_memory=200 * 1024**2)
    trial = partial(
        train,
        space=asked.space,
        teacher=asked.teacher.resolve(),
        epochs=asked.epochs,
        results=asked.results.resolve(),
    )
    least, most = asked.widths
    tune.Tuner(
        tune.with_resources(trial, {"cpu": 1}),
        param_space={
            "width": tune.lograndint(least, most + 1),
            "temperature": tune.loguniform(1, 20),
            "alpha": tune.uniform(0, 1),
            "learning_rate": tune.loguniform(1e-3, 3e-2),
        },
        tune_config=tune.TuneConfig(
            search_alg=OptunaSearch(metric=["accuracy", "parameters"], mode=["max", "min"], seed=asked.seed),
            scheduler=ASHAScheduler(
                metric="accuracy", mode="max", max_t=asked.epochs, grace_period=1, reduction_factor=2
            )
            if asked.asha
            else None,
            num_samples=asked.trials,
            max_concurrent_trials=asked.workers,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="ray",
            storage_path=str(Path.cwd()),
            callbacks=[MLflowLoggerCallback(tracking_uri="sqlite:///ray_mlflow.db", experiment_name="ray")],
            verbose=0,
        ),
    ).fit()


if __name__ == "__main__":
    main()
