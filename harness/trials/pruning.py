"""Pruning on a Pareto front: what a student costs is known before it trains, so it is judged beside what costs no more.

Optuna refuses to prune where there are several objectives, and a rule that looks at accuracy alone stops every small
student. The rungs are those of asynchronous successive halving (Li et al. 2020, arXiv:1810.05934): few, and closer to
one another at the beginning. A trial that leads at a rung those which cost no more goes on, unless it has no chance of
the region of interest. The others are judged by the forecast of the sampler ``front`` where it is at work and a new
student may follow. Else one thing is asked: could it still reach the front? It could if one of the complete trials that
stood nearest to it at the rung went on to gain so much that with as much this one would pass the best complete trial
that costs no more, and be within the region. Pruned trials stay among the bad ones for TPE, and Optuna's other samplers
do not heed them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from harness.core.errors import TrialPruned
from harness.metrics import METRICS
from harness.sampling.forecast import Forecast
from harness.storage.access import STORAGE_ERRORS, asking_storage
from harness.studies.claim import Claim
from harness.studies.study import Study
from harness.tracking.spool import Spool, curves

_REDUCTION = 3
_NEAREST = 7  # complete trials whose gains are looked at; while there are fewer, nothing is pruned


def rungs_of(epochs: int) -> tuple[int, ...]:
    """Epochs after which a trial is judged: a third of all, a ninth, and so on, the first one last.

    Args:
        epochs: Of a whole trial.
    """
    rungs, left = [], epochs
    while (left := round(left / _REDUCTION)) >= 1 and left < epochs:
        rungs.append(left)
        if left == 1:
            break
    return tuple(reversed(rungs))


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A complete trial, as pruning sees it.

    Attributes:
        costs: The lower the better, in the order of the objectives.
        marks: The primary metric by epochs done, at the rungs that it was marked at; the higher the better.
        end: The primary metric at its end; the higher the better.
    """

    costs: tuple[float, ...]
    marks: Mapping[int, float]
    end: float


def stop(
    value: float,
    rung: int,
    costs: tuple[float, ...],
    complete: Sequence[Standing],
    *,
    floor: float = -math.inf,
) -> tuple[float, float] | None:
    """Return whether a trial can't reach the front any more.

    Args:
        value: Its primary metric at the rung; the higher the better.
        rung: Epochs done.
        costs: Its costs; the lower the better.
        complete: The complete trials.
        floor: The least that counts, where more is better.

    Returns:
        ``None`` if it goes on. Else what it may reach, its value and the most that the complete trials nearest to it at
        the rung gained since, and what it would have to: the best end of those that cost no more, or the floor.
    """
    marked = [standing for standing in complete if rung in standing.marks]
    rivals = [standing for standing in complete if _costs_no_more(standing.costs, costs)]
    if len(marked) < _NEAREST:
        return None
    nearest = sorted(marked, key=lambda standing: abs(standing.marks[rung] - value))[:_NEAREST]
    reach = value + max(0.0, max(standing.end - standing.marks[rung] for standing in nearest))
    if reach < floor:
        return reach, floor
    if value >= max((standing.marks[rung] for standing in rivals if rung in standing.marks), default=value):
        return None  # it leads: it is on the front of the rung
    best = max(standing.end for standing in rivals)
    return (reach, best) if reach < best else None


def _costs_no_more(these: tuple[float, ...], those: tuple[float, ...]) -> bool:
    return all(this <= that for this, that in zip(these, those, strict=True))


