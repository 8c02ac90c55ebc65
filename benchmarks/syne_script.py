"""The same students searched with Syne Tune's MO-ASHA and the Python backend.

It is as its documentation has it but for the priority of trials, which is mended (``front_ranks``).
Run by ``benchmarks/against_tuners.py``. A trial is a process with one thread, as many run at a time as there are cores.
The tuner looks for news every half second, as in Syne Tune's example of MO-ASHA (5 s by default), and nothing is logged
to MLflow, for which Syne Tune has no callback.
"""

from __future__ import annotations

import logging

import numpy as np
from front_ranks import front_ranks
from syne_tune import StoppingCriterion, Tuner
from syne_tune.backend import PythonBackend
from syne_tune.config_space import lograndint, loguniform, uniform
from syne_tune.optimizer.schedulers.multiobjective.moasha import MOASHA
from usual_script import search_arguments


def train(
    space: str,
    teacher: str,
    epochs: int,
    results: str,
    width: int,
    temperature: float,
    alpha: float,
    learning_rate: float,
) -> None:
    """A trial, in a process of its own: the backend wants every import inside."""
    import math
    from pathlib import Path

    import torch
    from syne_tune import Reporter
    from usual_script import EachEpoch, be_quiet, train_student

    be_quiet()
    torch.set_num_threads(1)
    reporter = Reporter()
    params = {"width": width, "temperature": temperature, "alpha": alpha, "learning_rate": learning_rate}

    def report(metrics: dict[str, float]) -> None:
        # The logarithm, for trials of a front are spread by distances between their objectives as they are.
        reporter(error=1 - metrics["accuracy"], size=math.log10(metrics["parameters"]), **metrics)

    callbacks = [EachEpoch(Path(results), report=report)]
    train_student(
        space, Path(teacher), params, epochs=epochs, callbacks=callbacks, logger=False, enable_checkpointing=False
    )


def main() -> None:
    """Search."""
    parser = search_arguments()
    parser.add_argument("--workers", type=int, required=True, help="trials at a time")
    asked = parser.parse_args()
    logging.getLogger("syne_tune").setLevel(logging.WARNING)
    np.random.seed(asked.seed)  # what MO-ASHA draws configurations with
    config_space = {
        "space": asked.space,
        "teacher": str(asked.teacher.resolve()),
        "epochs": asked.epochs,
        "results": str(asked.results.resolve()),
        "width": lograndint(*asked.widths),
        "temperature": loguniform(1, 20),
        "alpha": uniform(0, 1),
        "learning_rate": loguniform(1e-3, 3e-2),
    }
    Tuner(
        trial_backend=PythonBackend(tune_function=train, config_space=config_space),
        scheduler=MOASHA(
            config_space,
            metrics=["error", "size"],
            time_attr="epoch",
            multiobjective_priority=front_ranks,
            max_t=asked.epochs,
            random_seed=asked.seed,
        ),
        stop_criterion=StoppingCriterion(max_num_trials_started=asked.trials),
        n_workers=asked.workers,
        sleep_time=0.5,
        wait_trial_completion_when_stopping=True,
    ).run()


if __name__ == "__main__":
    main()
