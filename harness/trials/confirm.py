"""Whether the picks are worth what they seem: trained anew with fresh seeds, beside their controls, on the test split.

The search has chosen by the validation split, with one seed each, so what it has found flatters itself. Here each pick
and its controls are trained with seeds that no trial had, and scored on samples that nobody has looked at. Student and
controls of one seed have the same initial weights, the same order of the data and the same draws: the gain is paired.
It is the gain over the tuned control (``harness.trials.controls``), whose settings were chosen by the validation split
too, or over the plain one as long as there is no other.
A seed that fails is part of what came out: as long as a pair lacks one that failed, no gain is claimed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t as students_t

from harness.core.content import derived_seed, digest
from harness.screen.formatting import configuration_text
from harness.settings import Settings
from harness.space import SearchSpace
from harness.studies.study import Study
from harness.trials.controls import (
    PLAIN,
    TUNED,
    TunedControl,
    control_of,
    is_own_control,
    names_of_control,
    tuned,
)
from harness.trials.retraining import Retraining
from harness.trials.trial import StudentJob

SPLIT = "test"
CONFIDENCE = 0.95
FEW_SEEDS = 3
"""Of fewer an interval is so wide that it says little."""
_FOLDER = "confirm"
_STUDENT, _CONTROL, _TUNED = "student", "control", "tuned"


def confirmations(
    study: Study, settings: Settings, space: SearchSpace, picks: Mapping[int, str], seeds: int
) -> list[Retraining]:
    """Return what has to be trained yet, seed by seed.

    Args:
        study: The study.
        settings: Its seed, and which controls are wanted.
        space: What varied.
        picks: What each trial is picked as, by its number.
        seeds: Fresh seeds for each.
    """
    params, known = {trial.number: trial.params for trial in study.trials()}, study.retrained()
    best = tuned(study) if settings.controls == TUNED else {}
    found = []
    for place in range(seeds):
        seed = derived_seed(settings.seed, _FOLDER, place)
        for number, pick in picks.items():
            configurations = {_STUDENT: space.configuration(params[number])}
            if not is_own_control(params[number]) and not study.no_control:
                configurations[_CONTROL] = control_of(params[number], space)
                if number in best and not best[number].is_plain:  # else it would be the same training
                    training = best[number].chosen.training
                    configurations[_tuned_arm(training)] = control_of(params[number], space, training)
            for arm, configuration in configurations.items():
                name = f"{_FOLDER}/{number}/{arm}-{place}"
                if name in known:
                    continue
                found.append(
                    Retraining(
                        name=name,
                        title=f"{_called(arm)} of trial {number}, fresh seed {place + 1}",
                        job=StudentJob(configuration=configuration, seed=seed, order_seed=seed, split=SPLIT),
                        tags={
                            "kd.role": "confirm",
                            "kd.confirm_of": str(number),
                            "kd.pick": pick,
                            "kd.arm": _called(arm),
                            "kd.seed_index": str(place),
                        },
                        facts={"pick": pick},
                        names={} if arm == _STUDENT else names_of_control(space),
                    )
                )
    return found


def _tuned_arm(training: Mapping[str, Any]) -> str:
    """Return the arm of a tuned control: other settings, chosen after more trials, are another arm."""
    return f"{_TUNED}.{digest('training', dict(training))}"


def _called(arm: str) -> str:
    return "tuned control" if arm.startswith(_TUNED) else arm


@dataclass(frozen=True)
class Interval:
    """A mean over seeds and where it may lie.

    Attributes:
        mean: The mean.
        low: Lower end of its 95 % interval by Student's t.
        high: Upper end.
    """

    mean: float
    low: float
    high: float


def interval(values: Sequence[float]) -> Interval:
    """Return the mean of at least two values with its 95 % interval by Student's t, which takes them for normal."""
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1)) / len(values) ** 0.5
    reach = float(students_t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * error
    return Interval(mean, mean - reach, mean + reach)


@dataclass(frozen=True)
class Failures:
    """Seeds of one arm that failed by their own doing.

    Attributes:
        seeds: How many have been trained, well or badly.
        reasons: Why each of those failed that did.
    """

    seeds: int = 0
    reasons: tuple[str, ...] = ()

    def __str__(self) -> str:
        told = [reason if count == 1 else f"{reason}, {count} times" for reason, count in Counter(self.reasons).items()]
        return f"{len(self.reasons)} of {self.seeds} seeds failed ({'; '.join(told)})"


@dataclass(frozen=True, kw_only=True)
class Confirmation:
    """What a pick and its controls reach on the test split, over fresh seeds.

    Attributes:
        number: The trial.
        pick: What it was picked as when it was confirmed.
        alone: Whether the student is trained on labels alone itself, and has no control.
        seeds: How many of them are paired.
        student: The primary metric of the student; ``None`` where failures have left fewer than two pairs.
        control: That of the plain control; ``None`` then too, and where there is none.
        tuned: That of the tuned control; ``None`` then too, and where it was not trained.
        tuned_training: Settings of the tuned control's training.
        gain: How much better the student is than the control that ``gain_over`` names, pair by pair, above 0 where it
            is, whatever the metric's direction.
        gain_over: ``"tuned"``, ``"plain"``, or empty where there is no control.
        no_control: Whether no control is fair, for samples are mixed without their targets.
        student_failures: Seeds of the student that failed.
        control_failures: Those of the plain control.
        tuned_failures: Those of the tuned control.
    """

    number: int
    pick: str
    alone: bool
    seeds: int
    student: Interval | None
    control: Interval | None
    tuned: Interval | None = None
    tuned_training: Mapping[str, Any] = field(default_factory=dict)
    gain: Interval | None
    gain_over: str = ""
    no_control: bool = False
    student_failures: Failures = field(default_factory=Failures)
    control_failures: Failures = field(default_factory=Failures)
    tuned_failures: Failures = field(default_factory=Failures)

    @property
    def failures(self) -> list[str]:
        """Return what failed, of each arm of which a seed did, in words."""
        arms = {"": self.student_failures, "of its control, ": self.control_failures}
        arms["of its tuned control, "] = self.tuned_failures
        return [f"{whose}{found}" for whose, found in arms.items() if found.reasons]

    @property
    def verdict(self) -> str:
        """``gain``, ``no gain`` where the interval holds zero, or ``loss``; ``unproven`` where seeds failed.

        Those that are left are not a fair choice of all: a student that fails on the hard seeds would gain by it.
        """
        if self.alone:
            return "labels alone"
        if self.no_control:
            return "no control possible"
        if self.gain is None or self.failures:
            return "unproven"
        if self.gain.low > 0:
            return "gain"
        return "loss" if self.gain.high < 0 else "no gain"

    def sentence(self, primary: str, picked: Mapping[int, str]) -> str:
        """Return what came out, in words.

        Args:
            primary: Name of the metric.
            picked: What each trial is picked as today, by its number.
        """
        who = f"{picked.get(self.number, f'formerly {self.pick}')} (trial {self.number})"
        if self.student is None:
            return f"{who}: {', '.join(self.failures)}; too few are left for a mean: {self.verdict}."
        student = f"{who}: {primary} {_shown(self.student)} over {self.seeds} seeds"
        beside = "".join(f"; {one}" for one in self.failures)
        if self.no_control:
            return f"{student}{beside}; no control possible."
        if self.gain is None or self.control is None:
            return f"{student}{beside}; it is trained on labels alone, so there is nothing to gain over."
        told = "".join(f"{one}, " for one in self.failures)
        return (
            f"{student}, its plain control {_shown(self.control)}{self._tuned_text()}; paired difference from the "
            f"{self.gain_over} one {self.gain.mean:+.4f} [{self.gain.low:+.4f}, {self.gain.high:+.4f}]"
            f"{f'; {told}so it is ' if told else ': '}{self.verdict}."
        )

    def _tuned_text(self) -> str:
        if self.tuned is None:
            return ""
        return f", its tuned control {_shown(self.tuned)} ({configuration_text(dict(self.tuned_training))})"


def _shown(found: Interval) -> str:
    return f"{found.mean:.4f} [{found.low:.4f}, {found.high:.4f}]"


def confirmed(study: Study) -> list[Confirmation]:
    """Return what has been confirmed so far, by trial: of two pairs at least, or with a seed that failed."""
    by_trial: dict[int, dict[str, dict[int, float]]] = {}
    best = tuned(study)
    reasons: dict[tuple[int, str], list[str]] = {}
    picks: dict[int, str] = {}
    for name, result in sorted(study.retrained().items()):
        if not name.startswith(f"{_FOLDER}/"):
            continue
        _, trial, run = name.split("/")
        arm, _, place = run.partition("-")
        arms = by_trial.setdefault(int(trial), {_STUDENT: {}, _CONTROL: {}})
        arms.setdefault(arm, {})
        picks[int(trial)] = result["pick"]
        if "metrics" in result:
            arms[arm][int(place)] = result["metrics"][f"{SPLIT}/{study.primary}"]
        else:
            reasons.setdefault((int(trial), arm), []).append(result["reason"])
    params: dict[int, Mapping[str, Any]] = {trial.number: trial.params for trial in study.trials()}
    found = []
    for number, arms in sorted(by_trial.items()):
        alone, no_control = is_own_control(params[number]), bool(study.no_control)
        tuned_arm = _arm_of(best.get(number), arms)
        over = {} if alone or no_control else {PLAIN: _CONTROL}
        if over and tuned_arm is not None:
            over[TUNED] = tuned_arm
        paired = sorted(set(arms[_STUDENT]).intersection(*(arms[arm] for arm in over.values())))
        failures = {
            arm: Failures(len(arms[arm]) + len(why), why)
            for arm in {_STUDENT, *over.values()}
            if (why := tuple(reasons.get((number, arm), ())))
        }
        enough = len(paired) >= 2
        if not enough and not failures:
            continue
        scores = {arm: [arms[arm][seed] for seed in paired] if enough else [] for arm in (_STUDENT, *over.values())}
        means = {arm: interval(values) for arm, values in scores.items() if values}
        gain_over = next(reversed(over), "")
        pairs = zip(scores[_STUDENT], scores.get(over.get(gain_over, ""), []), strict=False)
        gains = [study.primary_sign * (ours - theirs) for ours, theirs in pairs]
        found.append(
            Confirmation(
                number=number,
                pick=picks[number],
                alone=alone,
                no_control=no_control,
                seeds=len(paired),
                student=means.get(_STUDENT),
                control=means.get(_CONTROL),
                tuned=None if tuned_arm is None else means.get(tuned_arm),
                tuned_training=best[number].chosen.training if tuned_arm is not None else {},
                gain=interval(gains) if gains else None,
                gain_over=gain_over,
                student_failures=failures.get(_STUDENT, Failures()),
                control_failures=failures.get(_CONTROL, Failures()),
                tuned_failures=failures.get(tuned_arm or "", Failures()) if tuned_arm != _CONTROL else Failures(),
            )
        )
    return found


def _arm_of(best: TunedControl | None, arms: Mapping[str, Any]) -> str | None:
    """Return the arm that is the tuned control as it is chosen today; ``None`` if it was not trained."""
    if best is None:
        return None
    arm = _CONTROL if best.is_plain else _tuned_arm(best.chosen.training)
    return arm if arm in arms else None


def confirmed_table(confirmations: Sequence[Confirmation], picked: Mapping[int, str]) -> pd.DataFrame:
    """One row for each: ``trial``, ``pick``, ``seeds``, means with ``_low`` and ``_high``, ``gain_over``, ``verdict``.

    ``pick`` is what a trial was picked as when it was confirmed, ``picked`` what it is today, empty if nothing;
    ``student_failed``, ``control_failed`` and ``tuned_failed`` count seeds.

    Args:
        confirmations: What has been confirmed.
        picked: What each trial is picked as today, by its number.
    """
    rows = []
    for one in confirmations:
        row: dict[str, Any] = {"trial": one.number, "pick": one.pick, "picked": picked.get(one.number, "")}
        failed = {"student": one.student_failures, "control": one.control_failures, "tuned": one.tuned_failures}
        row |= {f"{name}_failed": len(failures.reasons) for name, failures in failed.items()}
        row["seeds"] = one.seeds
        arms = {"student": one.student, "control": one.control, "tuned": one.tuned, "gain": one.gain}
        for name, found in arms.items():
            for column, value in ((name, "mean"), (f"{name}_low", "low"), (f"{name}_high", "high")):
                row[column] = float("nan") if found is None else getattr(found, value)
        rows.append({**row, "gain_over": one.gain_over, "verdict": one.verdict})
    return pd.DataFrame(rows)
