"""Controls: what students reach on labels alone. A gain of distillation is a gain over a control.

- The **plain** control of a trial on the front is the same student with the same initial weights, order of the data,
  hyperparameters, schedule and epochs; only the teacher is left out of its loss.
- The **tuned** control of a pick is the best of several trainings on labels alone at its architecture, each with
  settings of its own: the search has chosen the learning rate for distillation, and labels alone may want another. It
  has as many tries as the architecture had trials, at least ``LEAST_TRIES``, and is chosen on the validation split by
  the primary metric, as the pick was: the best of n on one split is optimistically biased, on both sides alike.

Tries that are there count: trials on labels alone (alpha = 1), and the plain controls of that architecture. The others
take their settings from a scrambled Sobol sequence over the ranges of the space's ``training`` group, seeded by (study
seed, architecture), so that more tries go on where the earlier ones ended; and their initial weights from the
architecture's trials, one after the other. So picks of one architecture share one tuned control, and both sides have
chosen among the same initial weights.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState
from scipy.stats.qmc import Sobol

from harness.core.content import derived_seed, digest
from harness.sampling.candidates import values_at
from harness.screen.formatting import duration_text
from harness.settings import Settings
from harness.space import METHOD, Configuration, SearchSpace
from harness.studies.study import Study
from harness.trials.retraining import Retraining
from harness.trials.trial import StudentJob, seed_of

LABELS_ALONE = {"alpha": 1.0, "temperature": 1.0}
"""Distillation in name only: all weight on the labels. The temperature has no say in it."""

LEAST_TRIES = 5
"""Of a tuned control, where its architecture had fewer trials."""

PLAIN, TUNED = "plain", "tuned"
_FOLDER, _TRIES_FOLDER = "controls", "tuned"


def name_of(number: int) -> str:
    """Return the name of a trial's plain control."""
    return f"{_FOLDER}/{number}"


def is_own_control(params: Mapping[str, Any]) -> bool:
    """Whether a trial was trained on labels alone itself: ``alpha`` is the loss's in every space (``LOSS_NAMES``)."""
    return params.get("alpha") == 1.0


def control_of(
    params: Mapping[str, Any], space: SearchSpace, training: Mapping[str, Any] | None = None
) -> Configuration:
    """Return a configuration with labels alone in place of its distillation.

    Args:
        params: The configuration.
        space: Its space.
        training: Settings of the training; ``None`` takes those of the configuration.
    """
    training = {name: params[name] for name in space.training} if training is None else training
    return Configuration(
        student={name: params[name] for name in space.student},
        distillation=dict(LABELS_ALONE),
        training=dict(training),
    )


def names_of_control(space: SearchSpace) -> dict[str, str]:
    """What the run of a control has beside its configuration, for it to have the names that the runs of trials have."""
    return {METHOD: "labels alone"} if METHOD in space.distributions else {}


@dataclass(frozen=True)
class Try:
    """A training on labels alone at some architecture.

    Attributes:
        name: Of the trial ("trial 3"), of the plain control or of the try.
        training: Settings of the training, by name.
        metrics: What came of it; ``None`` if it failed.
    """

    name: str
    training: Mapping[str, Any]
    metrics: Mapping[str, float] | None


@dataclass(frozen=True)
class TunedControl:
    """The best of the tries at the architecture of a trial.

    Attributes:
        chosen: The best try.
        tries: How many it was chosen from, those that failed included.
        is_plain: Whether it is trained with the very settings of the trial, as its plain control is.
    """

    chosen: Try
    tries: int
    is_plain: bool


