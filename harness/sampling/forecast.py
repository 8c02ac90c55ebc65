"""Forecast how much students may improve the front: the sampler ``front`` and its pruning rule.

The sampler proposes the configuration with the largest expected hypervolume improvement per epoch. The pruning rule
stops a trial at a rung if it is expected to improve the front far less than a new trial would. Both use the same curve
model, and count improvements within the region of interest only. A trial that is best at a rung among those that cost
no more continues, unless it is unlikely to reach the region.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.trial import FrozenTrial
from scipy.spatial.distance import cdist
from scipy.special import ndtr

from harness.core.content import derived_seed
from harness.sampling.candidates import CandidateSet, SpaceEncoder
from harness.sampling.hypervolume_improvement import ExpectedHypervolumeImprovement
from harness.sampling.model_fit import Fit, ModelFitter, ObservedTrial, PrimaryMetric
from harness.space import SearchSpace

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

_MIN_COMPLETE = 7  # complete trials, for pruning
_SAMPLES, _NEIGHBOURS = 400, 20  # candidates from the whole space; around each of the best trials
_SAME = 1e-9  # distance below which two points are equal
_EPSILON = 1e-12  # an improvement below it is none
_UNLIKELY = 0.2  # probability of the region of interest, below which a student counts as outside
_ALIKE = 0.15  # share of the best architecture's improvement, above which another one is as good
_OFTEN = 3  # trials of the best architecture, after which the least tried of those as good goes first
_WORTH_WHILE = 0.2  # share of a new trial's expected improvement per epoch, below which a trial is pruned


class Forecast:
    """Forecast of a study: what to try next, and which trials to prune.

    Args:
        space: The space, with ranges narrowed to the budgets.
        encoder: Encoder of the space, which also samples candidates.
        architectures: All architectures within the budgets.
        costs: Costs of each, to be minimized, at least 0, shape (A, K).
        metric: The primary metric.
        seed: The study's seed.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        encoder: SpaceEncoder,
        architectures: Sequence[Mapping[str, Any]],
        costs: Array,
        metric: PrimaryMetric,
        seed: int,
    ) -> None:
        self._encoder, self._epochs, self._seed = encoder, space.epochs, seed
        # A cost of 0, as the MACs of a student without products, counts as the least positive one: costs are compared
        # by their logarithms.
        least = np.min(costs, axis=0, where=costs > 0, initial=np.inf)
        self._costs = np.log(np.maximum(costs, np.where(np.isfinite(least), least, 1.0)))
        self._acquisition = ExpectedHypervolumeImprovement(self._costs, metric.scale())
        self._fitter = ModelFitter(
            space, encoder=encoder, architectures=architectures, metric=metric, acquisition=self._acquisition
        )

    def propose(
        self, trials: Sequence[FrozenTrial], is_new: Callable[[Mapping[str, Any]], bool]
    ) -> dict[str, Any] | None:
        """Return the configuration with the largest expected hypervolume improvement.

        Args:
            trials: All trials of the study.
            is_new: Whether a configuration is new and may be tried.

        Returns:
            Every parameter's value by name; ``None`` if no candidate is new.
        """
        rng = np.random.default_rng(derived_seed(self._seed, "forecast", len(trials)))
        observed = self._fitter.observe(trials)
        fit = self._fitter.fit(observed, len(trials))
        if fit is None:
            candidates = _AffordableCandidates(
                self._encoder.sample(rng, _SAMPLES), self._fitter.architectures, self._fitter.names
            )
            order = rng.permutation(len(candidates.architectures))
        else:
            candidates, scores = self._scored_candidates(fit, rng)
            if scores.max(initial=0.0) < _EPSILON:  # no candidate is likely to improve the front
                scores = self._upper_confidence_bounds(fit, candidates.points)
            scores = _prefer_one_architecture(
                scores, candidates.architectures, [trial.architecture for trial in observed]
            )
            # The last figures of the sums depend on the number of threads.
            order = np.argsort(-np.round(scores / max(scores.max(initial=0.0), _EPSILON), 9), kind="stable")
        return next(filter(is_new, map(candidates.configuration, order)), None)

    def should_prune(self, number: int, rung: int, trials: Sequence[FrozenTrial]) -> float | None:
        """Return whether a trial should be given up for a new one.

        Args:
            number: The trial, which has reached a rung.
            rung: Epochs done; the trial has an intermediate value there.
            trials: All trials of the study.

        Returns:
            ``None`` if it continues. Otherwise the ratio of a new trial's expected improvement per epoch to its own;
            infinite if it is unlikely to end within the region of interest.
        """
        observed = self._fitter.observe(trials)
        index = next((index for index, trial in enumerate(observed) if trial.number == number), None)
        if (
            index is None
            or rung not in observed[index].values
            or sum(trial.final is not None for trial in observed) < _MIN_COMPLETE
        ):
            return None
        # A trial that is trained again, for its checkpoint was lost, has values at later rungs too.
        so_far = {epochs: value for epochs, value in observed[index].values.items() if epochs <= rung}
        this = observed[index] = replace(observed[index], values=so_far)
        leads = self._leads_at_rung(this, rung, observed)
        if leads and self._fitter.floor is None:
            return None
        fit = self._fitter.fit(observed, len(trials), exclude=number)
        if fit is None:
            return None
        mean, deviation = fit.model.predict(self._fitter.encode([this]), np.array([number]), self._epochs)
        if self._is_unlikely_within_region(mean, deviation)[0]:
            return inf
        if leads:
            return None
        candidates, scores = self._scored_candidates(fit, np.random.default_rng(derived_seed(self._seed, number, rung)))
        scores = scores[cdist(candidates.points, fit.points).min(axis=1, initial=np.inf) > _SAME]
        own = float(self._acquisition.evaluate(fit.surface, np.array([this.architecture]), mean, deviation)[0])
        own /= self._epochs - rung
        new = float(scores.max(initial=0.0)) / self._epochs
        return None if own >= _WORTH_WHILE * new or new < _EPSILON else new / max(own, _EPSILON)

    def _leads_at_rung(self, this: ObservedTrial, rung: int, observed: Sequence[ObservedTrial]) -> bool:
        """Return whether no complete trial that costs no more was better at the rung."""
        rivals = [trial for trial in observed if trial.final is not None and rung in trial.values]
        costs, values = self._costs[[trial.architecture for trial in rivals]], [trial.values[rung] for trial in rivals]
        costs_no_more = (costs <= self._costs[this.architecture]).all(axis=1)
        return bool(this.values[rung] >= np.max(np.array(values)[costs_no_more], initial=-np.inf))

    def _scored_candidates(self, fit: Fit, rng: np.random.Generator) -> tuple[_AffordableCandidates, Array]:
        """Return candidates from the whole space and around the best trials, with their expected improvements."""
        around = [self._encoder.neighbours(rng, params, _NEIGHBOURS) for params in fit.best]
        candidates = _AffordableCandidates(
            [*self._encoder.sample(rng, _SAMPLES), *around], self._fitter.architectures, self._fitter.names
        )
        if not len(candidates.points):
            return candidates, np.empty(0)
        mean, deviation = self._predict_new(fit, candidates.points)
        scores = self._acquisition.evaluate(fit.surface, candidates.architectures, mean, deviation)
        return candidates, np.where(self._is_unlikely_within_region(mean, deviation), 0.0, scores)

    def _predict_new(self, fit: Fit, points: Array) -> tuple[Array, Array]:
        """Predict the final values of new trials, which have numbers that no trial has."""
        return fit.model.predict(points, -1 - np.arange(len(points)), self._epochs)

    def _is_unlikely_within_region(self, mean: Array, deviation: Array) -> NDArray[np.bool_]:
        """Return which predicted final values are unlikely to be within the region of interest, shape as given."""
        if self._fitter.floor is None:
            return np.zeros(mean.shape, dtype=bool)
        found: NDArray[np.bool_] = ndtr((mean - self._fitter.floor) / deviation) < _UNLIKELY
        return found

    def _upper_confidence_bounds(self, fit: Fit, points: Array) -> Array:
        """Return the upper confidence bounds of new trials' final values, scaled to [0, 1]."""
        if not len(points):
            return np.empty(0)
        mean, deviation = self._predict_new(fit, points)
        bounds: Array = mean + deviation
        scaled: Array = (bounds - bounds.min()) / max(float(np.ptp(bounds)), _EPSILON)
        return scaled


