"""The sampler ``front``: what a model of all learning curves so far expects of students, trained or not.

It proposes the student that may be expected to add most to the front for an epoch, and stops one, at a rung, that may
be expected to add far less than a new one would. Both ask the same model, and count what lies within the region of
interest alone; a trial that leads at a rung all that cost no more goes on, unless it will hardly reach the region.
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
from harness.sampling.candidates import Points, Pool
from harness.sampling.curve_model import CurveModel
from harness.sampling.hypervolume_improvement import ExpectedImprovement, Scale
from harness.sampling.subsampling import evenly
from harness.space import SearchSpace

Array = NDArray[np.float64]
Places = NDArray[np.int64]

_FEWEST, _FEWEST_MARKED = 3, 2  # trials begun, and of them seen at a rung, before a model has anything to go by
_FEWEST_TO_TELL = 3  # ends, before one of them may be far outside of the others
_FEWEST_ENDS = 7  # trials trained to the end, before one is stopped
_DRAWN, _NEIGHBOURS, _CENTRES = 400, 20, 10  # candidates from all over, and beside each of the best
_NEWEST, _MOST = 120, 200  # trials that a model looks at: of the older ones the front's, and an even choice
_SAME = 1e-9  # distance of two points, within which they are one
_FAR = 3  # of the distance between quartiles
_NOTHING = 1e-12  # a gain that is none
_HARDLY = 0.2  # probability of the region, below which a model can tell that a student is not in it
_ALIKE = 0.15  # of the most that an architecture may add: those that may add more are as good as one another
_OFTEN = 3  # trials of one architecture, from which on others that promise about as much go first
_WORTH_WHILE = 0.2  # of what a new student may add for an epoch: a trial that may add less is stopped


@dataclass(frozen=True)
class _Trial:
    """A trial as a model sees it: quality by epochs done, the higher the better; its end where it has one."""

    number: int
    params: Mapping[str, Any]
    architecture: int
    marks: Mapping[int, float]
    end: float | None
    state: TrialState


@dataclass(frozen=True)
class _Known:
    """A model, and the front that it is to add to."""

    model: CurveModel
    best: Array
    foremost: Sequence[Mapping[str, Any]]
    points: Array  # of the trials that it looks at


class Forecast:
    """What may be expected of a study's students.

    Args:
        space: What varies, within the budgets as far as ranges can say it.
        points: The space's; they draw what may be proposed.
        architectures: All that are within the budgets.
        costs: Of each, the lower the better, positive, shape (A, K).
        epochs: Of a whole trial.
        primary: Name of the primary metric.
        sign: 1 if it is to be maximised, -1 if minimised.
        bounds: The least and the most that it can be; ``None`` where there is none.
        floor: The worst of it that counts; ``None`` where all counts.
        seed: The study's seed.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        points: Points,
        architectures: Sequence[Mapping[str, Any]],
        costs: Array,
        epochs: int,
        primary: str,
        sign: float,
        bounds: tuple[float | None, float | None],
        floor: float | None = None,
        seed: int,
    ) -> None:
        self._space, self._points = space, points
        self._names = tuple(space.student)
        self._architectures = {self._row(architecture): number for number, architecture in enumerate(architectures)}
        self._epochs, self._primary, self._sign, self._seed = epochs, primary, sign, seed
        worst, best = bounds if sign > 0 else (bounds[1], bounds[0])
        self._scale = Scale(None if worst is None or best is None else (sign * worst, sign * best))
        self._level = None if floor is None else float(self._scale.of(np.array([sign * floor]))[0])
        # The logarithm of nothing, as of the MACs of a student without products, is that of the least there is.
        least = np.min(costs, axis=0, where=costs > 0, initial=np.inf)
        self._costs = np.log(np.maximum(costs, np.where(np.isfinite(least), least, 1.0)))
        self._outlook = ExpectedImprovement(self._costs, self._scale)
        self._over: dict[int, _Trial | None] = {}  # by number, those that change no more
        self._at: dict[int, Array] = {}  # points of trials

    def propose(
        self, trials: Sequence[FrozenTrial], is_new: Callable[[Mapping[str, Any]], bool]
    ) -> dict[str, Any] | None:
        """Return the configuration that may be expected to add most to the front.

        Args:
            trials: All of the study.
            is_new: Whether a configuration is none of theirs.

        Returns:
            Every parameter's value by name; ``None`` if none of the candidates is new.
        """
        rng = np.random.default_rng(derived_seed(self._seed, "forecast", len(trials)))
        seen = self._placed(trials)
        known = self._known(seen, len(trials))
        if known is None:
            candidates = _Candidates(self._points.drawn(rng, _DRAWN), self._architectures, self._names)
            order = rng.permutation(len(candidates.architectures))
        else:
            candidates, gains = self._candidates(known, rng)
            if gains.max(initial=0.0) < _NOTHING:  # none that is likely to add anything: whatever may end best
                gains = self._hopes(known, candidates.points)
            gains = _spread(gains, candidates.architectures, [trial.architecture for trial in seen])
            # The last figures of sums hang on the number of threads.
            order = np.argsort(-np.round(gains / max(gains.max(initial=0.0), _NOTHING), 9), kind="stable")
        return next(filter(is_new, map(candidates.configuration, order)), None)

    def should_prune(self, number: int, rung: int, trials: Sequence[FrozenTrial]) -> float | None:
        """Return whether a trial is better given up for a new one.

        Args:
            number: The trial, which stands at a rung.
            rung: Epochs done, as many as its last mark.
            trials: All of the study.

        Returns:
            ``None`` if it goes on. Else how many times as much as of it may be expected of a new one, for an epoch;
            infinite for one that will hardly end within the region.
        """
        seen = self._placed(trials)
        place = next((place for place, trial in enumerate(seen) if trial.number == number), None)
        if place is None or rung not in seen[place].marks or sum(one.end is not None for one in seen) < _FEWEST_ENDS:
            return None
        # One that is trained again, for its checkpoint was lost, has marks of what is still to come.
        so_far = {epochs: value for epochs, value in seen[place].marks.items() if epochs <= rung}
        this = seen[place] = replace(seen[place], marks=so_far)
        leads = self._leads(this, rung, seen)
        if leads and self._level is None:
            return None
        known = self._known(seen, len(trials), but=number)
        if known is None:
            return None
        mean, deviation = known.model.at(self._where([this]), np.array([number]), self._epochs)
        if self._is_hardly_within(mean, deviation)[0]:
            return inf
        if leads:
            return None
        candidates, gains = self._candidates(known, np.random.default_rng(derived_seed(self._seed, number, rung)))
        gains = gains[cdist(candidates.points, known.points).min(axis=1, initial=np.inf) > _SAME]
        own = float(self._outlook.gains(known.best, np.array([this.architecture]), mean, deviation)[0])
        own /= self._epochs - rung
        new = float(gains.max(initial=0.0)) / self._epochs
        return None if own >= _WORTH_WHILE * new or new < _NOTHING else new / max(own, _NOTHING)

    def _row(self, params: Mapping[str, Any]) -> tuple[float, ...]:
        return tuple(float(self._space.student[name].to_internal_repr(params[name])) for name in self._names)

    def _placed(self, trials: Sequence[FrozenTrial]) -> list[_Trial]:
        return [one for trial in trials if (one := self._seen(trial)) is not None]

    def _seen(self, trial: FrozenTrial) -> _Trial | None:
        """Return a trial as the model sees it; ``None`` for one that it can't place."""
        if trial.number in self._over:
            return self._over[trial.number]
        if self._space.branch_of(trial.params) is None or trial.state == TrialState.WAITING:
            return None  # enqueued, and not begun
        architecture = self._architectures.get(self._row(trial.params))
        marks = {rung: self._sign * value for rung, value in trial.intermediate_values.items() if isfinite(value)}
        end = None
        if trial.state == TrialState.COMPLETE:
            end = self._sign * trial.user_attrs["metrics"][self._primary]
        found = None
        if architecture is not None:
            found = _Trial(trial.number, trial.params, architecture, marks, end, trial.state)
        if trial.state.is_finished():
            self._over[trial.number] = found
        return found

    def _leads(self, this: _Trial, rung: int, seen: Sequence[_Trial]) -> bool:
        """Return whether none that costs no more, and was trained to the end, stood better at the rung."""
        rivals = [trial for trial in seen if trial.end is not None and rung in trial.marks]
        costs, marks = self._costs[[trial.architecture for trial in rivals]], [trial.marks[rung] for trial in rivals]
        no_dearer = (costs <= self._costs[this.architecture]).all(axis=1)
        return bool(this.marks[rung] >= np.max(np.array(marks)[no_dearer], initial=-np.inf))

    def _known(self, seen: Sequence[_Trial], count: int, but: int | None = None) -> _Known | None:
        """Return a model of the curves; of trials that run, ``but`` one, it believes that they will end as it expects.

        Of one that failed, that it would have been as bad as any.
        """
        marked = [trial for trial in seen if trial.marks or trial.end is not None]
        if count < _FEWEST or len(marked) < _FEWEST_MARKED:
            return None
        complete = [trial for trial in marked if trial.end is not None]
        places = np.array([trial.architecture for trial in complete], dtype=int)
        ends = self._scale.of(np.array([trial.end for trial in complete], dtype=float))
        marks = self._scale.of(np.array([value for trial in marked for value in trial.marks.values()], dtype=float))
        first = self._scale.of(
            np.array([trial.marks[min(trial.marks)] for trial in marked if trial.marks], dtype=float)
        )
        floor = self._floor(marks, first, ends)
        level = floor if self._level is None else self._level
        best = self._outlook.best(places, ends, floor=level)
        foremost = [complete[place] for place in np.flatnonzero(self._outlook.is_best(best, places, ends))]
        at_work = {trial.number for trial in seen if trial.state == TrialState.RUNNING}
        looked_at = _chosen(seen, at_work | {trial.number for trial in foremost})
        believed = {trial.number: floor for trial in looked_at if trial.state == TrialState.FAIL}
        model = self._model(looked_at, believed, floor)
        running = [trial for trial in looked_at if trial.state == TrialState.RUNNING and trial.number != but]
        if running:
            runs = np.array([trial.number for trial in running])
            mean, _ = model.at(self._where(running), runs, self._epochs)
            believed |= {trial.number: float(value) for trial, value in zip(running, mean, strict=True)}
            model = self._model(looked_at, believed, floor)
            at = np.array([trial.architecture for trial in running])
            best = self._outlook.best(np.append(places, at), np.append(ends, np.maximum(mean, floor)), floor=level)
        if not foremost:  # none is within the region yet: the best are the nearest to it
            foremost = [complete[place] for place in np.argsort(-ends, kind="stable")[:_CENTRES]]
        centres = sorted(foremost, key=lambda trial: -trial.number)[:_CENTRES]
        return _Known(model, best, [trial.params for trial in centres], self._where(looked_at))

    def _floor(self, marks: Array, first: Array, ends: Array) -> float:
        """Quality on the scale, below which all is as bad: the worst there was.

        Where the metric has not two ends, a run that went astray may be worse than all others by any factor: then no
        more than what is far outside of the ends, and worse than half of the trials were at their first mark. A small
        student may end far below all large ones, and has learnt something yet.
        """
        worst = float(np.min(np.append(marks, ends)))
        if self._scale.ends is not None or len(ends) < _FEWEST_TO_TELL:
            return worst
        low, middle, high = np.quantile(ends, [0.25, 0.5, 0.75])
        outside = float(np.min([middle - _FAR * (high - low), *([np.median(first)] if len(first) else [])]))
        return max(worst, outside - _NOTHING)

    def _model(self, trials: Sequence[_Trial], believed: Mapping[int, float], floor: float) -> CurveModel:
        """Return the model of some trials.

        Args:
            trials: One that has neither marks nor an end, nor is believed to have one, says nothing.
            believed: Ends, on the scale, by number.
            floor: What is worse is taken for this.
        """
        which, epochs, values = [], [], []
        for place, trial in enumerate(trials):
            curve = dict(trial.marks) | ({self._epochs: trial.end} if trial.end is not None else {})
            for after, value in sorted(curve.items()):
                which.append(place)
                epochs.append(after)
                values.append(value)
        scaled = np.maximum(self._scale.of(np.array(values, dtype=float)), floor)
        for place, trial in enumerate(trials):
            if trial.number in believed:
                which.append(place)
                epochs.append(self._epochs)
                scaled = np.append(scaled, believed[trial.number])
        points = self._where(trials)
        runs = np.array([trial.number for trial in trials])
        return CurveModel(points[which], runs[which], np.array(epochs, dtype=float), scaled)

    def _where(self, trials: Sequence[_Trial]) -> Array:
        for trial in trials:
            if trial.number not in self._at:
                self._at[trial.number] = self._points.of(trial.params)
        return np.vstack([self._at[trial.number] for trial in trials])

    def _candidates(self, known: _Known, rng: np.random.Generator) -> tuple[_Candidates, Array]:
        """Configurations from all over and beside the best, and what each may be expected to add."""
        near = [self._points.near(rng, params, _NEIGHBOURS) for params in known.foremost]
        candidates = _Candidates([*self._points.drawn(rng, _DRAWN), *near], self._architectures, self._names)
        runs = -1 - np.arange(len(candidates.architectures))
        return candidates, self._gains(known, candidates.points, candidates.architectures, runs)

    def _gains(self, known: _Known, points: Array, architectures: Places, runs: Places) -> Array:
        if not len(points):
            return np.empty(0)
        mean, deviation = known.model.at(points, runs, self._epochs)
        gains = self._outlook.gains(known.best, architectures, mean, deviation)
        return np.where(self._is_hardly_within(mean, deviation), 0.0, gains)

    def _is_hardly_within(self, mean: Array, deviation: Array) -> NDArray[np.bool_]:
        """Return whether an end that is so expected will hardly be within the region of interest, shape as given."""
        if self._level is None:
            return np.zeros(mean.shape, dtype=bool)
        found: NDArray[np.bool_] = ndtr((mean - self._level) / deviation) < _HARDLY
        return found

    def _hopes(self, known: _Known, points: Array) -> Array:
        """Return how good each of some new students may turn out, as shares of the best and the worst of these."""
        if not len(points):
            return np.empty(0)
        mean, deviation = known.model.at(points, -1 - np.arange(len(points)), self._epochs)
        hopes: Array = mean + deviation
        shares: Array = (hopes - hopes.min()) / max(float(np.ptp(hopes)), _NOTHING)
        return shares


