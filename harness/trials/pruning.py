"""Prune trials on a Pareto front: costs are known before training, so a trial is compared with those that cost no more.

Optuna does not prune multi-objective studies, and a rule on accuracy alone prunes every small student. The rungs are
those of asynchronous successive halving (ASHA; Li et al. 2020, arXiv:1810.05934): few, and denser at the beginning. A
trial that is best at a rung among those that cost no more continues, unless it can't reach the region of interest.
The others are judged by the forecast of the sampler ``front`` while it is used and another trial may follow. Otherwise
a trial continues if it can still reach the front: if one of the complete trials that were nearest to it at the rung
gained so much afterwards that, with the same gain, it would surpass the best complete trial that costs no more, and be
within the region. TPE counts pruned trials among the bad ones; Optuna's other samplers ignore them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from harness.core.errors import TrialPruned
from harness.metrics import metric_named
from harness.sampling.forecast import Forecast
from harness.storage.access import STORAGE_ERRORS, asking_storage
from harness.studies.claim import Claim
from harness.studies.study import Study
from harness.tracking.spool import Spool, curves

_REDUCTION = 3
_NEAREST = 7  # complete trials whose gains are used; with fewer, nothing is pruned


def rungs_of(epochs: int) -> tuple[int, ...]:
    """Return the rungs in epochs: ..., a ninth and a third of a trial, in ascending order.

    Args:
        epochs: Epochs of a complete trial.
    """
    rungs, left = [], epochs
    while (left := round(left / _REDUCTION)) >= 1 and left < epochs:
        rungs.append(left)
        if left == 1:
            break
    return tuple(reversed(rungs))


@dataclass(frozen=True, kw_only=True)
class CompleteTrial:
    """A complete trial as pruning sees it.

    Attributes:
        costs: Its costs, to be minimized, in the order of the objectives.
        values: Its intermediate values at rungs, to be maximized, by epochs done.
        final: Its primary metric after the last epoch, to be maximized.
    """

    costs: tuple[float, ...]
    values: Mapping[int, float]
    final: float


def shortfall(
    value: float,
    rung: int,
    costs: tuple[float, ...],
    complete: Sequence[CompleteTrial],
    *,
    floor: float = -math.inf,
) -> tuple[float, float] | None:
    """Return how a trial falls short of the front: what it can reach, and what it would need.

    Args:
        value: Its intermediate value at the rung, to be maximized.
        rung: Epochs done.
        costs: Its costs, to be minimized.
        complete: The complete trials.
        floor: Lower bound of the region of interest.

    Returns:
        ``None`` if the trial can reach the front. Otherwise its reachable value, which is its value plus the largest
        gain since the rung of the complete trials nearest to it there, and the value it needs: the best final value
        among those that cost no more, or the floor.
    """
    seen = [trial for trial in complete if rung in trial.values]
    rivals = [trial for trial in complete if _costs_no_more(trial.costs, costs)]
    if len(seen) < _NEAREST:
        return None
    nearest = sorted(seen, key=lambda trial: abs(trial.values[rung] - value))[:_NEAREST]
    reach = value + max(0.0, max(trial.final - trial.values[rung] for trial in nearest))
    if reach < floor:
        return reach, floor
    if value >= max((trial.values[rung] for trial in rivals if rung in trial.values), default=value):
        return None  # it is on the front of the rung
    best = max(trial.final for trial in rivals)
    return (reach, best) if reach < best else None


def _costs_no_more(these: tuple[float, ...], those: tuple[float, ...]) -> bool:
    return all(this <= that for this, that in zip(these, those, strict=True))


class Pruner:
    """Stores trials' intermediate values at rungs, and prunes trials by what all workers stored.

    Args:
        study: The study, in a storage that other processes and machines may share.
        epochs: Epochs of a complete trial.
        costs_of: Returns the costs of a configuration's student by name.
        forecast: The forecast of the sampler ``front``, if there is one; it decides in place of the rule.
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
        self._complete: dict[int, CompleteTrial] = {}

    def listener_for(self, claim: Claim) -> _TrialListener:
        """Return the pruning listener of one trial."""
        return _TrialListener(self, claim)

    def restore(self, claim: Claim, curve: Mapping[int, float], kept: int) -> None:
        """Restore the values at rungs that a resumed trial passed while the storage was away: it won't pass them again.

        Args:
            claim: The resumed trial.
            curve: Its primary metric after each epoch, counted from 0.
            kept: Epochs that its checkpoint holds.
        """
        for epoch, value in curve.items():
            rung = epoch + 1
            if rung in self._rungs - claim.trial.intermediate_values.keys() and rung <= kept and math.isfinite(value):
                claim.intermediate_values[rung] = value
                claim.unreported.add(rung)

    def check(self, claim: Claim, epoch: int, metrics: Mapping[str, float]) -> None:
        """Store a trial's intermediate value at a rung, and prune it if it can no longer reach the front.

        Args:
            claim: The trial.
            epoch: The epoch that ended, counted from 0.
            metrics: Metrics of that epoch by name.

        Raises:
            TrialPruned: If it is to be pruned.
        """
        rung = epoch + 1
        if rung not in self._rungs or any(later > rung for later in claim.trial.intermediate_values):
            return  # no rung, or it passed this rung before it was interrupted
        primary = self._study.primary
        value = metrics[f"val/{primary}"]
        if not math.isfinite(value):
            return  # says nothing
        try:
            with asking_storage():
                claim.report_intermediate(rung, value)
                trials = self._study.retry.try_once(self._study.trials)
        except STORAGE_ERRORS as error:
            if self._study.retry.is_away(error):
                return  # it continues; the value is stored with its result, or at the next rung
            raise
        why = self._why_prune(claim.trial, rung, self._sign * value, trials)
        if why is not None:
            raise TrialPruned(f"{primary} {value:.4f} after {rung} of {self._epochs} epochs, {why}")

    def _why_prune(self, trial: FrozenTrial, rung: int, value: float, trials: Sequence[FrozenTrial]) -> str | None:
        """Return why a trial is pruned at a rung; ``None`` if it continues."""
        if self._forecast is not None and len(trials) < self._study.settings.trials:  # else no new trial follows
            ratio = self._forecast.should_prune(trial.number, rung, trials)
            if ratio is None:
                return None
            if math.isinf(ratio):
                return f"and is unlikely to reach the region of interest, {self._region.bound}"
            times = f"{ratio:.0f}x" if ratio < 100 else "over 100x"
            return f"and a new trial is expected to improve the front {times} as much per epoch"
        floor = -math.inf if self._region.floor is None else self._sign * self._region.floor
        found = shortfall(value, rung, self._costs(trial.params), self._complete_trials(trials), floor=floor)
        if found is None:
            return None
        reach, needed = (self._sign * bound for bound in found)
        if found[1] == floor:
            return f"can reach {reach:.4f}; the region of interest is {self._region.bound}"
        return f"can reach {reach:.4f}; a student that costs no more has {needed:.4f}"

    def _complete_trials(self, trials: Sequence[FrozenTrial]) -> list[CompleteTrial]:
        for trial in trials:
            if trial.number not in self._complete and trial.state == TrialState.COMPLETE:
                self._complete[trial.number] = self._complete_trial(trial)
        return list(self._complete.values())

    def _complete_trial(self, trial: FrozenTrial) -> CompleteTrial:
        return CompleteTrial(
            costs=self._costs(trial.params),
            values={rung: self._sign * value for rung, value in trial.intermediate_values.items()},
            final=self._sign * trial.user_attrs["metrics"][self._study.primary],
        )

    def _costs(self, params: Mapping[str, Any]) -> tuple[float, ...]:
        costs = self._costs_of(params)
        return tuple(-costs[name] if metric_named(name).is_maximized else costs[name] for name in self._axes)


def why_no_pruning(study: Study) -> str | None:
    """Return why the study's trials can't be pruned; ``None`` if they can."""
    if study.primary not in study.objectives:
        return f"{study.primary} is not an objective"
    others = [metric_named(name) for name in study.objectives if name != study.primary]
    late = [metric.name for metric in others if not metric.known_before_training]
    return f"{late[0]} is not known before the end" if late else None


class _TrialListener:
    """Pruning listener of one trial."""

    def __init__(self, pruner: Pruner, claim: Claim) -> None:
        self._pruner = pruner
        self._claim = claim

    def restore(self, spool: Spool) -> None:
        curve = curves(spool.folder).get(f"val/{self._claim.study.primary}", {})
        self._pruner.restore(self._claim, curve, spool.kept)

    def __call__(self, epoch: int, metrics: dict[str, float]) -> None:
        self._pruner.check(self._claim, epoch, metrics)
