"""Forecast how much students may improve the front: the sampler ``front`` and its pruning rule.

The sampler proposes the configuration with the largest expected hypervolume improvement per epoch. The pruning rule
stops a trial at a rung if it is expected to improve the front far less than a new trial would. Both use the same curve
model, and count improvements within the region of interest only. A trial that is best at a rung among those that cost
no more continues, unless it is unlikely to reach the region.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState
from scipy.spatial.distance import cdist
from scipy.special import ndtr

from harness.core.content import derived_seed
from harness.sampling.candidates import CandidateSet, SpaceEncoder
from harness.sampling.curve_model import CurveModel
from harness.sampling.hypervolume_improvement import ExpectedHypervolumeImprovement, QualityScale
from harness.sampling.subsampling import evenly_spaced
from harness.space import SearchSpace

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

_MIN_TRIALS, _MIN_OBSERVED = 3, 2  # trials begun, and trials with an observation, for a model
_MIN_FOR_OUTLIERS = 3  # final values, for one of them to be an outlier
_MIN_COMPLETE = 7  # complete trials, for pruning
_SAMPLES, _NEIGHBOURS, _MAX_CENTRES = 400, 20, 10  # candidates from the whole space; around each of the best trials
_NEWEST, _MAX_FITTED = 120, 200  # trials that a model is fitted to: of the older ones the front, and a subsample
_SAME = 1e-9  # distance below which two points are equal
_OUTLIER = 3  # interquartile ranges from the median
_EPSILON = 1e-12  # an improvement below it is none
_UNLIKELY = 0.2  # probability of the region of interest, below which a student counts as outside
_ALIKE = 0.15  # share of the best architecture's improvement, above which another one is as good
_OFTEN = 3  # trials of the best architecture, after which the least tried of those as good goes first
_WORTH_WHILE = 0.2  # share of a new trial's expected improvement per epoch, below which a trial is pruned


@dataclass(frozen=True)
class PrimaryMetric:
    """The primary metric as a forecast needs it.

    Attributes:
        name: Its name.
        sign: 1 if it is maximized, -1 if minimized.
        bounds: Its least and greatest value; ``None`` where it has none.
        floor: Its worst value within the region of interest; ``None`` if all values count.
    """

    name: str
    sign: float
    bounds: tuple[float | None, float | None]
    floor: float | None = None

    def scale(self) -> QualityScale:
        """Return the scale of the metric, which has two ends if the metric has."""
        worst, best = self.bounds if self.sign > 0 else (self.bounds[1], self.bounds[0])
        return QualityScale(None if worst is None or best is None else (self.sign * worst, self.sign * best))


@dataclass(frozen=True)
class _ObservedTrial:
    """A trial as the model sees it, with the primary metric to be maximized.

    Attributes:
        number: Its number.
        params: Its configuration.
        architecture: Index of its architecture.
        values: Intermediate values by epochs done.
        final: Value after the last epoch; ``None`` if it is not complete.
        state: Its state.
    """

    number: int
    params: Mapping[str, Any]
    architecture: int
    values: Mapping[int, float]
    final: float | None
    state: TrialState


@dataclass(frozen=True)
class _Fit:
    """A fitted model, and the front that it is to improve.

    Attributes:
        model: The model.
        surface: Attainment surface of the front.
        best: Configurations on the front.
        points: Points of the trials that the model is fitted to.
    """

    model: CurveModel
    surface: Array
    best: Sequence[Mapping[str, Any]]
    points: Array


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
        self._space, self._encoder = space, encoder
        self._names = tuple(space.student)
        self._architectures = {self._key(architecture): index for index, architecture in enumerate(architectures)}
        self._epochs, self._metric, self._seed = space.epochs, metric, seed
        self._scale = metric.scale()
        # Lower end of the region of interest on the scale.
        self._floor = (
            None if metric.floor is None else float(self._scale.transform(np.array([metric.sign * metric.floor]))[0])
        )
        # A cost of 0, as the MACs of a student without products, counts as the least positive one: costs are compared
        # by their logarithms.
        least = np.min(costs, axis=0, where=costs > 0, initial=np.inf)
        self._costs = np.log(np.maximum(costs, np.where(np.isfinite(least), least, 1.0)))
        self._acquisition = ExpectedHypervolumeImprovement(self._costs, self._scale)
        self._finished: dict[int, _ObservedTrial | None] = {}  # by number: they no longer change
        self._encoded: dict[int, Array] = {}  # points of trials by number

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
        observed = self._observe(trials)
        fit = self._fit(observed, len(trials))
        if fit is None:
            candidates = _AffordableCandidates(self._encoder.sample(rng, _SAMPLES), self._architectures, self._names)
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
        observed = self._observe(trials)
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
        if leads and self._floor is None:
            return None
        fit = self._fit(observed, len(trials), exclude=number)
        if fit is None:
            return None
        mean, deviation = fit.model.predict(self._encode([this]), np.array([number]), self._epochs)
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

    def _key(self, params: Mapping[str, Any]) -> tuple[float, ...]:
        """Return the key of an architecture: its parameters as Optuna stores them."""
        return tuple(float(self._space.student[name].to_internal_repr(params[name])) for name in self._names)

    def _observe(self, trials: Sequence[FrozenTrial]) -> list[_ObservedTrial]:
        return [observed for trial in trials if (observed := self._observed(trial)) is not None]

    def _observed(self, trial: FrozenTrial) -> _ObservedTrial | None:
        """Return a trial as the model sees it; ``None`` if it is not begun, or its architecture is not affordable."""
        if trial.number in self._finished:
            return self._finished[trial.number]
        if self._space.branch_of(trial.params) is None or trial.state == TrialState.WAITING:
            return None  # enqueued, and not begun
        architecture = self._architectures.get(self._key(trial.params))
        sign = self._metric.sign
        values = {rung: sign * value for rung, value in trial.intermediate_values.items() if isfinite(value)}
        final = None
        if trial.state == TrialState.COMPLETE:
            final = sign * trial.user_attrs["metrics"][self._metric.name]
        observed = None
        if architecture is not None:
            observed = _ObservedTrial(trial.number, trial.params, architecture, values, final, trial.state)
        if trial.state.is_finished():
            self._finished[trial.number] = observed
        return observed

    def _leads_at_rung(self, this: _ObservedTrial, rung: int, observed: Sequence[_ObservedTrial]) -> bool:
        """Return whether no complete trial that costs no more was better at the rung."""
        rivals = [trial for trial in observed if trial.final is not None and rung in trial.values]
        costs, values = self._costs[[trial.architecture for trial in rivals]], [trial.values[rung] for trial in rivals]
        costs_no_more = (costs <= self._costs[this.architecture]).all(axis=1)
        return bool(this.values[rung] >= np.max(np.array(values)[costs_no_more], initial=-np.inf))

    def _fit(self, observed: Sequence[_ObservedTrial], count: int, exclude: int | None = None) -> _Fit | None:
        """Fit the model; return ``None`` if there are too few trials.

        A running trial gets a fantasy: the final value that the model predicts (the Kriging believer strategy). A
        failed trial counts as the worst.

        Args:
            observed: The trials.
            count: Number of all trials of the study.
            exclude: Number of a running trial that gets no fantasy.
        """
        seen = [trial for trial in observed if trial.values or trial.final is not None]
        if count < _MIN_TRIALS or len(seen) < _MIN_OBSERVED:
            return None
        complete = [trial for trial in seen if trial.final is not None]
        architectures = np.array([trial.architecture for trial in complete], dtype=int)
        finals = self._scale.transform(np.array([trial.final for trial in complete], dtype=float))
        worst = self._worst_quality(seen, finals)
        floor = worst if self._floor is None else self._floor
        surface = self._acquisition.attainment_surface(architectures, finals, floor=floor)
        on_front = self._acquisition.is_nondominated(surface, architectures, finals)
        best = [complete[index] for index in np.flatnonzero(on_front)]
        required = {trial.number for trial in observed if trial.state == TrialState.RUNNING}
        fitted = _subsample(observed, required | {trial.number for trial in best})
        fantasies = {trial.number: worst for trial in fitted if trial.state == TrialState.FAIL}
        model = self._model(fitted, fantasies, worst)
        running = [trial for trial in fitted if trial.state == TrialState.RUNNING and trial.number != exclude]
        if running:
            runs = np.array([trial.number for trial in running])
            mean, _ = model.predict(self._encode(running), runs, self._epochs)
            fantasies |= {trial.number: float(value) for trial, value in zip(running, mean, strict=True)}
            model = self._model(fitted, fantasies, worst)
            all_architectures = np.append(architectures, [trial.architecture for trial in running])
            qualities = np.append(finals, np.maximum(mean, worst))
            surface = self._acquisition.attainment_surface(all_architectures, qualities, floor=floor)
        if not best:  # no trial is within the region yet: the best are the nearest to it
            best = [complete[index] for index in np.argsort(-finals, kind="stable")[:_MAX_CENTRES]]
        centres = sorted(best, key=lambda trial: -trial.number)[:_MAX_CENTRES]
        return _Fit(model, surface, [trial.params for trial in centres], self._encode(fitted))

    def _worst_quality(self, seen: Sequence[_ObservedTrial], finals: Array) -> float:
        """Return the quality on the scale that worse values are clipped to: the worst observed one.

        If the metric lacks an end, a diverged run may be worse than all others by any factor. Then the clip is at an
        outlier's distance below the final values, and not above the median of the trials' first values: a small
        student may end far below all large ones, and has still learnt something.
        """
        values = self._scale.transform(
            np.array([value for trial in seen for value in trial.values.values()], dtype=float)
        )
        worst = float(np.min(np.append(values, finals)))
        if self._scale.ends is not None or len(finals) < _MIN_FOR_OUTLIERS:
            return worst
        first = self._scale.transform(
            np.array([trial.values[min(trial.values)] for trial in seen if trial.values], dtype=float)
        )
        low, middle, high = np.quantile(finals, [0.25, 0.5, 0.75])
        outside = float(np.min([middle - _OUTLIER * (high - low), *([np.median(first)] if len(first) else [])]))
        return max(worst, outside - _EPSILON)

    def _model(self, trials: Sequence[_ObservedTrial], fantasies: Mapping[int, float], worst: float) -> CurveModel:
        """Return the model of some trials.

        Args:
            trials: The trials; one without an observation or a fantasy has no effect.
            fantasies: Assumed final values on the scale, by the trial's number.
            worst: Quality that worse values are clipped to.
        """
        indices, epochs, values = [], [], []
        for index, trial in enumerate(trials):
            curve = dict(trial.values) | ({self._epochs: trial.final} if trial.final is not None else {})
            for after, value in sorted(curve.items()):
                indices.append(index)
                epochs.append(after)
                values.append(value)
        scaled = np.maximum(self._scale.transform(np.array(values, dtype=float)), worst)
        for index, trial in enumerate(trials):
            if trial.number in fantasies:
                indices.append(index)
                epochs.append(self._epochs)
                scaled = np.append(scaled, fantasies[trial.number])
        points = self._encode(trials)
        runs = np.array([trial.number for trial in trials])
        return CurveModel(points[indices], runs[indices], np.array(epochs, dtype=float), scaled)

    def _encode(self, trials: Sequence[_ObservedTrial]) -> Array:
        for trial in trials:
            if trial.number not in self._encoded:
                self._encoded[trial.number] = self._encoder.encode(trial.params)
        return np.vstack([self._encoded[trial.number] for trial in trials])

    def _scored_candidates(self, fit: _Fit, rng: np.random.Generator) -> tuple[_AffordableCandidates, Array]:
        """Return candidates from the whole space and around the best trials, with their expected improvements."""
        around = [self._encoder.neighbours(rng, params, _NEIGHBOURS) for params in fit.best]
        candidates = _AffordableCandidates(
            [*self._encoder.sample(rng, _SAMPLES), *around], self._architectures, self._names
        )
        if not len(candidates.points):
            return candidates, np.empty(0)
        mean, deviation = self._predict_new(fit, candidates.points)
        scores = self._acquisition.evaluate(fit.surface, candidates.architectures, mean, deviation)
        return candidates, np.where(self._is_unlikely_within_region(mean, deviation), 0.0, scores)

    def _predict_new(self, fit: _Fit, points: Array) -> tuple[Array, Array]:
        """Predict the final values of new trials, which have numbers that no trial has."""
        return fit.model.predict(points, -1 - np.arange(len(points)), self._epochs)

    def _is_unlikely_within_region(self, mean: Array, deviation: Array) -> NDArray[np.bool_]:
        """Return which predicted final values are unlikely to be within the region of interest, shape as given."""
        if self._floor is None:
            return np.zeros(mean.shape, dtype=bool)
        found: NDArray[np.bool_] = ndtr((mean - self._floor) / deviation) < _UNLIKELY
        return found

    def _upper_confidence_bounds(self, fit: _Fit, points: Array) -> Array:
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


def _subsample(trials: Sequence[_ObservedTrial], required: set[int]) -> list[_ObservedTrial]:
    """Return as many trials as a model is fitted to: the newest, the required, and evenly spaced others."""
    if len(trials) <= _MAX_FITTED:
        return list(trials)
    older, newest = trials[:-_NEWEST], trials[-_NEWEST:]
    kept = [trial for trial in older if trial.number in required][-(_MAX_FITTED - _NEWEST) :]
    rest = [trial for trial in older if trial.number not in required]
    rest = evenly_spaced(rest, _MAX_FITTED - _NEWEST - len(kept))
    return sorted([*newest, *kept, *rest], key=lambda trial: trial.number)
