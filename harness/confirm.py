"""Whether the picks are worth what they seem: trained anew with fresh seeds, beside their controls, on the test split.

The search has chosen by the validation split, with one seed each, so what it has found flatters itself. Here each pick
and its control are trained with seeds that no trial had, and scored on samples that nobody has looked at. Student and
control of one seed have the same initial weights, the same order of the data and the same draws: the gain is paired.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t as students_t

from harness.content import derived_seed
from harness.controls import control_of, is_own_control
from harness.retraining import Retraining
from harness.settings import Settings
from harness.space import SearchSpace
from harness.study import Study

SPLIT = "test"
CONFIDENCE = 0.95
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


@dataclass(frozen=True, kw_only=True)
class Confirmation:
    """What a pick and its control reach on the test split, over fresh seeds.

    Attributes:
        number: The trial.
        pick: What it was picked as when it was confirmed.
        seeds: How many of them are paired.
        student: The primary metric of the student.
        control: That of the control; ``None`` where the student is trained on labels alone itself.
        gain: How much better the student is, pair by pair, above 0 where it is, whatever the metric's direction.
    """

    number: int
    pick: str
    seeds: int
    student: Interval
    control: Interval | None
    gain: Interval | None

    @property
    def verdict(self) -> str:
        """``gain``, ``no gain`` where the interval holds zero, or ``loss``."""
        if self.gain is None:
            return "labels alone"
        if self.gain.low > 0:
            return "gain"
        return "loss" if self.gain.high < 0 else "no gain"

    def sentence(self, primary: str) -> str:
        """What came out, in words."""
        student = f"{self.pick} (trial {self.number}): {primary} {_shown(self.student)} over {self.seeds} seeds"
        if self.gain is None or self.control is None:
            return f"{student}; it is trained on labels alone, so there is nothing to gain over."
        return (
            f"{student}, its control {_shown(self.control)}; paired difference {self.gain.mean:+.4f} "
            f"[{self.gain.low:+.4f}, {self.gain.high:+.4f}]: {self.verdict}."
        )


def _shown(found: Interval) -> str:
    return f"{found.mean:.4f} [{found.low:.4f}, {found.high:.4f}]"


def confirmed(study: Study) -> list[Confirmation]:
    """What has been confirmed so far, by trial; of two seeds at least."""
    by_trial: dict[int, dict[str, dict[int, float]]] = {}
    picks: dict[int, str] = {}
    for name, result in study.retrained().items():
        if name.startswith(f"{_FOLDER}/") and "metrics" in result:
            _, trial, run = name.split("/")
            arm, _, place = run.partition("-")
            arms = by_trial.setdefault(int(trial), {_STUDENT: {}, _CONTROL: {}})
            arms[arm][int(place)] = result["metrics"][f"{SPLIT}/{study.primary}"]
            picks[int(trial)] = result["pick"]
    params: dict[int, Mapping[str, Any]] = {trial.number: trial.params for trial in study.trials()}
    sign, found = 1 if study.primary_direction == "maximize" else -1, []
    for number, arms in sorted(by_trial.items()):
        alone = is_own_control(params[number])
        paired = sorted(arms[_STUDENT] if alone else arms[_STUDENT].keys() & arms[_CONTROL].keys())
        if len(paired) < 2:
            continue
        students, controls = ([arms[arm].get(seed, np.nan) for seed in paired] for arm in (_STUDENT, _CONTROL))
        gains = [sign * (ours - theirs) for ours, theirs in zip(students, controls, strict=True)]
        found.append(
            Confirmation(
                number=number,
                pick=picks[number],
                seeds=len(paired),
                student=interval(students),
                control=None if alone else interval(controls),
                gain=None if alone else interval(gains),
            )
        )
    return found


def confirmed_table(confirmations: Sequence[Confirmation]) -> pd.DataFrame:
    """One row for each: ``trial``, ``pick``, ``seeds``, means with ``_low`` and ``_high``, ``verdict``."""
    rows = []
    for one in confirmations:
        row: dict[str, Any] = {"trial": one.number, "pick": one.pick, "seeds": one.seeds}
        for name, found in (("student", one.student), ("control", one.control), ("gain", one.gain)):
            for column, value in ((name, "mean"), (f"{name}_low", "low"), (f"{name}_high", "high")):
                row[column] = float("nan") if found is None else getattr(found, value)
        rows.append({**row, "verdict": one.verdict})
    return pd.DataFrame(rows)
