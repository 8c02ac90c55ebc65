"""Controls: what each student on the front reaches on labels alone. A gain of distillation is a gain over its control.

A control is the same student with the same initial weights, the same order of the data, schedule and epochs; only the
teacher is left out of its loss. So it costs what its student costs, and its metrics have the same names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optuna.trial import TrialState

from harness.settings import Settings
from harness.space import METHOD, Configuration, SearchSpace
from harness.studies.study import Study
from harness.trials.retraining import Retraining
from harness.trials.trial import seed_of

LABELS_ALONE = {"alpha": 1.0, "temperature": 1.0}
"""Distillation in name only: all weight on the labels. The temperature has no say in it."""

_FOLDER = "controls"


def name_of(number: int) -> str:
    """The control of a trial, by name."""
    return f"{_FOLDER}/{number}"


def is_own_control(params: Mapping[str, Any]) -> bool:
    """Whether a trial was trained on labels alone itself: ``alpha`` is the loss's in every space (``LOSS_NAMES``)."""
    return params.get("alpha") == 1.0


def control_of(params: Mapping[str, Any], space: SearchSpace) -> Configuration:
    """A configuration with labels alone in place of its distillation."""
    return Configuration(
        student={name: params[name] for name in space.student},
        distillation=dict(LABELS_ALONE),
        training={name: params[name] for name in space.training},
    )


def names_of_control(space: SearchSpace) -> dict[str, str]:
    """What the run of a control has beside its configuration, for it to have the names that the runs of trials have."""
    return {METHOD: "labels alone"} if METHOD in space.distributions else {}


def due(study: Study) -> list[int]:
    """Numbers of the trials on the front whose controls have not been trained."""
    if study.no_control:
        return []
    known, params = study.retrained(), {trial.number: trial.params for trial in study.trials()}
    return [n for n in study.front() if name_of(n) not in known and not is_own_control(params[n])]


def controls(study: Study, settings: Settings, space: SearchSpace) -> list[Retraining]:
    """The controls that are due, to be trained.

    Args:
        study: The study, whose trials are over.
        settings: Their seed.
        space: What varied.
    """
    params = {trial.number: trial.params for trial in study.trials()}
    return [
        Retraining(
            name=name_of(number),
            title=f"control of trial {number}",
            configuration=control_of(params[number], space),
            seed=seed_of(settings, number),
            order_seed=settings.seed,
            tags={"kd.role": "control", "kd.control_of": str(number)},
            names=names_of_control(space),
        )
        for number in due(study)
    ]


def failed(study: Study) -> dict[int, str]:
    """Why the controls failed that did, by number of the trial."""
    results = {name.partition("/"): result for name, result in study.retrained().items() if "reason" in result}
    return {int(number): result["reason"] for (folder, _, number), result in results.items() if folder == _FOLDER}


def known(study: Study) -> dict[int, dict[str, float]]:
    """The metrics of each control that was trained, and of the trials that are their own, by number of the trial."""
    if study.no_control:
        return {}
    found = {
        trial.number: trial.user_attrs["metrics"]
        for trial in study.trials()
        if trial.state == TrialState.COMPLETE and is_own_control(trial.params)
    }
    for name, result in study.retrained().items():
        folder, _, number = name.partition("/")
        if folder == _FOLDER and "metrics" in result:
            found[int(number)] = result["metrics"]
    return found
