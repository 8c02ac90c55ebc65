"""Train controls, students on labels alone: the gain of distillation is the gain over a control.

- The **plain** control of a trial on the front is the same student with the same initial weights, order of the data,
  hyperparameters, schedule and epochs; only the teacher's term is left out of the loss.
- The **tuned** control of a pick is the best of several trainings on labels alone at its architecture, each with
  training settings of its own: the search chose the learning rate for distillation, and labels alone may need another.
  It has as many tries as the architecture had trials, at least ``MIN_TRIES``, and is chosen by the primary metric on
  the validation split like the pick: the best of n on one split is optimistically biased, on both sides alike.

Existing trainings count as tries: trials on labels alone (alpha = 1), and the plain controls of that architecture. The
other tries take their settings from a scrambled Sobol sequence over the ranges of the space's ``training`` group,
seeded by (study seed, architecture), so that further tries continue the sequence; and their initial weights from the
architecture's trials in order. So picks of one architecture share one tuned control, and both sides are chosen among
the same initial weights.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState
from scipy.stats.qmc import Sobol

from harness.core.content import derived_seed, digest
from harness.sampling.candidates import from_unit_interval
from harness.screen.formatting import duration_text
from harness.settings import Settings
from harness.space import METHOD, Configuration, SearchSpace, is_own_control
from harness.studies.study import Study
from harness.trials.retraining import Retraining
from harness.trials.trial import TrainingSpec, seed_of

MIN_TRIES = 5
"""Minimum number of tries of a tuned control."""

PLAIN, TUNED = "plain", "tuned"
_FOLDER, _TRIES_FOLDER = "controls", "tuned"


def plain_control_name(number: int) -> str:
    """Return the name of a trial's plain control."""
    return f"{_FOLDER}/{number}"


def control_configuration(
    params: Mapping[str, Any], space: SearchSpace, training: Mapping[str, Any] | None = None
) -> Configuration:
    """Return a configuration with labels alone in place of its distillation.

    Args:
        params: Parameters of the configuration.
        space: Its space.
        training: Training settings; ``None`` takes those of the configuration.
    """
    own = space.configuration(params)
    return space.labels_alone(own if training is None else replace(own, training=dict(training)))


def control_params(space: SearchSpace) -> dict[str, str]:
    """Return the parameters that a control's run needs to have the same names as the runs of trials."""
    return {METHOD: "labels alone"} if METHOD in space.distributions else {}


@dataclass(frozen=True)
class TuningTry:
    """A training on labels alone at some architecture.

    Attributes:
        name: Name of the trial ("trial 3"), the plain control or the try.
        training: Training settings by name.
        metrics: Final metrics; ``None`` if it failed.
    """

    name: str
    training: Mapping[str, Any]
    metrics: Mapping[str, float] | None


@dataclass(frozen=True)
class TunedControl:
    """The best try at the architecture of a trial.

    Attributes:
        chosen: The best try.
        tries: Number of tries that it was chosen from, failed ones included.
        is_plain: Whether it has the trial's own training settings, as the plain control has.
    """

    chosen: TuningTry
    tries: int
    is_plain: bool


def untrained_controls(
    study: Study, settings: Settings, space: SearchSpace, picks: Iterable[int], *, of: Iterable[int] | None = None
) -> list[Retraining]:
    """Return the controls without a result: first the plain ones, then the tries of the tuned ones.

    Args:
        study: The study, whose trials are over.
        settings: The seed, and the kind of controls.
        space: The search space.
        picks: Numbers of the trials that get a tuned control.
        of: Numbers of the trials that get a plain one; ``None`` takes all on the front.
    """
    if study.no_control or settings.controls == "none":
        return []
    trials, known = {trial.number: trial for trial in study.trials()}, study.retrained()
    plain = [n for n in (study.front() if of is None else of) if not is_own_control(trials[n].params)]
    found = [
        Retraining(
            name=plain_control_name(number),
            title=f"control of trial {number}",
            spec=TrainingSpec(
                configuration=control_configuration(trials[number].params, space),
                seed=seed_of(settings, number),
                order_seed=settings.seed,
            ),
            tags={"kd.role": "control", "kd.control": PLAIN, "kd.control_of": str(number)},
            extra_params=control_params(space),
        )
        for number in plain
        if plain_control_name(number) not in known
    ]
    if settings.controls == TUNED and study.tuned_parameters:
        distilled = [number for number in picks if not is_own_control(trials[number].params)]
        found += [each for each in _tries(study, settings, space, distilled, plain) if each.name not in known]
    return found


def _tries(
    study: Study, settings: Settings, space: SearchSpace, picks: Sequence[int], plain: Sequence[int]
) -> list[Retraining]:
    """Return the tries that are drawn for the tuned controls of some picks."""
    trials = {trial.number: trial for trial in study.trials()}
    plain_controls = {plain_control_name(number) for number in plain} | study.retrained().keys()
    by_architecture: dict[str, list[int]] = {}
    for number in picks:
        by_architecture.setdefault(_architecture(trials[number].params, study), []).append(number)
    found = []
    for key, numbers in by_architecture.items():
        finished = [trial for trial in trials.values() if trial.state.is_finished()]
        alike = [trial.number for trial in finished if _architecture(trial.params, study) == key]
        existing = sum(plain_control_name(n) in plain_controls or _is_try(trials[n]) for n in alike)
        count = max(MIN_TRIES, len(alike)) - existing
        seeds = [seed_of(settings, n) for n in alike]
        seeds += [derived_seed(settings.seed, "tuned", key, index) for index in range(len(seeds), count)]
        of = ", ".join(map(str, numbers))
        for index, training in enumerate(_draw_settings(count, settings, space, key)):
            found.append(
                Retraining(
                    name=f"{_TRIES_FOLDER}/{key}/{index}",
                    title=f"try {index + 1} of the tuned control of trial {of}",
                    spec=TrainingSpec(
                        configuration=control_configuration(trials[numbers[0]].params, space, training),
                        seed=seeds[index],
                        order_seed=settings.seed,
                    ),
                    tags={
                        "kd.role": "control",
                        "kd.control": TUNED,
                        "kd.control_of": of,
                        "kd.try": str(index + 1),
                    },
                    facts={"training": training},
                    extra_params=control_params(space),
                )
            )
    return found


