"""Confirm picks: retrain them and their controls with fresh seeds, and compare them on the test split.

The search chooses on the validation split with one seed each, so its results are optimistically biased. Here each pick
and its controls are trained with seeds that no trial had, and scored on samples that the search never saw. Student and
controls of one seed share initial weights, order of the data and draws, so the comparison is paired. The gain is over
the tuned control (``harness.trials.controls``), whose settings were chosen on the validation split too, or over the
plain one if there is no tuned one. A failed seed is part of the result: no gain is claimed then.
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
from harness.space import SearchSpace, is_own_control
from harness.studies.study import Study
from harness.trials.controls import (
    PLAIN,
    TUNED,
    TunedControl,
    control_configuration,
    control_params,
    tuned_controls,
)
from harness.trials.retraining import Retraining
from harness.trials.trial import TrainingSpec

SPLIT = "test"
CONFIDENCE = 0.95
FEW_SEEDS = 3
"""With fewer seeds, an interval is so wide that it says little."""
_FOLDER = "confirm"
STUDENT, CONTROL = "student", "control"
"""Arms of a confirmation; that of a tuned control is named after its settings."""
_TUNED = "tuned"


def untrained_confirmations(
    study: Study, settings: Settings, space: SearchSpace, picks: Mapping[int, str], seeds: int
) -> list[Retraining]:
    """Return the confirmations without a result, seed by seed; arguments as of ``confirmations``."""
    known = study.retrained()
    return [one for one in confirmations(study, settings, space, picks, seeds) if one.name not in known]


def confirmations(
    study: Study, settings: Settings, space: SearchSpace, picks: Mapping[int, str], seeds: int
) -> list[Retraining]:
    """Return the confirmations of picks and their controls, seed by seed.

    Args:
        study: The study.
        settings: Its seed, and the kind of controls.
        space: The search space.
        picks: Name of each pick by the trial's number.
        seeds: Number of fresh seeds for each.
    """
    params = {trial.number: trial.params for trial in study.trials()}
    best = tuned_controls(study) if settings.controls == TUNED else {}
    found = []
    for index in range(seeds):
        seed = derived_seed(settings.seed, _FOLDER, index)
        for number, pick in picks.items():
            configurations = {STUDENT: space.configuration(params[number])}
            if not is_own_control(params[number]) and not study.no_control:
                configurations[CONTROL] = control_configuration(params[number], space)
                if number in best and not best[number].is_plain:  # else it would be the same training
                    training = best[number].chosen.training
                    configurations[_tuned_arm(training)] = control_configuration(params[number], space, training)
            for arm, configuration in configurations.items():
                found.append(
                    Retraining(
                        name=name_of(number, arm, index),
                        title=f"{_arm_title(arm)} of trial {number}, fresh seed {index + 1}",
                        spec=TrainingSpec(configuration=configuration, seed=seed, order_seed=seed, split=SPLIT),
                        tags={
                            "kd.role": "confirm",
                            "kd.confirm_of": str(number),
                            "kd.pick": pick,
                            "kd.arm": _arm_title(arm),
                            "kd.seed_index": str(index),
                        },
                        facts={"pick": pick},
                        extra_params={} if arm == STUDENT else control_params(space),
                    )
                )
    return found


def name_of(number: int, arm: str, index: int) -> str:
    """Return the name of a confirmation: of a trial, of one of its arms, with the seed of an index."""
    return f"{_FOLDER}/{number}/{arm}-{index}"


def seeds_confirmed(study: Study) -> int:
    """Return the number of fresh seeds that some pick was confirmed with."""
    names = [name for name in study.retrained() if name.startswith(f"{_FOLDER}/")]
    return max((int(name.rpartition("-")[2]) + 1 for name in names), default=0)


def _tuned_arm(training: Mapping[str, Any]) -> str:
    """Return the arm of a tuned control: settings that are chosen after more trials are another arm."""
    return f"{_TUNED}.{digest('training', dict(training))}"


def _arm_title(arm: str) -> str:
    return "tuned control" if arm.startswith(_TUNED) else arm


def pick_name(number: int, confirmed_as: str, picked: Mapping[int, str]) -> str:
    """Return the name of a confirmed pick: its present one, or what it was if it is none any more.

    Args:
        number: The trial's number.
        confirmed_as: Its name when it was confirmed.
        picked: Name of each current pick by the trial's number.
    """
    return picked.get(number, f"formerly {confirmed_as}")


@dataclass(frozen=True)
class Interval:
    """A mean over seeds with its confidence interval.

    Attributes:
        mean: The mean.
        low: Lower end of its 95 % interval by Student's t.
        high: Upper end.
    """

    mean: float
    low: float
    high: float

    def with_margin(self, sign: str = "") -> str:
        """Return the mean and the margin of its interval as text; with its sign, if ``sign`` is ``"+"``."""
        return f"{self.mean:{sign}.4f} ± {self.high - self.mean:.4f}"


def interval(values: Sequence[float]) -> Interval:
    """Return the mean of at least two values with its 95 % interval by Student's t, which assumes normality."""
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1)) / len(values) ** 0.5
    margin = float(students_t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * error
    return Interval(mean, mean - margin, mean + margin)


@dataclass(frozen=True)
class Failures:
    """Failed seeds of one arm.

    Attributes:
        seeds: Number of seeds with a result, failed ones included.
        reasons: Reason of each failure.
    """

    seeds: int = 0
    reasons: tuple[str, ...] = ()

    def __str__(self) -> str:
        texts = [reason if n == 1 else f"{reason}, {n} times" for reason, n in Counter(self.reasons).items()]
        return f"{len(self.reasons)} of {self.seeds} seeds failed ({'; '.join(texts)})"


@dataclass(frozen=True, kw_only=True)
class Confirmation:
    """Results of a pick and its controls on the test split over fresh seeds.

    Attributes:
        number: The trial's number.
        pick: Name of the pick when it was confirmed.
        alone: Whether the student itself is trained on labels alone, and so has no control.
        seeds: Number of complete pairs.
        student: Primary metric of the student; ``None`` if failures leave fewer than two pairs.
        control: Primary metric of the plain control; ``None`` then too, or if there is none.
        tuned: Primary metric of the tuned control; ``None`` then too, or if it was not trained.
        tuned_training: Training settings of the tuned control.
        gain: Paired difference between the student and the control that ``gain_over`` names; positive if the student
            is better, whatever the metric's direction.
        gain_over: ``"tuned"``, ``"plain"``, or empty if there is no control.
        no_control: Whether no control is fair, for samples are mixed without their targets.
        student_failures: Failed seeds of the student.
        control_failures: Failed seeds of the plain control.
        tuned_failures: Failed seeds of the tuned control.
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
        """Return a description of the failures of each arm with a failed seed."""
        arms = {"": self.student_failures, "of its control, ": self.control_failures}
        arms["of its tuned control, "] = self.tuned_failures
        return [f"{whose}{found}" for whose, found in arms.items() if found.reasons]

    @property
    def verdict(self) -> str:
        """Return ``gain``, ``loss``, ``no gain`` if the interval contains zero, or ``unproven`` if seeds failed.

        The remaining seeds are a biased sample: a student that fails on hard seeds would profit from it.
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
        """Describe the result in one sentence.

        Args:
            primary: Name of the primary metric.
            picked: Name of each current pick by the trial's number.
        """
        who = f"{pick_name(self.number, self.pick, picked)} (trial {self.number})"
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


@dataclass
class ArmResults:
    """Results of a trial's confirmations: scores by arm and seed, and reasons of failures by arm."""

    pick: str
    scores: dict[str, dict[int, float]] = field(default_factory=lambda: {STUDENT: {}, CONTROL: {}})
    reasons: dict[str, list[str]] = field(default_factory=dict)


def confirmed(study: Study) -> list[Confirmation]:
    """Return the confirmation of each trial with at least two complete pairs, or with a failed seed."""
    best = tuned_controls(study)
    params: dict[int, Mapping[str, Any]] = {trial.number: trial.params for trial in study.trials()}
    found = (
        _confirmation(number, results, best.get(number), is_own_control(params[number]), study)
        for number, results in sorted(results_by_trial(study).items())
    )
    return [each for each in found if each is not None]


def results_by_trial(study: Study) -> dict[int, ArmResults]:
    """Return the results of all confirmations, by the trial's number."""
    by_trial: dict[int, ArmResults] = {}
    for name, result in sorted(study.retrained().items()):
        if not name.startswith(f"{_FOLDER}/"):
            continue
        _, trial, run = name.split("/")
        arm, _, index = run.partition("-")
        results = by_trial.setdefault(int(trial), ArmResults(result["pick"]))
        results.pick = result["pick"]
        scores = results.scores.setdefault(arm, {})
        if "metrics" in result:
            scores[int(index)] = result["metrics"][f"{SPLIT}/{study.primary}"]
        else:
            results.reasons.setdefault(arm, []).append(result["reason"])
    return by_trial


def _confirmation(
    number: int, results: ArmResults, best: TunedControl | None, alone: bool, study: Study
) -> Confirmation | None:
    """Return the confirmation of a trial; ``None`` if it has fewer than two complete pairs and no failed seed.

    Args:
        number: The trial's number.
        results: Its results.
        best: Its tuned control, if it has one.
        alone: Whether it was trained on labels alone itself.
        study: The study.
    """
    arms, no_control = results.scores, bool(study.no_control)
    tuned_arm = arm_of(best, arms)
    over = {} if alone or no_control else {PLAIN: CONTROL}
    if over and tuned_arm is not None:
        over[TUNED] = tuned_arm
    paired = sorted(set(arms[STUDENT]).intersection(*(arms[arm] for arm in over.values())))
    failures = {
        arm: Failures(len(arms[arm]) + len(reasons), reasons)
        for arm in {STUDENT, *over.values()}
        if (reasons := tuple(results.reasons.get(arm, ())))
    }
    enough = len(paired) >= 2
    if not enough and not failures:
        return None
    scores = {arm: [arms[arm][seed] for seed in paired] if enough else [] for arm in (STUDENT, *over.values())}
    means = {arm: interval(values) for arm, values in scores.items() if values}
    gain_over = next(reversed(over), "")
    pairs = zip(scores[STUDENT], scores.get(over.get(gain_over, ""), []), strict=False)
    gains = [study.primary_sign * (student - control) for student, control in pairs]
    return Confirmation(
        number=number,
        pick=results.pick,
        alone=alone,
        no_control=no_control,
        seeds=len(paired),
        student=means.get(STUDENT),
        control=means.get(CONTROL),
        tuned=None if tuned_arm is None else means.get(tuned_arm),
        tuned_training={} if best is None or tuned_arm is None else best.chosen.training,
        gain=interval(gains) if gains else None,
        gain_over=gain_over,
        student_failures=failures.get(STUDENT, Failures()),
        control_failures=failures.get(CONTROL, Failures()),
        tuned_failures=failures.get(tuned_arm or "", Failures()) if tuned_arm != CONTROL else Failures(),
    )


def arm_of(best: TunedControl | None, arms: Mapping[str, Any]) -> str | None:
    """Return the arm of the currently chosen tuned control; ``None`` if it was not trained."""
    if best is None:
        return None
    arm = CONTROL if best.is_plain else _tuned_arm(best.chosen.training)
    return arm if arm in arms else None


def confirmed_table(confirmations: Sequence[Confirmation], picked: Mapping[int, str]) -> pd.DataFrame:
    """Return a table of confirmations.

    Columns: ``trial``, ``pick`` (when it was confirmed), ``picked`` (currently, empty if it is no pick), ``seeds``,
    failed seeds (``student_failed``, ``control_failed``, ``tuned_failed``), means with ``_low`` and ``_high``,
    ``gain_over``, ``verdict``.

    Args:
        confirmations: The confirmations.
        picked: Name of each current pick by the trial's number.
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
