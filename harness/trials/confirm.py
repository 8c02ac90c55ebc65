"""Whether the picks are worth what they seem: trained anew with fresh seeds, beside their controls, on the test split.

The search has chosen by the validation split, with one seed each, so what it has found flatters itself. Here each pick
and its control are trained with seeds that no trial had, and scored on samples that nobody has looked at. Student and
control of one seed have the same initial weights, the same order of the data and the same draws: the gain is paired.
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

from harness.content import derived_seed
from harness.settings import Settings
from harness.space import SearchSpace
from harness.studies.study import Study
from harness.trials.controls import control_of, is_own_control, names_of_control
from harness.trials.retraining import Retraining

SPLIT = "test"
CONFIDENCE = 0.95
FEW_SEEDS = 3
"""Of fewer an interval is so wide that it says little."""
_FOLDER = "confirm"
_STUDENT, _CONTROL = "student", "control"


def confirmations(
    study: Study, settings: Settings, space: SearchSpace, picks: Mapping[int, str], seeds: int
) -> list[Retraining]:
    """What has to be trained yet, seed by seed.

    Args:
        study: The study.
        settings: Its seed.
        space: What varied.
        picks: What each trial is picked as, by its number.
        seeds: Fresh seeds for each.
    """
    params, known = {trial.number: trial.params for trial in study.trials()}, study.retrained()
    found = []
    for place in range(seeds):
        seed = derived_seed(settings.seed, _FOLDER, place)
        for number, pick in picks.items():
            configurations = {_STUDENT: space.configuration(params[number])}
            if not is_own_control(params[number]):
                configurations[_CONTROL] = control_of(params[number], space)
            for arm, configuration in configurations.items():
                name = f"{_FOLDER}/{number}/{arm}-{place}"
                if name in known:
                    continue
                found.append(
                    Retraining(
                        name=name,
                        title=f"{arm} of trial {number}, fresh seed {place + 1}",
                        configuration=configuration,
                        seed=seed,
                        order_seed=seed,
                        split=SPLIT,
                        tags={
                            "kd.role": "confirm",
                            "kd.confirm_of": str(number),
                            "kd.pick": pick,
                            "kd.arm": arm,
                            "kd.seed_index": str(place),
                        },
                        facts={"pick": pick},
                        names=names_of_control(space) if arm == _CONTROL else {},
                    )
                )
    return found


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
    """The mean of at least two values with its 95 % interval by Student's t, which takes them for normal."""
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
    """What a pick and its control reach on the test split, over fresh seeds.

    Attributes:
        number: The trial.
        pick: What it was picked as when it was confirmed.
        alone: Whether the student is trained on labels alone itself, and has no control.
        seeds: How many of them are paired.
        student: The primary metric of the student; ``None`` where failures have left fewer than two pairs.
        control: That of the control; ``None`` then too, and where there is none.
        gain: How much better the student is, pair by pair, above 0 where it is, whatever the metric's direction.
        student_failures: Seeds of the student that failed.
        control_failures: Those of the control.
    """

    number: int
    pick: str
    alone: bool
    seeds: int
    student: Interval | None
    control: Interval | None
    gain: Interval | None
    student_failures: Failures = field(default_factory=Failures)
    control_failures: Failures = field(default_factory=Failures)

    @property
    def has_failures(self) -> bool:
        """Whether a seed failed of the student or of its control."""
        return bool(self.student_failures.reasons or self.control_failures.reasons)

    @property
    def verdict(self) -> str:
        """``gain``, ``no gain`` where the interval holds zero, or ``loss``; ``unproven`` where seeds failed.

        Those that are left are not a fair choice of all: a student that fails on the hard seeds would gain by it.
        """
        if self.alone:
            return "labels alone"
        if self.gain is None or self.has_failures:
            return "unproven"
        if self.gain.low > 0:
            return "gain"
        return "loss" if self.gain.high < 0 else "no gain"

    def sentence(self, primary: str, picked: Mapping[int, str]) -> str:
        """What came out, in words.

        Args:
            primary: Name of the metric.
            picked: What each trial is picked as today, by its number.
        """
        who = f"{picked.get(self.number, f'formerly {self.pick}')} (trial {self.number})"
        failed = [str(self.student_failures)] if self.student_failures.reasons else []
        if self.control_failures.reasons:
            failed.append(f"of its control, {self.control_failures}")
        if self.student is None:
            return f"{who}: {', '.join(failed)}; too few are left for a mean: {self.verdict}."
        student = f"{who}: {primary} {_shown(self.student)} over {self.seeds} seeds"
        if self.gain is None or self.control is None:
            beside = "".join(f"; {one}" for one in failed)
            return f"{student}{beside}; it is trained on labels alone, so there is nothing to gain over."
        told = "".join(f"{one}, " for one in failed)
        return (
            f"{student}, its control {_shown(self.control)}; paired difference {self.gain.mean:+.4f} "
            f"[{self.gain.low:+.4f}, {self.gain.high:+.4f}]{f'; {told}so it is ' if told else ': '}{self.verdict}."
        )