class _Candidates:
    """Configurations of several pools whose architectures are within reach.

    Args:
        pools: The pools.
        architectures: Numbers of the architectures within reach.
        names: Of the parameters that make an architecture.
    """

    def __init__(
        self, pools: Sequence[Pool], architectures: Mapping[tuple[float, ...], int], names: Sequence[str]
    ) -> None:
        found = np.array([architectures.get(row, -1) for pool in pools for row in pool.rows(names)], dtype=int)
        self._pools = pools
        self._places = np.flatnonzero(found >= 0)
        self._starts = np.cumsum([0, *map(len, pools)])
        self.architectures = found[self._places]
        self.points = np.vstack([pool.points for pool in pools])[self._places]

    def configuration(self, number: int) -> dict[str, Any]:
        """Return one of them, every parameter's value by name."""
        place = int(self._places[number])
        pool = int(np.searchsorted(self._starts, place, side="right")) - 1
        return self._pools[pool][place - int(self._starts[pool])]


def _spread(gains: Array, architectures: Places, tried: Sequence[int]) -> Array:
    """Put an architecture first: what promises most, and once that was tried often, the least tried of those alike.

    Models know a gain to a factor at best, and one that is off in a place is off there again and again. And the more
    often an architecture was tried, the rarer is a training that beats all before it: what it promises is divided by
    the root of that. Those that promise ``_ALIKE`` of the most are alike.

    Args:
        gains: What each candidate may be expected to add, shape (N,).
        architectures: Of each candidate, shape (N,).
        tried: The architecture of each trial.

    Returns:
        The gains, those of that architecture's candidates above all others.
    """
    if not len(gains):
        return gains
    most = np.zeros(int(architectures.max()) + 1)
    np.maximum.at(most, architectures, gains)
    counts = np.bincount(tried, minlength=len(most))
    most /= np.sqrt(1 + counts[: len(most)])
    first = int(np.argmax(most))
    if counts[first] >= _OFTEN:
        alike = np.flatnonzero(most >= _ALIKE * most.max())
        first = min(map(int, alike), key=lambda place: (counts[place], -most[place]))
    preferred: Array = np.where(architectures == first, gains + gains.max(), gains)
    return preferred


def _chosen(trials: Sequence[_Trial], wanted: set[int]) -> list[_Trial]:
    """As many trials as a model can look at in a moment: the newest, those wanted, and an even choice of the others."""
    if len(trials) <= _MOST:
        return list(trials)
    older, newest = trials[:-_NEWEST], trials[-_NEWEST:]
    kept = [trial for trial in older if trial.number in wanted][-(_MOST - _NEWEST) :]
    rest = [trial for trial in older if trial.number not in wanted]
    rest = evenly(rest, _MOST - _NEWEST - len(kept))
    return sorted([*newest, *kept, *rest], key=lambda trial: trial.number)
