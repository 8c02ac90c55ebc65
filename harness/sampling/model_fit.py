"""Fit the model of learning curves to a study's trials, and compute the front that it is to improve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState

from harness.sampling.candidates import ABSENT, SpaceEncoder
from harness.sampling.curve_model import CurveModel
from harness.sampling.hypervolume_improvement import ExpectedHypervolumeImprovement, QualityScale
from harness.sampling.subsampling import evenly_spaced
from harness.space import SearchSpace

Array = NDArray[np.float64]

_MIN_TRIALS, _MIN_OBSERVED = 3, 2  # trials begun, and trials with an observation, for a model
_MIN_FOR_OUTLIERS = 3  # final values, for one of them to be an outlier
_MAX_CENTRES = 10  # best trials whose neighbours are candidates
_NEWEST, _MAX_FITTED = 120, 200  # trials that a model is fitted to: of the older ones the front, and a subsample
_OUTLIER = 3  # interquartile ranges from the median
_EPSILON = 1e-12  # margin below an outlier's distance


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
class ObservedTrial:
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
class Fit:
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


class ModelFitter:
    """Fits the curve model to trials.

    Args:
        space: The space, with ranges narrowed to the budgets.
        encoder: Encoder of the space.
        architectures: All architectures within the budgets.
        metric: The primary metric.
        acquisition: Acquisition function over the architectures' costs, on the metric's scale.

    Attributes:
        names: Names of the parameters of an architecture.
        architectures: Index of each architecture by key, its parameters as Optuna stores them.
        floor: Lower end of the region of interest on the scale; ``None`` if all values count.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        encoder: SpaceEncoder,
        architectures: Sequence[Mapping[str, Any]],
        metric: PrimaryMetric,
        acquisition: ExpectedHypervolumeImprovement,
    ) -> None:
        self._space, self._encoder, self._metric, self._acquisition = space, encoder, metric, acquisition
        self.names = tuple(space.student)
        self.architectures = {self._key(architecture): index for index, architecture in enumerate(architectures)}
        self._epochs, self._scale = space.epochs, metric.scale()
        self.floor = (
            None if metric.floor is None else float(self._scale.transform(np.array([metric.sign * metric.floor]))[0])
        )
        self._finished: dict[int, ObservedTrial | None] = {}  # by number: they no longer change
        self._encoded: dict[int, Array] = {}  # points of trials by number

    def observe(self, trials: Sequence[FrozenTrial]) -> list[ObservedTrial]:
        """Return the begun trials with an affordable architecture, as the model sees them."""
        return [observed for trial in trials if (observed := self._observed(trial)) is not None]

    def _observed(self, trial: FrozenTrial) -> ObservedTrial | None:
        """Return a trial as the model sees it; ``None`` if it is not begun, or its architecture is not affordable."""
        if trial.number in self._finished:
            return self._finished[trial.number]
        if self._space.branch_of(trial.params) is None or trial.state == TrialState.WAITING:
            return None  # enqueued, and not begun
        architecture = self.architectures.get(self._key(trial.params))
        sign = self._metric.sign
        values = {rung: sign * value for rung, value in trial.intermediate_values.items() if isfinite(value)}
        final = None
        if trial.state == TrialState.COMPLETE:
            final = sign * trial.user_attrs["metrics"][self._metric.name]
        observed = None
        if architecture is not None:
            observed = ObservedTrial(trial.number, trial.params, architecture, values, final, trial.state)
        if trial.state.is_finished():
            self._finished[trial.number] = observed
        return observed

    def fit(self, observed: Sequence[ObservedTrial], count: int, exclude: int | None = None) -> Fit | None:
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
        floor = worst if self.floor is None else self.floor
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
            mean, _ = model.predict(self.encode(running), runs, self._epochs)
            fantasies |= {trial.number: float(value) for trial, value in zip(running, mean, strict=True)}
            model = self._model(fitted, fantasies, worst)
            all_architectures = np.append(architectures, [trial.architecture for trial in running])
            qualities = np.append(finals, np.maximum(mean, worst))
            surface = self._acquisition.attainment_surface(all_architectures, qualities, floor=floor)
        if not best:  # no trial is within the region yet: the best are the nearest to it
            best = [complete[index] for index in np.argsort(-finals, kind="stable")[:_MAX_CENTRES]]
        centres = sorted(best, key=lambda trial: -trial.number)[:_MAX_CENTRES]
        return Fit(model, surface, [trial.params for trial in centres], self.encode(fitted))

    def _worst_quality(self, seen: Sequence[ObservedTrial], finals: Array) -> float:
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

    def _model(self, trials: Sequence[ObservedTrial], fantasies: Mapping[int, float], worst: float) -> CurveModel:
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
        points = self.encode(trials)
        runs = np.array([trial.number for trial in trials])
        return CurveModel(points[indices], runs[indices], np.array(epochs, dtype=float), scaled)

    def encode(self, trials: Sequence[ObservedTrial]) -> Array:
        """Return the points of some trials, shape (N, D)."""
        for trial in trials:
            if trial.number not in self._encoded:
                self._encoded[trial.number] = self._encoder.encode(trial.params)
        return np.vstack([self._encoded[trial.number] for trial in trials])

    def _key(self, params: Mapping[str, Any]) -> tuple[float, ...]:
        """Return the key of an architecture: its parameters as Optuna stores them."""
        distributions = self._space.student
        return tuple(
            float(distributions[name].to_internal_repr(params[name])) if name in params else ABSENT
            for name in self.names
        )


def _subsample(trials: Sequence[ObservedTrial], required: set[int]) -> list[ObservedTrial]:
    """Return as many trials as a model is fitted to: the newest, the required, and evenly spaced others."""
    if len(trials) <= _MAX_FITTED:
        return list(trials)
    older, newest = trials[:-_NEWEST], trials[-_NEWEST:]
    kept = [trial for trial in older if trial.number in required][-(_MAX_FITTED - _NEWEST) :]
    rest = [trial for trial in older if trial.number not in required]
    rest = evenly_spaced(rest, _MAX_FITTED - _NEWEST - len(kept))
    return sorted([*newest, *kept, *rest], key=lambda trial: trial.number)