def _shown(found: Interval) -> str:
    return f"{found.mean:.4f} [{found.low:.4f}, {found.high:.4f}]"


def confirmed(study: Study) -> list[Confirmation]:
    """What has been confirmed so far, by trial: of two pairs at least, or with a seed that failed."""
    by_trial: dict[int, dict[str, dict[int, float]]] = {}
    reasons: dict[tuple[int, str], list[str]] = {}
    picks: dict[int, str] = {}
    for name, result in sorted(study.retrained().items()):
        if not name.startswith(f"{_FOLDER}/"):
            continue
        _, trial, run = name.split("/")
        arm, _, place = run.partition("-")
        arms = by_trial.setdefault(int(trial), {_STUDENT: {}, _CONTROL: {}})
        picks[int(trial)] = result["pick"]
        if "metrics" in result:
            arms[arm][int(place)] = result["metrics"][f"{SPLIT}/{study.primary}"]
        else:
            reasons.setdefault((int(trial), arm), []).append(result["reason"])
    params: dict[int, Mapping[str, Any]] = {trial.number: trial.params for trial in study.trials()}
    found = []
    for number, arms in sorted(by_trial.items()):
        alone = is_own_control(params[number])
        paired = sorted(arms[_STUDENT] if alone else arms[_STUDENT].keys() & arms[_CONTROL].keys())
        failures = {}
        for arm in (_STUDENT, _CONTROL):
            why = tuple(reasons.get((number, arm), ()))
            failures[f"{arm}_failures"] = Failures(len(arms[arm]) + len(why), why)
        enough = len(paired) >= 2
        if not enough and not any(one.reasons for one in failures.values()):
            continue
        students, controls = ([arms[arm].get(seed, np.nan) for seed in paired] for arm in (_STUDENT, _CONTROL))
        gains = [study.primary_sign * (ours - theirs) for ours, theirs in zip(students, controls, strict=True)]
        found.append(
            Confirmation(
                number=number,
                pick=picks[number],
                alone=alone,
                seeds=len(paired),
                student=interval(students) if enough else None,
                control=interval(controls) if enough and not alone else None,
                gain=interval(gains) if enough and not alone else None,
                **failures,
            )
        )
    return found


def confirmed_table(confirmations: Sequence[Confirmation], picked: Mapping[int, str]) -> pd.DataFrame:
    """One row for each: ``trial``, ``pick``, ``seeds``, means with ``_low`` and ``_high``, ``verdict``.

    ``pick`` is what a trial was picked as when it was confirmed, ``picked`` what it is today, empty if nothing;
    ``student_failed`` and ``control_failed`` count seeds.

    Args:
        confirmations: What has been confirmed.
        picked: What each trial is picked as today, by its number.
    """
    rows = []
    for one in confirmations:
        row: dict[str, Any] = {"trial": one.number, "pick": one.pick, "picked": picked.get(one.number, "")}
        for name, failures in (("student_failed", one.student_failures), ("control_failed", one.control_failures)):
            row[name] = len(failures.reasons)
        row["seeds"] = one.seeds
        for name, found in (("student", one.student), ("control", one.control), ("gain", one.gain)):
            for column, value in ((name, "mean"), (f"{name}_low", "low"), (f"{name}_high", "high")):
                row[column] = float("nan") if found is None else getattr(found, value)
        rows.append({**row, "verdict": one.verdict})
    return pd.DataFrame(rows)