def controls(
    study: Study, settings: Settings, space: SearchSpace, picks: Iterable[int], *, of: Iterable[int] | None = None
) -> list[Retraining]:
    """Return the controls that have not been trained yet: the plain ones first, then the tries of the tuned ones.

    Args:
        study: The study, whose trials are over.
        settings: Their seed, and which controls are wanted.
        space: What varied.
        picks: Numbers of the trials that get a tuned control.
        of: Numbers of those that get a plain one; ``None`` takes all on the front.
    """
    if study.no_control or settings.controls == "none":
        return []
    trials, known = {trial.number: trial for trial in study.trials()}, study.retrained()
    plain = [n for n in (study.front() if of is None else of) if not is_own_control(trials[n].params)]
    found = [
        Retraining(
            name=name_of(number),
            title=f"control of trial {number}",
            job=StudentJob(
                configuration=control_of(trials[number].params, space),
                seed=seed_of(settings, number),
                order_seed=settings.seed,
            ),
            tags={"kd.role": "control", "kd.control": PLAIN, "kd.control_of": str(number)},
            names=names_of_control(space),
        )
        for number in plain
        if name_of(number) not in known
    ]
    if settings.controls == TUNED and study.tuned_parameters:
        taught = [number for number in picks if not is_own_control(trials[number].params)]
        found += [one for one in _tries(study, settings, space, taught, plain) if one.name not in known]
    return found


def _tries(
    study: Study, settings: Settings, space: SearchSpace, picks: Sequence[int], plain: Sequence[int]
) -> list[Retraining]:
    """Return every try that is drawn for the tuned controls of some picks."""
    trials = {trial.number: trial for trial in study.trials()}
    there = {name_of(number) for number in plain} | study.retrained().keys()
    by_architecture: dict[str, list[int]] = {}
    for number in picks:
        by_architecture.setdefault(_architecture(trials[number].params, study), []).append(number)
    found = []
    for key, numbers in by_architecture.items():
        over = [trial for trial in trials.values() if trial.state.is_finished()]
        alike = [trial.number for trial in over if _architecture(trial.params, study) == key]
        counted = sum(name_of(n) in there or _is_try(trials[n]) for n in alike)
        drawn = max(LEAST_TRIES, len(alike)) - counted
        seeds = [seed_of(settings, n) for n in alike]
        seeds += [derived_seed(settings.seed, "tuned", key, place) for place in range(len(seeds), drawn)]
        of = ", ".join(map(str, numbers))
        for place, training in enumerate(_drawn(drawn, settings, space, key)):
            found.append(
                Retraining(
                    name=f"{_TRIES_FOLDER}/{key}/{place}",
                    title=f"try {place + 1} of the tuned control of trial {of}",
                    job=StudentJob(
                        configuration=control_of(trials[numbers[0]].params, space, training),
                        seed=seeds[place],
                        order_seed=settings.seed,
                    ),
                    tags={
                        "kd.role": "control",
                        "kd.control": TUNED,
                        "kd.control_of": of,
                        "kd.try": str(place + 1),
                    },
                    facts={"training": training},
                    names=names_of_control(space),
                )
            )
    return found


def _drawn(count: int, settings: Settings, space: SearchSpace, key: str) -> list[dict[str, Any]]:
    """Return the first settings of an architecture's sequence; of more, these are the first again."""
    if count <= 0:
        return []
    sequence = Sobol(len(space.training), rng=np.random.default_rng(derived_seed(settings.seed, "tuned", key)))
    shares = sequence.random_base2(math.ceil(math.log2(count)))[:count]
    columns = {
        name: [distribution.to_external_repr(float(value)) for value in values_at(distribution, shares[:, axis])]
        for axis, (name, distribution) in enumerate(space.training.items())
    }
    return [{name: values[place] for name, values in columns.items()} for place in range(count)]


def _architecture(params: Mapping[str, Any], study: Study) -> str:
    """Return a name for what a trial's student is, whatever it was trained for."""
    return digest("architecture", {name: params.get(name) for name in study.groups["student"]})


