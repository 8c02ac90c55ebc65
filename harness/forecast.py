"""The sampler ``front``: what a model of all learning curves so far expects of students, trained or not.

What may be expected to add most to the front for an epoch is done next: a new student is begun, or one gone on with
that was put aside. At a rung a trial is put aside for what promises more (freeze-thaw, after Swersky, Snoek & Adams
2014, arXiv:1406.3896), and stopped if it promises far less than a new student; one that leads at the rung all that cost
no more is never stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState
from scipy.spatial.distance import cdist

from harness.aside import is_aside
from harness.candidates import Candidates, Points
from harness.content import derived_seed
from harness.knowledge import NOTHING, Known, Learner, SeenTrial
from harness.outlook import Outlook, Scale
from harness.space import SearchSpace

Array = NDArray[np.float64]

_FEWEST = 6  # trials begun by chance, before a model has anything to go by
_FEWEST_BRIEF = 12  # likewise, where each of them is put aside at its first rung
_FEWEST_ENDS = 7  # trials trained to the end, before one is stopped
_MOST_ASIDE = 40  # each keeps a checkpoint: of more, those are given up that would be stopped at a rung
_DRAWN, _NEIGHBOURS = 400, 20  # candidates from all over, and beside each of the best
_SAME = 1e-9  # distance of two points, within which they are one
_WORTH_WHILE = 0.2  # of what a new student may add for an epoch: a trial that may add less is stopped


@dataclass(frozen=True)
class Choice:
    """What is best done next.

    Attributes:
        aside: Numbers of the trials put aside that promise more than a new one, the one that promises most first.
        new: The configuration to begin if nobody can go on with those, every parameter's value by name; ``None`` if
            there is none.
    """

    aside: Sequence[int] = field(default_factory=list)
    new: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Judgement:
    """What is to become of a trial at a rung; it goes on if neither is said.

    Attributes:
        outdone: It is to be stopped: how many times as much as of it may be expected of a new one, for an epoch.
        waits: It is to be put aside, for something else promises more for an epoch.
        nothing_new: No new one promises anything, or all have been begun.
    """

    outdone: float | None = None
    waits: bool = False
    nothing_new: bool = False


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
        seed: The study's seed.
        puts_aside: Whether trials may be put aside.
        is_kept: Whether the checkpoint of a trial that was put aside, known by its number, is within reach.
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
        seed: int,
        puts_aside: bool = False,
        is_kept: Callable[[int], bool] = lambda number: True,
    ) -> None:
        self._puts_aside, self._is_kept = puts_aside, is_kept
        self._space, self._points = space, points
        self._names = tuple(space.student)
        self._architectures = {self._row(architecture): number for number, architecture in enumerate(architectures)}
        self._epochs, self._primary, self._sign, self._seed = epochs, primary, sign, seed
        worst, best = bounds if sign > 0 else (bounds[1], bounds[0])
        scale = Scale(None if worst is None or best is None else (sign * worst, sign * best))
        # The logarithm of nothing, as of the MACs of a student without products, is that of the least there is.
        least = np.min(costs, axis=0, where=costs > 0, initial=np.inf)
        self._costs = np.log(np.maximum(costs, np.where(np.isfinite(least), least, 1.0)))
        self._learner = Learner(points, Outlook(self._costs, scale), scale, epochs=epochs)
        self._over: dict[int, SeenTrial | None] = {}  # by number, those that change no more

    def choose(
        self, trials: Sequence[FrozenTrial], is_new: Callable[[Mapping[str, Any]], bool], *, may_begin: bool = True
    ) -> Choice:
        """What may be expected to add most to the front.

        Args:
            trials: All of the study.
            is_new: Whether a configuration is none of theirs.
            may_begin: Whether a new one may be begun.
        """
        seen = self._placed(trials)
        aside = [trial for trial in seen if trial.aside]
        if not may_begin and not aside:
            return Choice()
        known = None if may_begin and len(trials) < self._first else self._learner.known(seen)
        if known is None:
            new = self._drawn_by_chance(len(trials), is_new) if may_begin else None
            return Choice([trial.number for trial in aside] if new is None else [], new)
        rates = self._rates(known, aside)
        best, new = 0.0, None
        if may_begin:
            candidates, gains = self._candidates(known, len(trials))
            # The last figures of sums hang on the number of threads.
            order = np.argsort(-np.round(gains / max(gains.max(initial=0.0), NOTHING), 9), kind="stable")
            place = next((place for place in order if is_new(candidates.configuration(place))), None)
            if place is not None:
                best, new = float(gains[place]) / self._epochs, candidates.configuration(place)
            if len(aside) > _MOST_ASIDE:
                for place in np.argsort(rates, kind="stable"):
                    if self._is_outdone(aside[place], rates[place], best, seen):
                        return Choice([aside[place].number], new)  # whoever takes it up gives it up
        promising = [place for place in np.argsort(-rates, kind="stable") if rates[place] >= best]
        return Choice([aside[place].number for place in promising], new)

    def judge(
        self, number: int, rung: int, trials: Sequence[FrozenTrial], *, may_begin: bool = True, again: bool = False
    ) -> Judgement:
        """What is to become of a trial.

        Args:
            number: The trial, which stands at a rung, or did when it was put aside.
            rung: Epochs done, as many as its last mark.
            trials: All of the study.
            may_begin: Whether a new one may be begun.
            again: Whether it is yet to go on from there; its checkpoint may be out of reach.
        """
        seen = self._placed(trials)
        place = next((place for place, trial in enumerate(seen) if trial.number == number), None)
        if place is None or rung not in seen[place].marks:
            return Judgement()
        # One that is trained again, for its checkpoint was lost, has marks of what is still to come, and goes on there.
        may_wait = self._puts_aside and rung == max(seen[place].marks)
        so_far = {epochs: value for epochs, value in seen[place].marks.items() if epochs <= rung}
        if number < self._first and len(so_far) == 1 and (may_begin or len(trials) > 1) and not again:
            return Judgement(waits=may_wait)
        this = seen[place] = replace(seen[place], marks=so_far, aside=again)
        if not may_wait and (not may_begin or self._leads(this, rung, seen)):
            return Judgement()  # whatever the model may say
        known = self._learner.known(seen, but=number)
        if known is None:
            return Judgement()
        new = 0.0
        if may_begin:
            candidates, gains = self._candidates(known, len(trials))
            is_new = cdist(candidates.points, known.points).min(axis=1, initial=np.inf) > _SAME
            new = float(gains[is_new].max(initial=0.0)) / self._epochs
        own, *others = self._rates(known, [this, *(one for one in seen if one.aside and one is not this)])
        if self._is_outdone(this, own, new, seen):
            return Judgement(outdone=new / max(own, NOTHING))
        return Judgement(waits=may_wait and bool(own < max([new, *others])), nothing_new=new < NOTHING)

    @property
    def _first(self) -> int:
        """How many trials are begun by chance."""
        return _FEWEST_BRIEF if self._puts_aside else _FEWEST

    def _drawn_by_chance(self, begun: int, is_new: Callable[[Mapping[str, Any]], bool]) -> dict[str, Any] | None:
        rng = self._rng(begun)
        candidates = Candidates(self._points.drawn(rng, _DRAWN), self._architectures, self._names)
        order = rng.permutation(len(candidates.architectures))
        return next(filter(is_new, map(candidates.configuration, order)), None)

    def _rng(self, begun: int) -> np.random.Generator:
        """The same between two beginnings: a new student for which a trial waits is to be found again."""
        return np.random.default_rng(derived_seed(self._seed, "forecast", begun))

    def _rates(self, known: Known, trials: Sequence[SeenTrial]) -> Array:
        """What each of some begun trials may be expected to add for an epoch of those it lacks, shape (N,)."""
        if not trials:
            return np.empty(0)
        kept = [not trial.aside or self._is_kept(trial.number) for trial in trials]
        left = [self._epochs - (max(trial.marks) if its else 0) for trial, its in zip(trials, kept, strict=True)]
        architectures = np.array([trial.architecture for trial in trials])
        runs = np.array([trial.number for trial in trials])
        rates: Array = self._learner.gains(known, self._learner.where(trials), architectures, runs) / np.array(left)
        return rates

    def _is_outdone(self, this: SeenTrial, own: float, new: float, seen: Sequence[SeenTrial]) -> bool:
        """Whether a trial promises so much less than a new one that it is to be stopped."""
        if new < NOTHING or own >= _WORTH_WHILE * new or sum(one.end is not None for one in seen) < _FEWEST_ENDS:
            return False
        return not self._leads(this, max(this.marks), seen)

    def _row(self, params: Mapping[str, Any]) -> tuple[float, ...]:
        return tuple(float(self._space.student[name].to_internal_repr(params[name])) for name in self._names)

    def _placed(self, trials: Sequence[FrozenTrial]) -> list[SeenTrial]:
        return [one for trial in trials if (one := self._seen(trial)) is not None]

    def _seen(self, trial: FrozenTrial) -> SeenTrial | None:
        """A trial as the model sees it; ``None`` for one that it can't place."""
        if trial.number in self._over:
            return self._over[trial.number]
        if self._space.branch_of(trial.params) is None or trial.state == TrialState.WAITING:
            return None  # enqueued, and not begun
        architecture = self._architectures.get(self._row(trial.params))
        marks = {rung: self._sign * value for rung, value in trial.intermediate_values.items() if isfinite(value)}
        end, running = None, trial.state == TrialState.RUNNING
        if trial.state == TrialState.COMPLETE:
            end = self._sign * trial.user_attrs["metrics"][self._primary]
        found = None
        if architecture is not None:
            aside = running and bool(marks) and is_aside(trial)
            found = SeenTrial(trial.number, trial.params, architecture, marks, end, trial.state, aside)
        if trial.state.is_finished():
            self._over[trial.number] = found
        return found

    def _leads(self, this: SeenTrial, rung: int, seen: Sequence[SeenTrial]) -> bool:
        """Whether none that costs no more, and was trained to the end, stood better at the rung."""
        rivals = [trial for trial in seen if trial.end is not None and rung in trial.marks]
        costs, marks = self._costs[[trial.architecture for trial in rivals]], [trial.marks[rung] for trial in rivals]
        no_dearer = (costs <= self._costs[this.architecture]).all(axis=1)
        return bool(this.marks[rung] >= np.max(np.array(marks)[no_dearer], initial=-np.inf))

    def _candidates(self, known: Known, begun: int) -> tuple[Candidates, Array]:
        """Configurations from all over and beside the best, and what each may be expected to add."""
        if begun in known.candidates:
            return known.candidates[begun]
        rng = self._rng(begun)
        near = [self._points.near(rng, params, _NEIGHBOURS) for params in known.foremost]
        candidates = Candidates([*self._points.drawn(rng, _DRAWN), *near], self._architectures, self._names)
        runs = -1 - np.arange(len(candidates.architectures))
        gains = self._learner.gains(known, candidates.points, candidates.architectures, runs)
        known.candidates[begun] = candidates, gains
        return candidates, gains
