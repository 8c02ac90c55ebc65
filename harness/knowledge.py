"""What is known of a study's learning curves: a model of them, and the front that a student is to add to."""

from __future__ import annotations

from collections.abc import Container, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.trial import TrialState

from harness.candidates import Candidates, Points
from harness.choice import evenly
from harness.curve_model import CurveModel
from harness.outlook import Outlook, Scale

Array = NDArray[np.float64]
Places = NDArray[np.int64]

NOTHING = 1e-12
"""A gain that is none."""

_FEWEST_MARKED = 3  # trials that a model is made of
_FEWEST_SPREAD = 3  # trials trained to the end, whose quartiles say something
_NEWEST, _MOST = 120, 200  # trials that a model looks at: of the older ones the front's, and an even choice
_FAR = 3  # of the distance between quartiles
_CENTRES = 10  # of the best, beside which others are looked for


@dataclass(frozen=True)
class SeenTrial:
    """A trial as a model sees it: quality by epochs done, the higher the better; its end where it has one."""

    number: int
    params: Mapping[str, Any]
    architecture: int
    marks: Mapping[int, float]
    end: float | None
    state: TrialState
    aside: bool


@dataclass(frozen=True)
class Known:
    """A model, and the front that is to be added to.

    Attributes:
        model: Of the curves.
        best: The best quality that may be had for each level of costs.
        foremost: Configurations on the front.
        points: Of the trials that the model looks at.
        candidates: Configurations that were compared by it, and what each may add, by how many trials were begun.
    """

    model: CurveModel
    best: Array
    foremost: Sequence[Mapping[str, Any]]
    points: Array
    candidates: dict[int, tuple[Candidates, Array]] = field(default_factory=dict)


class Learner:
    """Makes models of the curves of a study's trials.

    Args:
        points: The space's.
        outlook: Says what a student of some quality may add.
        scale: Of quality.
        epochs: Of a whole trial.
    """

    def __init__(self, points: Points, outlook: Outlook, scale: Scale, *, epochs: int) -> None:
        self._points, self._outlook, self._scale, self._epochs = points, outlook, scale, epochs
        self._at: dict[int, Array] = {}  # points of trials
        self._latest: tuple[Hashable, Known] | None = None

    def known(self, seen: Sequence[SeenTrial], but: int | None = None) -> Known | None:
        """What is known; ``None`` where that is next to nothing.

        Of trials that run, ``but`` one, it is believed that they will end as is expected of them; of one that failed,
        that it would have been as bad as any. One that was put aside may still end anyhow.

        The latest is kept: as much is known when a trial is put aside, the next one chosen, and that one judged again.
        """
        at_work = [trial for trial in seen if trial.state == TrialState.RUNNING and not trial.aside]
        believing = {trial.number for trial in at_work} - {but}
        open_ones = [(trial.number, len(trial.marks)) for trial in seen if not trial.state.is_finished()]
        key = (len(seen), tuple(open_ones), frozenset(believing))
        if self._latest is None or self._latest[0] != key:
            known = self._learnt(seen, believing)
            if known is None:
                return None
            self._latest = (key, known)
        return self._latest[1]

    def _learnt(self, seen: Sequence[SeenTrial], believing: Container[int]) -> Known | None:
        marked = [trial for trial in seen if trial.marks or trial.end is not None]
        if len(marked) < _FEWEST_MARKED:
            return None
        complete = [trial for trial in marked if trial.end is not None]
        places = np.array([trial.architecture for trial in complete], dtype=int)
        ends = self._scale.of(np.array([trial.end for trial in complete], dtype=float))
        marks = self._scale.of(np.array([value for trial in marked for value in trial.marks.values()], dtype=float))
        floor = self._floor(marks, ends)
        best = self._outlook.best(places, ends, floor=floor)
        foremost = [complete[place] for place in np.flatnonzero(self._outlook.is_best(best, places, ends))]
        at_work = {trial.number for trial in seen if trial.state == TrialState.RUNNING}
        looked_at = _chosen(seen, at_work | {trial.number for trial in foremost})
        believed = {trial.number: floor for trial in looked_at if trial.state == TrialState.FAIL}
        model = self._model(looked_at, believed, floor)
        running = [trial for trial in looked_at if trial.number in believing]
        if running:
            runs = np.array([trial.number for trial in running])
            mean, _ = model.at(self.where(running), runs, self._epochs)
            believed |= {trial.number: float(value) for trial, value in zip(running, mean, strict=True)}
            model = self._model(looked_at, believed, floor)
            at = np.array([trial.architecture for trial in running])
            best = self._outlook.best(np.append(places, at), np.append(ends, np.maximum(mean, floor)), floor=floor)
        centres = sorted(foremost, key=lambda trial: -trial.number)[:_CENTRES]
        return Known(model, best, [trial.params for trial in centres], self.where(looked_at))

    def _floor(self, marks: Array, ends: Array) -> float:
        """Quality on the scale, below which all is as bad: the worst there was.

        Where the metric has not two ends, a run that went astray may be worse than all others by any factor: then no
        more than what is far outside of the ends.
        """
        worst = float(np.min(np.append(marks, ends)))
        if self._scale.ends is not None or len(ends) < _FEWEST_SPREAD:
            return worst
        low, middle, high = np.quantile(ends, [0.25, 0.5, 0.75])
        return max(worst, float(middle - _FAR * (high - low) - NOTHING))

    def _model(self, trials: Sequence[SeenTrial], believed: Mapping[int, float], floor: float) -> CurveModel:
        """The model of some trials.

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
        points = self.where(trials)
        runs = np.array([trial.number for trial in trials])
        return CurveModel(points[which], runs[which], np.array(epochs, dtype=float), scaled)

    def where(self, trials: Sequence[SeenTrial]) -> Array:
        """Their points, shape (N, D)."""
        for trial in trials:
            if trial.number not in self._at:
                self._at[trial.number] = self._points.of(trial.params)
        return np.vstack([self._at[trial.number] for trial in trials])

    def gains(self, known: Known, points: Array, architectures: Places, runs: Places) -> Array:
        """What each of some students may be expected to add to the front, shape (M,).

        Args:
            known: What is known.
            points: Of their configurations, shape (M, D).
            architectures: Of each, shape (M,).
            runs: Which runs they are, shape (M,).
        """
        if not len(points):
            return np.empty(0)
        mean, deviation = known.model.at(points, runs, self._epochs)
        return self._outlook.gains(known.best, architectures, mean, deviation)


def _chosen(trials: Sequence[SeenTrial], wanted: set[int]) -> list[SeenTrial]:
    """As many trials as a model can look at in a moment: the newest, those wanted, and an even choice of the others."""
    if len(trials) <= _MOST:
        return list(trials)
    older, newest = trials[:-_NEWEST], trials[-_NEWEST:]
    kept = [trial for trial in older if trial.number in wanted][-(_MOST - _NEWEST) :]
    rest = [trial for trial in older if trial.number not in wanted]
    rest = evenly(rest, _MOST - _NEWEST - len(kept))
    return sorted([*newest, *kept, *rest], key=lambda trial: trial.number)