def _is_try(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.COMPLETE and is_own_control(trial.params)


def failed(study: Study) -> dict[int, str]:
    """Return why the plain controls failed that did, by number of the trial."""
    results = {name.partition("/"): result for name, result in study.retrained().items() if "reason" in result}
    return {int(number): result["reason"] for (folder, _, number), result in results.items() if folder == _FOLDER}


def known(study: Study) -> dict[int, dict[str, float]]:
    """The metrics of each plain control that was trained, and of trials that are their own, by the trial's number."""
    if study.no_control:
        return {}
    found = {trial.number: trial.user_attrs["metrics"] for trial in study.trials() if _is_try(trial)}
    for name, result in study.retrained().items():
        folder, _, number = name.partition("/")
        if folder == _FOLDER and "metrics" in result:
            found[int(number)] = result["metrics"]
    return found


def tuned(study: Study) -> dict[int, TunedControl]:
    """Return the tuned control of each trial whose architecture has all the tries that it should have, by number."""
    if study.no_control or not study.tuned_parameters:
        return {}
    tries, trials = _known_tries(study), [trial for trial in study.trials() if trial.state.is_finished()]
    wanted = Counter(_architecture(trial.params, study) for trial in trials)
    found = {}
    for trial in trials:
        key = _architecture(trial.params, study)
        good = [one for one in tries.get(key, ()) if one.metrics is not None]
        if trial.state != TrialState.COMPLETE or is_own_control(trial.params):
            continue
        if good and len(tries[key]) >= max(LEAST_TRIES, wanted[key]):
            best = max(good, key=lambda one: study.primary_sign * (one.metrics or {})[study.primary])
            is_plain = dict(best.training) == _training(trial.params, study)
            found[trial.number] = TunedControl(best, len(tries[key]), is_plain)
    return found


def _known_tries(study: Study) -> dict[str, list[Try]]:
    """Return every training on labels alone that is over, by architecture: of those alike, the first is chosen."""
    trials = {trial.number: trial for trial in study.trials()}
    found: dict[str, list[Try]] = {}

    def add(key: str, name: str, training: Mapping[str, Any], metrics: Mapping[str, float] | None) -> None:
        found.setdefault(key, []).append(Try(name, training, metrics))

    for number, trial in trials.items():
        if _is_try(trial):
            key = _architecture(trial.params, study)
            add(key, f"trial {number}", _training(trial.params, study), trial.user_attrs["metrics"])
    for name, result in sorted(study.retrained().items()):
        folder, *rest = name.split("/")
        if folder == _FOLDER:
            params = trials[int(rest[0])].params
            add(_architecture(params, study), name, _training(params, study), result.get("metrics"))
        elif folder == _TRIES_FOLDER:
            add(rest[0], name, result["training"], result.get("metrics"))
    return found


def _training(params: Mapping[str, Any], study: Study) -> dict[str, Any]:
    return {name: params[name] for name in study.groups["training"]}


def announcement(left: Sequence[Retraining], study: Study, workers: int) -> str:
    """Say how many controls are to be trained, and how long that may take, by the times of the trials.

    Args:
        left: The controls.
        study: The study.
        workers: How many are trained at a time.
    """
    by_key: dict[str, list[float]] = {}
    for trial in study.trials():
        if trial.state == TrialState.COMPLETE and trial.datetime_start and trial.datetime_complete:
            took_s = (trial.datetime_complete - trial.datetime_start).total_seconds()
            by_key.setdefault(_architecture(trial.params, study), []).append(took_s)
    usual_s = median([took_s for each in by_key.values() for took_s in each])
    keys = [_architecture(one.job.configuration.params(), study) for one in left]
    total_s = sum(median(by_key.get(key, [usual_s])) for key in keys) / max(1, min(workers, len(left)))
    tries = sum(one.tags["kd.control"] == TUNED for one in left)
    plain = len(left) - tries
    parts = [f"{plain} plain, of the students on the front"] if plain else []
    parts += [f"{tries} tries of training settings for the tuned ones of the picks"] if tries else []
    about = f"about {duration_text(total_s)} by the trials' times"
    return f"{len(left)} trainings on labels alone: {' and '.join(parts)}; {about}"
