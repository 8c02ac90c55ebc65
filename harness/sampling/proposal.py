"""What is tried next: a sampler's word, never the same configuration twice, never a student over the budget."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseGASampler, BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from harness.core.content import derived_seed
from harness.core.errors import HarnessError
from harness.core.pareto import pareto_front
from harness.sampling.first_trials import first_trials
from harness.sampling.forecast import Forecast
from harness.sampling.subsampling import evenly
from harness.space import METHOD, SearchSpace
from harness.space_ranges import listed

_DRAWS = 10  # of the sampler, before the rest of a finite space is drawn from evenly
_EVEN_DRAWS = 10_000
_PROBES = 1_000  # of architectures whose costs are not known yet
_BLOCK = 400  # trials; of all but the newest one to two blocks, a model looks at a block's worth
_BEST = 100  # of those, on the foremost fronts
MOST_CONFIGURATIONS = 100_000  # a space of more counts as endless


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A configuration to be tried.

    Attributes:
        params: Every parameter's value by name.
        distributions: What each was drawn from.
        notes: What the sampler has to remember of it.
        recipe: Name of the recipe that it is, or ``None``.
    """

    params: dict[str, Any]
    distributions: dict[str, BaseDistribution]
    notes: dict[str, Any] = field(default_factory=dict)
    recipe: str | None = None