def _draw_settings(count: int, settings: Settings, space: SearchSpace, key: str) -> list[dict[str, Any]]:
    """Return the first ``count`` training settings of an architecture's Sobol sequence."""
    if count <= 0:
        return []
    sequence = Sobol(len(space.training), rng=np.random.default_rng(derived_seed(settings.seed, "tuned", key)))
    points = sequence.random_base2(math.ceil(math.log2(count)))[:count]
    columns = {}
    for (name, distribution), column in zip(space.training.items(), points.T, strict=True):
        values = from_unit_interval(distribution, column)
        columns[name] = [distribution.to_external_repr(float(value)) for value in values]
    return [{name: values[index] for name, values in columns.items()} for index in range(count)]


def _architecture(params: Mapping[str, Any], study: Study) -> str:
    """Return a key for the architecture of a trial's student, and what it starts from: its controls start alike."""
    names = [*study.groups["student"], *study.groups.get("initial", ())]
    return digest("architecture", {name: params.get(name) for name in names})


def _is_try(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.COMPLETE and is_own_control(trial.params)


def failed_plain_controls(study: Study) -> dict[int, str]:
    """Return why plain controls failed, by the trial's number."""
    results = {name.partition("/"): result for name, result in study.retrained().items() if "reason" in result}
    return {int(number): result["reason"] for (folder, _, number), result in results.items() if folder == _FOLDER}


def plain_control_metrics(study: Study) -> dict[int, dict[str, float]]:
    """Return the metrics of each trained plain control, and of trials on labels alone, by the trial's number."""
    if study.no_control:
        return {}
    found = {trial.number: trial.user_attrs["metrics"] for trial in study.trials() if _is_try(trial)}
    for name, result in study.retrained().items():
        folder, _, number = name.partition("/")
        if folder == _FOLDER and "metrics" in result:
            found[int(number)] = result["metrics"]
    return found


def tuned_controls(study: Study) -> dict[int, TunedControl]:
    """Return the tuned control of each trial whose architecture has all its tries, by the trial's number."""
    if study.no_control or not study.tuned_parameters:
        return {}
    tries, trials = _known_tries(study), [trial for trial in study.trials() if trial.state.is_finished()]
    wanted = Counter(_architecture(trial.params, study) for trial in trials)
    found = {}
    for trial in trials:
        key = _architecture(trial.params, study)
        trained = [each for each in tries.get(key, ()) if each.metrics is not None]
        if trial.state != TrialState.COMPLETE or is_own_control(trial.params):
            continue
        if trained and len(tries[key]) >= max(MIN_TRIES, wanted[key]):
            best = max(trained, key=lambda each: study.primary_sign * (each.metrics or {})[study.primary])
            is_plain = dict(best.training) == _training(trial.params, study)
            found[trial.number] = TunedControl(best, len(tries[key]), is_plain)
    return found


def _known_tries(study: Study) -> dict[str, list[TuningTry]]:
    """Return every finished training on labels alone by architecture, in an order that decides between equal ones."""
    trials = {trial.number: trial for trial in study.trials()}
    found: dict[str, list[TuningTry]] = {}

    def add(key: str, name: str, training: Mapping[str, Any], metrics: Mapping[str, float] | None) -> None:
        found.setdefault(key, []).append(TuningTry(name, training, metrics))

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


def describe_controls(left: Sequence[Retraining], study: Study, workers: int) -> str:
    """Describe how many controls are to be trained, and estimate the time from the trials' times.

    Args:
        left: The controls.
        study: The study.
        workers: Number of controls that are trained at a time.
    """
    by_key: dict[str, list[float]] = {}
    for trial in study.trials():
        if trial.state == TrialState.COMPLETE and trial.datetime_start and trial.datetime_complete:
            took_s = (trial.datetime_complete - trial.datetime_start).total_seconds()
            by_key.setdefault(_architecture(trial.params, study), []).append(took_s)
    usual_s = median([took_s for each in by_key.values() for took_s in each])
    keys = [_architecture(control.spec.configuration.params(), study) for control in left]
    total_s = sum(median(by_key.get(key, [usual_s])) for key in keys) / max(1, min(workers, len(left)))
    tries = sum(control.tags["kd.control"] == TUNED for control in left)
    plain = len(left) - tries
    parts = [f"{plain} plain, of the students on the front"] if plain else []
    parts += [f"{tries} tries of training settings for the tuned ones of the picks"] if tries else []
    about = f"about {duration_text(total_s)} by the trials' times"
    return f"{len(left)} trainings on labels alone: {' and '.join(parts)}; {about}"