class _AffordableCandidates:
    """Candidates of several sets whose architectures are within the budgets.

    Args:
        sets: The sets.
        architectures: Indices of the affordable architectures by key.
        names: Names of the parameters of an architecture.
    """

    def __init__(
        self, sets: Sequence[CandidateSet], architectures: Mapping[tuple[float, ...], int], names: Sequence[str]
    ) -> None:
        found = np.array([architectures.get(row, -1) for each in sets for row in each.rows(names)], dtype=int)
        self._sets = sets
        self._places = np.flatnonzero(found >= 0)
        self._starts = np.cumsum([0, *map(len, sets)])
        self.architectures = found[self._places]
        self.points = np.vstack([each.points for each in sets])[self._places]

    def configuration(self, index: int) -> dict[str, Any]:
        """Return one candidate, every parameter's value by name."""
        place = int(self._places[index])
        number = int(np.searchsorted(self._starts, place, side="right")) - 1
        return self._sets[number][place - int(self._starts[number])]


def _prefer_one_architecture(scores: Array, architectures: Indices, tried: Sequence[int]) -> Array:
    """Put the candidates of one architecture first: the best one, or once it was tried often, the least tried alike.

    A model knows an improvement up to a factor at best, and repeats its errors. And the more often an architecture was
    tried, the rarer is a training that beats all before it: its best score is divided by the square root of that
    number. Architectures within ``_ALIKE`` of the best score are alike.

    Args:
        scores: Acquisition value of each candidate, shape (N,).
        architectures: Architecture of each candidate, shape (N,).
        tried: Architecture of each trial.

    Returns:
        The scores, with those of that architecture's candidates raised above all others.
    """
    if not len(scores):
        return scores
    best = np.zeros(int(architectures.max()) + 1)
    np.maximum.at(best, architectures, scores)
    counts = np.bincount(tried, minlength=len(best))
    best /= np.sqrt(1 + counts[: len(best)])
    first = int(np.argmax(best))
    if counts[first] >= _OFTEN:
        alike = np.flatnonzero(best >= _ALIKE * best.max())
        first = min(map(int, alike), key=lambda index: (counts[index], -best[index]))
    preferred: Array = np.where(architectures == first, scores + scores.max(), scores)
    return preferred