class Proposer:
    """Proposes configurations, the recipes first.

    The sampler is asked on a view of the study that lies in memory: a trial is stored whole, in one transaction, when
    it is known to be new and within the budgets, and what is drawn in vain leaves no trace.

    Args:
        space: What varies, with what the person holds fixed, and within the budgets as far as ranges can say it.
        sampler: Name of the sampler.
        seed: The study's seed.
        directions: Of the study's objectives.
        refusal: Says of students of an architecture why none is tried, as in ``over --max``; ``None`` if it may be.
        recipes: Names of recipes that the person asks for.
        default_recipes: Whether those that are tried unasked follow.
        small: Architectures that the first and the last of those are tried with; none where no cost is an objective.
        forecast: Proposes in the sampler's place, where the sampler is ``front`` and costs are known beforehand.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        sampler: str,
        seed: int,
        directions: tuple[str, ...],
        refusal: Callable[[Mapping[str, Any]], str | None] = lambda architecture: None,
        recipes: Sequence[str] = (),
        default_recipes: bool = True,
        small: Sequence[Mapping[str, Any]] = (),
        forecast: Forecast | None = None,
    ) -> None:
        self.space = space
        self._small = small
        self._forecast = forecast
        self._sampler = sampler
        self._seed = seed
        self._directions = directions
        self._blocks = 0  # that the view holds in part
        self._empty_view()
        self._known: set[int] = set()  # numbers of the trials that are among those tried
        self._tried: set[Hashable] = set()
        self._refusal = refusal
        self._asked = recipes
        self._first_trials = first_trials(space, recipes, defaults=default_recipes)
        self._generations = 0

    def propose(self, trials: list[FrozenTrial]) -> Proposal | None:
        """Return the next configuration; ``None`` when all of a finite space have been tried.

        Draws are seeded by (seed, number of trials): a search that was cut goes on as if it had not been.

        Args:
            trials: All of the study.

        Raises:
            HarnessError: If next to nothing that can be drawn is new and may be tried.
        """
        self._note(trials)
        used = {trial.user_attrs.get("recipe") for trial in trials}
        for name, params in self._recipes.items():
            if name not in used and self._is_new(params):
                return self._proposal(params, recipe=name)
        if self._forecast is None:
            proposal = self._sampled(trials)
        else:
            found = self._forecast.propose(trials, lambda params: self._is_new(params) and self._may_be_tried(params))
            proposal = None if found is None else self._proposal(found)
        return proposal or self._drawn_evenly(derived_seed(self._seed, "even draw", len(trials)))

    def _sampled(self, trials: list[FrozenTrial]) -> Proposal | None:
        """Return the sampler's word; ``None`` if it has nothing new to say."""
        self._look_at(trials)
        drawn: set[Hashable] = set()
        for attempt in range(_DRAWS):
            proposal = self._drawn(derived_seed(self._seed, "draw", len(trials), attempt))
            if self._is_new(proposal.params) and self._may_be_tried(proposal.params):
                return proposal
            key = _key(proposal.params, proposal.distributions)
            if key in drawn:
                break  # a sampler that repeats itself has nothing else in mind
            drawn.add(key)
        return None

    def _note(self, trials: list[FrozenTrial]) -> None:
        """What has been tried is not tried again."""
        for trial in trials:
            if trial.number not in self._known and self.space.branch_of(trial.params) is not None:
                self._known.add(trial.number)
                self._tried.add(_key(trial.params, trial.distributions))

    def _look_at(self, trials: list[FrozenTrial]) -> None:
        """Bring the view level with the study. Samplers keep away from what runs, so running trials are in it too.

        What a model costs grows with what it looks at: of the older trials it is shown the best and an even choice of
        the others. Which they are depends on the trials alone, not on when this process began.
        """
        blocks = max(0, len(trials) // _BLOCK - 1) if self._sampler in ("tpe", "gp", "front") else 0
        if blocks > self._blocks:
            self._blocks = blocks
            self._empty_view()
        older = trials[: blocks * _BLOCK]
        if older and not self._viewed:
            self._left_out |= {trial.number for trial in older} - _representative(older, self._directions)
        for trial in trials:
            if trial.number not in self._known:
                continue  # enqueued, and not begun
            if trial.number not in self._viewed and trial.number not in self._left_out:
                self._viewed[trial.number] = len(self._view.get_trials(deepcopy=False))
                self._view.add_trial(_viewed(trial))
                if not trial.state.is_finished():
                    self._open.add(trial.number)
            elif trial.number in self._open and trial.state.is_finished():
                self._open.remove(trial.number)
                values = trial.values if trial.state == TrialState.COMPLETE else None
                self._view.tell(self._viewed[trial.number], values, state=trial.state)

    def _empty_view(self) -> None:
        self._view = optuna.create_study(directions=self._directions, sampler=RandomSampler(self._seed))  # type: ignore[arg-type]
        self._viewed: dict[int, int] = {}  # number in the view by the trial's own
        self._left_out: set[int] = set()  # older ones that the view does not hold
        self._open: set[int] = set()

    def _drawn(self, seed: int) -> Proposal:
        sampler = self._view.sampler = make_sampler(self._sampler, seed)
        if isinstance(sampler, BaseGASampler):
            self._choose_parents(sampler)
        trial = self._view.ask()
        params = self.space.suggest(trial).params()
        notes = self._view.get_trials(deepcopy=False)[trial.number].system_attrs
        self._view.tell(trial, state=TrialState.FAIL)  # no sampler heeds it
        return self._proposal(params, notes=dict(notes))

    def _proposal(self, params: dict[str, Any], **known: Any) -> Proposal:
        branch = self.space.branch_of(params)
        assert branch is not None, params
        return Proposal(params=params, distributions=branch, **known)

    def _choose_parents(self, sampler: BaseGASampler) -> None:
        """One generation after the other: left to itself, it goes back to the first one by recursion."""
        attrs = (attr for trial in self._view.get_trials(deepcopy=False) for attr in trial.system_attrs.items())
        newest = max((number for name, number in attrs if name.endswith(":generation")), default=0)
        while self._generations < newest:
            self._generations += 1
            sampler.get_parent_population(self._view, self._generations)

    @cached_property
    def _recipes(self) -> dict[str, dict[str, Any]]:
        """Return the recipes, each with an architecture that may be tried: the nearest to the middle of the space.

        But the first and the last of the study's own have small ones, the cheapest and one towards it. Most of what a
        front of costs dominates lies there, costs being compared by their logarithms, and three sizes say more of the
        others than two.
        """
        refused: Counter[str] = Counter()
        middle = self._nearest_to_middle(refused)
        if middle is None and self._asked:
            raise HarnessError(
                f"--recipe {self._asked[0]} needs a student that may be trained near the middle of the space, but of "
                f"those looked at none may: {_counted(refused)}; hold one with --fix."
            )
        if middle is None:
            return {}
        found = {name: params | middle for name, params in self._first_trials.items()}
        unasked = [name for name in found if name not in self._asked]
        for name, architecture in zip((*unasked[:1], *unasked[1:][-1:]), self._small, strict=False):
            found[name] |= architecture
        return found

    def _nearest_to_middle(self, refused: Counter[str]) -> dict[str, Any] | None:
        """The architecture nearest to the middle that may be tried; why others may not is counted in ``refused``."""
        middle = self._architecture(self.space.middle())
        if (why := self._refusal(middle)) is None:
            return middle
        refused[why] += 1
        lists = {name: listed(dist, MOST_CONFIGURATIONS) for name, dist in self.space.student.items()}
        architectures = self.space.architectures(limit=MOST_CONFIGURATIONS)
        if architectures is None:
            return None

        def distance(architecture: dict[str, Any]) -> float:
            places = ((lists[name] or [], architecture[name], middle[name]) for name in architecture)
            return sum(((values.index(a) - values.index(b)) / len(values)) ** 2 for values, a, b in places)

        for architecture in sorted(architectures, key=distance)[:_PROBES]:
            if architecture == middle:
                continue
            if (why := self._refusal(architecture)) is None:
                return architecture
            refused[why] += 1
        return None

    def _drawn_evenly(self, seed: int) -> Proposal | None:
        """Return a configuration from what is left, by chance alone."""
        rng, refused = np.random.default_rng(seed), Counter[str]()
        architectures = self.space.architectures(limit=MOST_CONFIGURATIONS)
        rest = self._rest_of_configurations()
        if architectures is not None and rest is not None and len(architectures) * len(rest) < MOST_CONFIGURATIONS:
            for place in rng.permutation(len(architectures)):
                architecture = architectures[place]
                left = [params for other in rest if self._is_new(params := architecture | other)]
                if not left:
                    continue
                if (why := self._refusal(architecture)) is None:
                    return self._proposal(left[int(rng.integers(len(left)))])
                refused[why] += 1
            if refused and not self._tried:
                raise HarnessError(_none_to_be_tried(refused))
            return None
        view = optuna.create_study(sampler=RandomSampler(seed))
        for _ in range(_EVEN_DRAWS):
            params = self.space.suggest(view.ask()).params()
            if self._is_new(params):
                if (why := self._refusal(self._architecture(params))) is None:
                    return self._proposal(params)
                refused[why] += 1
                if refused.total() >= _PROBES:
                    break
        if not refused:
            raise HarnessError(f"the space is all but exhausted: {_EVEN_DRAWS:,} draws found nothing new in it.")
        raise HarnessError(_none_to_be_tried(refused))

    def _rest_of_configurations(self) -> list[dict[str, Any]] | None:
        """Return all that may stand beside an architecture; ``None`` if it is uncountable, or too much."""
        found: list[dict[str, Any]] = []
        for method in self.space.methods:
            rest = {name: dist for name, dist in self.space.branches[method].items() if name not in self.space.student}
            values = {name: listed(distribution, MOST_CONFIGURATIONS) for name, distribution in rest.items()}
            if METHOD in rest:
                values[METHOD] = [method]
            finite = [v for v in values.values() if v is not None]
            if len(finite) < len(values) or math.prod(map(len, finite)) >= MOST_CONFIGURATIONS:
                return None
            found += [dict(zip(values, row, strict=True)) for row in itertools.product(*finite)]
        return found

    def _is_new(self, params: Mapping[str, Any]) -> bool:
        return _key(params, self.space.distributions) not in self._tried

    def _may_be_tried(self, params: Mapping[str, Any]) -> bool:
        return self._refusal(self._architecture(params)) is None

    def _architecture(self, params: Mapping[str, Any]) -> dict[str, Any]:
        return {name: params[name] for name in self.space.student}


def _none_to_be_tried(refused: Counter[str]) -> str:
    remedy = "change --max or its ranges" if any("--max" in why for why in refused) else "change its ranges or methods"
    return (
        f"the space must have students that may be trained, but of {refused.total():,} that were drawn none may be: "
        f"{_counted(refused)}; {remedy}."
    )


def _counted(refused: Counter[str]) -> str:
    """Return how many students were refused for which reason, the most frequent first, as in ``3 over --max``."""
    return ", ".join(f"{count:,} {why}" for why, count in refused.most_common())


def make_sampler(name: str, seed: int) -> BaseSampler:
    """Optuna's sampler of that name, for several objectives."""
    match name:
        case "tpe" | "front":  # the latter where costs are not known beforehand
            return TPESampler(seed=seed)
        case "nsga2":
            return NSGAIISampler(seed=seed, population_size=16)  # its default, 50, would be a whole search
        case "gp":
            return GPSampler(seed=seed)
        case "random":
            return RandomSampler(seed=seed)
    raise AssertionError(name)


def _representative(trials: list[FrozenTrial], directions: tuple[str, ...]) -> set[int]:
    """Numbers of a block's worth of trials that stand for all: those on the foremost fronts, and an even choice."""
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    left = np.array([trial.values for trial in complete], dtype=float).reshape(len(complete), len(directions))
    numbers = np.array([trial.number for trial in complete], dtype=int)
    best: list[int] = []
    while len(best) < _BEST and len(left):
        front = pareto_front(left, directions)
        best += numbers[front].tolist()
        left, numbers = np.delete(left, front, axis=0), np.delete(numbers, front)
    best = evenly(sorted(best), _BLOCK // 2)
    rest = sorted({trial.number for trial in trials} - set(best))
    return {*best, *evenly(rest, _BLOCK - len(best))}


def _viewed(trial: FrozenTrial) -> FrozenTrial:
    """The trial as samplers are to see it: without marks on its way, for with several objectives TPE fails on them."""
    return create_trial(
        state=trial.state,
        params=trial.params,
        distributions=trial.distributions,
        values=trial.values if trial.state == TrialState.COMPLETE else None,
        system_attrs=trial.system_attrs,
    )


def _key(params: Mapping[str, Any], distributions: Mapping[str, BaseDistribution]) -> Hashable:
    """What tells a configuration from others: a choice by its place, a number to twelve figures, names in one order."""
    return tuple(f"{distributions[name].to_internal_repr(params[name]):.12g}" for name in sorted(params))