class Pruner:
    """Marks trials at the rungs in the study's storage, and judges each beside all that it finds there.

    Args:
        study: The study, on a storage that other processes and machines may share.
        epochs: Of a whole trial.
        costs_of: Costs by name of the student of a configuration.
        forecast: Judges, where there is one.
    """

    def __init__(
        self,
        study: Study,
        *,
        epochs: int,
        costs_of: Callable[[Mapping[str, Any]], Mapping[str, float]],
        forecast: Forecast | None = None,
    ) -> None:
        self._study = study
        self._forecast = forecast
        self._epochs = epochs
        self._rungs = frozenset(rungs_of(epochs))
        self._costs_of = costs_of
        self._sign, self._region = study.primary_sign, study.region
        self._axes = [name for name in study.objectives if name != study.primary]
        self._complete: dict[int, Standing] = {}

    def judge_of(self, claim: Claim) -> _TrialJudge:
        """Return the judge of one trial."""
        return _TrialJudge(self, claim)

    def recall(self, claim: Claim, curve: Mapping[int, float], kept: int) -> None:
        """Note the rungs that a trial passed, before it was cut, while the storage was away: it passes them no more.

        Args:
            claim: The trial, which goes on.
            curve: Its primary metric after each epoch, counted from 0.
            kept: Epochs that it need not train again.
        """
        for epoch, value in curve.items():
            rung = epoch + 1
            if rung in self._rungs - claim.trial.intermediate_values.keys() and rung <= kept and math.isfinite(value):
                claim.intermediate_values[rung] = value
                claim.unreported.add(rung)

    def judge(self, claim: Claim, epoch: int, metrics: Mapping[str, float]) -> None:
        """Mark a trial if it stands at a rung, and stop it if it has no chance of the front any more.

        Args:
            claim: The trial.
            epoch: The epoch that ended, counted from 0.
            metrics: Of that epoch, by name.

        Raises:
            TrialPruned: If it is to be stopped.
        """
        rung = epoch + 1
        if rung not in self._rungs or any(later > rung for later in claim.trial.intermediate_values):
            return  # or it went on from here before it was cut
        primary = self._study.primary
        value = metrics[f"val/{primary}"]
        if not math.isfinite(value):
            return  # nothing can be told from it
        try:
            with asking_storage():
                claim.report_intermediate(rung, value)
                trials = self._study.retry.try_once(self._study.trials)
        except STORAGE_ERRORS as error:
            if self._study.retry.is_away(error):
                return  # it trains on, unjudged; where it stands is stored with its end, or at the next rung
            raise
        why = self._why_stop(claim.trial, rung, self._sign * value, trials)
        if why is not None:
            raise TrialPruned(f"{primary} {value:.4f} after {rung} of {self._epochs} epochs, {why}")

    def _why_stop(self, trial: FrozenTrial, rung: int, value: float, trials: Sequence[FrozenTrial]) -> str | None:
        """Return why a trial is stopped at a rung; ``None`` if it goes on."""
        if self._forecast is not None and len(trials) < self._study.settings.trials:  # else no new one comes
            times = self._forecast.should_prune(trial.number, rung, trials)
            if times is None:
                return None
            if math.isinf(times):
                return f"and will hardly reach the region of interest, {self._region.bound}"
            much = f"{times:.0f}" if times < 100 else "over 100"
            return f"and a new student may be expected to add {much} times as much to the front an epoch"
        floor = -math.inf if self._region.floor is None else self._sign * self._region.floor
        stopped = stop(value, rung, self._costs(trial.params), self._standings(trials), floor=floor)
        if stopped is None:
            return None
        reach, best = (self._sign * bound for bound in stopped)
        if stopped[1] == floor:
            return f"{reach:.4f} in reach; the region of interest is {self._region.bound}"
        return f"{reach:.4f} in reach; one that costs no more has {best:.4f}"

    def _standings(self, trials: Sequence[FrozenTrial]) -> list[Standing]:
        for trial in trials:
            if trial.number not in self._complete and trial.state == TrialState.COMPLETE:
                self._complete[trial.number] = self._standing(trial)
        return list(self._complete.values())

    def _standing(self, trial: FrozenTrial) -> Standing:
        return Standing(
            costs=self._costs(trial.params),
            marks={rung: self._sign * value for rung, value in trial.intermediate_values.items()},
            end=self._sign * trial.user_attrs["metrics"][self._study.primary],
        )

    def _costs(self, params: Mapping[str, Any]) -> tuple[float, ...]:
        costs = self._costs_of(params)
        return tuple(-costs[name] if METRICS[name].is_maximized else costs[name] for name in self._axes)


def unprunable(study: Study) -> str | None:
    """Return why the study's trials can't be pruned on its front; ``None`` if they can."""
    if study.primary not in study.objectives:
        return f"{study.primary} is no objective"
    others = [METRICS[name] for name in study.objectives if name != study.primary]
    late = [metric.name for metric in others if not metric.known_before_training]
    return f"{late[0]} is not known before the end" if late else None


class _TrialJudge:
    """Judges the epochs of one trial."""

    def __init__(self, pruner: Pruner, claim: Claim) -> None:
        self._pruner = pruner
        self._claim = claim

    def recall(self, spool: Spool) -> None:
        curve = curves(spool.folder).get(f"val/{self._claim.study.primary}", {})
        self._pruner.recall(self._claim, curve, spool.kept)

    def __call__(self, epoch: int, metrics: dict[str, float]) -> None:
        self._pruner.judge(self._claim, epoch, metrics)
