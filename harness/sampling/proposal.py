"""Propose the next trial: never the same configuration twice, never a student over the budget."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseGASampler, BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from harness.core.content import derived_seed
from harness.core.errors import HarnessError
from harness.core.pareto import pareto_front
from harness.sampling.first_trials import InitialTrials, first_trials
from harness.sampling.forecast import Forecast
from harness.sampling.subsampling import evenly_spaced
from harness.space import METHOD, SearchSpace
from harness.space_ranges import listed

_Value = TypeVar("_Value")

_SAMPLER_DRAWS = 10  # before the rest of the space is sampled uniformly
_UNIFORM_DRAWS = 10_000
_MAX_REFUSALS = 1_000  # architectures that are checked in one proposal
_BLOCK = 400  # trials; of all but the newest one to two blocks, a sampler sees a block's worth
_BEST = 100  # of those, from the first fronts of non-dominated sorting
MAX_CONFIGURATIONS = 100_000  # a larger space counts as infinite
_DEFAULT_RECIPES = InitialTrials()


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A configuration to be tried.

    Attributes:
        params: Every parameter's value by name.
        distributions: Distribution of each parameter.
        notes: System attributes that the sampler stores with the trial.
        recipe: Name of the recipe, or ``None``.
    """

    params: dict[str, Any]
    distributions: dict[str, BaseDistribution]
    notes: dict[str, Any] = field(default_factory=dict)
    recipe: str | None = None


class Proposer:
    """Proposes configurations, the recipes first.

    The sampler draws from a copy of the study in memory: a trial is stored whole, in one transaction, once it is known
    to be new and within the budgets, and rejected draws leave no trace.

    Args:
        space: The space, with the values that the user fixed, and with ranges narrowed to the budgets.
        sampler: The forecast of the sampler ``front``, or the name of one of Optuna's samplers (``make_sampler``).
        seed: The study's seed.
        directions: Directions of the study's objectives.
        refusal: Returns why an architecture may not be tried, such as ``over --max``; ``None`` if it may.
        initial: What to try first.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        sampler: str | Forecast,
        seed: int,
        directions: tuple[str, ...],
        refusal: Callable[[Mapping[str, Any]], str | None] = lambda architecture: None,
        initial: InitialTrials = _DEFAULT_RECIPES,
    ) -> None:
        self.space = space
        self._sampler = sampler
        self._seed = seed
        self._directions = directions
        self._refusal = refusal
        self._initial = initial
        self._first_trials = first_trials(space, initial.recipes, defaults=initial.default_recipes)
        self._known: set[int] = set()  # numbers of the trials whose configurations are in _tried
        self._tried: set[Hashable] = set()
        self._blocks = 0  # of older trials, which the copy holds in part
        self._generations = 0
        self._clear_copy()

    def propose(self, trials: list[FrozenTrial]) -> Proposal | None:
        """Return the next configuration; ``None`` if all of a finite space have been tried.

        Draws are seeded by (seed, number of trials): an interrupted search continues as if it had not been interrupted.

        Args:
            trials: All trials of the study.

        Raises:
            HarnessError: If almost no configuration is new and may be tried.
        """
        self._record_tried(trials)
        used = {trial.user_attrs.get("recipe") for trial in trials}
        for name, params in self._recipes.items():
            if name not in used and self._is_new(params):
                return self._proposal(params, recipe=name)
        if isinstance(self._sampler, str):
            proposal = self._propose_by_sampler(self._sampler, trials)
        else:
            found = self._sampler.propose(trials, lambda params: self._is_new(params) and self._may_be_tried(params))
            proposal = None if found is None else self._proposal(found)
        return proposal or self._propose_uniformly(derived_seed(self._seed, "even draw", len(trials)))

    def _propose_by_sampler(self, sampler: str, trials: list[FrozenTrial]) -> Proposal | None:
        """Return a draw of Optuna's sampler; ``None`` if it draws nothing new."""
        self._update_copy(sampler, trials)
        drawn: set[Hashable] = set()
        for attempt in range(_SAMPLER_DRAWS):
            proposal = self._draw(sampler, derived_seed(self._seed, "draw", len(trials), attempt))
            if self._is_new(proposal.params) and self._may_be_tried(proposal.params):
                return proposal
            key = _key(proposal.params, proposal.distributions)
            if key in drawn:
                break  # the sampler repeats itself
            drawn.add(key)
        return None

    def _record_tried(self, trials: list[FrozenTrial]) -> None:
        """Record the configurations of all trials, which are not tried again."""
        for trial in trials:
            if trial.number not in self._known and self.space.branch_of(trial.params) is not None:
                self._known.add(trial.number)
                self._tried.add(_key(trial.params, trial.distributions))

    def _update_copy(self, sampler: str, trials: list[FrozenTrial]) -> None:
        """Update the copy of the study, running trials included: samplers keep away from them.

        The cost of a model grows with its data. So of the older trials a sampler sees the best and an evenly spaced
        choice of the others, which depends on the trials alone, not on when this process began.
        """
        blocks = max(0, len(trials) // _BLOCK - 1) if sampler in ("tpe", "gp", "front") else 0
        if blocks > self._blocks:
            self._blocks = blocks
            self._clear_copy()
        older = trials[: blocks * _BLOCK]
        if older and not self._copied:
            self._left_out |= {trial.number for trial in older} - _representative(older, self._directions)
        for trial in trials:
            if trial.number not in self._known:
                continue  # enqueued, and not begun
            if trial.number not in self._copied and trial.number not in self._left_out:
                self._copied[trial.number] = len(self._copy.get_trials(deepcopy=False))
                self._copy.add_trial(_without_intermediate_values(trial))
                if not trial.state.is_finished():
                    self._running.add(trial.number)
            elif trial.number in self._running and trial.state.is_finished():
                self._running.remove(trial.number)
                values = trial.values if trial.state == TrialState.COMPLETE else None
                self._copy.tell(self._copied[trial.number], values, state=trial.state)

    def _clear_copy(self) -> None:
        self._copy = optuna.create_study(directions=self._directions, sampler=RandomSampler(self._seed))  # type: ignore[arg-type]
        self._copied: dict[int, int] = {}  # number in the copy by the trial's own
        self._left_out: set[int] = set()  # numbers of older trials that are not copied
        self._running: set[int] = set()

    def _draw(self, name: str, seed: int) -> Proposal:
        sampler = self._copy.sampler = make_sampler(name, seed)
        if isinstance(sampler, BaseGASampler):
            self._choose_parents(sampler)
        trial = self._copy.ask()
        params = self.space.suggest(trial).params()
        notes = self._copy.get_trials(deepcopy=False)[trial.number].system_attrs
        self._copy.tell(trial, state=TrialState.FAIL)  # samplers ignore failed trials
        return self._proposal(params, notes=dict(notes))

    def _proposal(self, params: dict[str, Any], **known: Any) -> Proposal:
        branch = self.space.branch_of(params)
        assert branch is not None, params
        return Proposal(params=params, distributions=branch, **known)

    def _choose_parents(self, sampler: BaseGASampler) -> None:
        """Choose the parents of each generation in turn: Optuna would recurse from the newest back to the first."""
        attrs = (attr for trial in self._copy.get_trials(deepcopy=False) for attr in trial.system_attrs.items())
        newest = max((number for name, number in attrs if name.endswith(":generation")), default=0)
        while self._generations < newest:
            self._generations += 1
            sampler.get_parent_population(self._copy, self._generations)

    @cached_property
    def _recipes(self) -> dict[str, dict[str, Any]]:
        """Return the recipes, each with the allowed architecture that is nearest to the middle of the space.

        The first and the last default recipe have small architectures instead. Most of the dominated volume lies there,
        for costs are compared by their logarithms, and three sizes inform a model better than two.
        """
        refused: Counter[str] = Counter()
        middle = self._nearest_to_middle(refused)
        requested = self._initial.recipes
        if middle is None and requested:
            raise HarnessError(
                f"--recipe {requested[0]} needs a student that may be trained near the middle of the space, but of "
                f"those checked none may: {_describe_refusals(refused)}; fix one with --fix."
            )
        if middle is None:
            return {}
        found = {name: {**self._without_architecture(each), **middle} for name, each in self._first_trials.items()}
        defaults = [name for name in found if name not in requested]
        for name, architecture in zip((*defaults[:1], *defaults[1:][-1:]), self._initial.small, strict=False):
            found[name] = {**self._without_architecture(found[name]), **architecture}
        return found

    def _nearest_to_middle(self, refused: Counter[str]) -> dict[str, Any] | None:
        """Return the allowed architecture nearest to the middle; count in ``refused`` why others are not allowed."""
        middle = self._architecture(self.space.middle())
        if (why := self._refusal(middle)) is None:
            return middle
        refused[why] += 1
        lists = {name: listed(dist, MAX_CONFIGURATIONS) for name, dist in self.space.student.items()}
        architectures = self.space.architectures(limit=MAX_CONFIGURATIONS)
        if architectures is None:
            return None

        def distance(architecture: dict[str, Any]) -> float:
            pairs = ((lists[name] or [], architecture[name], middle.get(name)) for name in architecture)
            return sum(
                ((values.index(a) - values.index(b)) / len(values)) ** 2 if b in values else 1 for values, a, b in pairs
            )

        for architecture in sorted(architectures, key=distance)[:_MAX_REFUSALS]:
            if architecture == middle:
                continue
            if (why := self._refusal(architecture)) is None:
                return architecture
            refused[why] += 1
        return None

    def _propose_uniformly(self, seed: int) -> Proposal | None:
        """Return a new configuration, drawn uniformly; ``None`` if a finite space has none left."""
        architectures = self.space.architectures(limit=MAX_CONFIGURATIONS)
        rest = self._non_architectures()
        if architectures is not None and rest is not None and len(architectures) * len(rest) < MAX_CONFIGURATIONS:
            return self._propose_from_list(architectures, rest, seed)
        refused = Counter[str]()
        study = optuna.create_study(sampler=RandomSampler(seed))
        for _ in range(_UNIFORM_DRAWS):
            params = self.space.suggest(study.ask()).params()
            if self._is_new(params):
                if (why := self._refusal(self._architecture(params))) is None:
                    return self._proposal(params)
                refused[why] += 1
                if refused.total() >= _MAX_REFUSALS:
                    break
        if not refused:
            raise HarnessError(f"the space is all but exhausted: {_UNIFORM_DRAWS:,} draws found nothing new in it.")
        raise HarnessError(_none_allowed(refused))

    def _propose_from_list(
        self, architectures: list[dict[str, Any]], rest: list[dict[str, Any]], seed: int
    ) -> Proposal | None:
        """Return a new configuration of a finite space, drawn uniformly; ``None`` if none is left."""
        rng, refused = np.random.default_rng(seed), Counter[str]()
        for index in rng.permutation(len(architectures)):
            architecture = architectures[index]
            left = [params for other in rest if self._is_new(params := architecture | other)]
            if not left:
                continue
            if (why := self._refusal(architecture)) is None:
                return self._proposal(left[int(rng.integers(len(left)))])
            refused[why] += 1
        if refused and not self._tried:
            raise HarnessError(_none_allowed(refused))
        return None

    def _non_architectures(self) -> list[dict[str, Any]] | None:
        """Return all values of the parameters beside the architecture's; ``None`` if infinite, or too many."""
        found: list[dict[str, Any]] = []
        for method in self.space.methods:
            branch = next(branch for key, branch in self.space.branches.items() if key[0] == method)
            rest = self._without_architecture(branch)
            values = {name: listed(distribution, MAX_CONFIGURATIONS) for name, distribution in rest.items()}
            if METHOD in rest:
                values[METHOD] = [method]
            finite = [v for v in values.values() if v is not None]
            if len(finite) < len(values) or math.prod(map(len, finite)) >= MAX_CONFIGURATIONS:
                return None
            found += [dict(zip(values, row, strict=True)) for row in itertools.product(*finite)]
        return found

    def _is_new(self, params: Mapping[str, Any]) -> bool:
        return _key(params, self.space.distributions) not in self._tried

    def _may_be_tried(self, params: Mapping[str, Any]) -> bool:
        return self._refusal(self._architecture(params)) is None

    def _architecture(self, params: Mapping[str, Any]) -> dict[str, Any]:
        return self.space.architecture_of(params)

    def _without_architecture(self, values: Mapping[str, _Value]) -> dict[str, _Value]:
        """Return what is not of the student, by name."""
        return {name: value for name, value in values.items() if name not in self.space.student}


def _none_allowed(refused: Counter[str]) -> str:
    remedy = "change --max or its ranges" if any("--max" in why for why in refused) else "change its ranges or methods"
    return (
        f"the space must have students that may be trained, but of {refused.total():,} that were drawn none may be: "
        f"{_describe_refusals(refused)}; {remedy}."
    )


def _describe_refusals(refused: Counter[str]) -> str:
    """Return the number of refused students by reason, most frequent first, such as ``3 over --max``."""
    return ", ".join(f"{count:,} {why}" for why, count in refused.most_common())


def make_sampler(name: str, seed: int) -> BaseSampler:
    """Return Optuna's sampler of that name for several objectives."""
    match name:
        case "tpe" | "front":  # front without a forecast: costs are not known beforehand
            return TPESampler(seed=seed)
        case "nsga2":
            return NSGAIISampler(seed=seed, population_size=16)  # the default of 50 would be a whole search
        case "gp":
            return GPSampler(seed=seed)
        case "random":
            return RandomSampler(seed=seed)
    raise AssertionError(name)


def _representative(trials: list[FrozenTrial], directions: tuple[str, ...]) -> set[int]:
    """Return the numbers of a block's worth of trials: those on the first fronts, and evenly spaced others."""
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    left = np.array([trial.values for trial in complete], dtype=float).reshape(len(complete), len(directions))
    numbers = np.array([trial.number for trial in complete], dtype=int)
    best: list[int] = []
    while len(best) < _BEST and len(left):
        front = pareto_front(left, directions)
        best += numbers[front].tolist()
        left, numbers = np.delete(left, front, axis=0), np.delete(numbers, front)
    best = evenly_spaced(sorted(best), _BLOCK // 2)
    rest = sorted({trial.number for trial in trials} - set(best))
    return {*best, *evenly_spaced(rest, _BLOCK - len(best))}


def _without_intermediate_values(trial: FrozenTrial) -> FrozenTrial:
    """Return a trial without its intermediate values, on which TPE fails in a multi-objective study."""
    return create_trial(
        state=trial.state,
        params=trial.params,
        distributions=trial.distributions,
        values=trial.values if trial.state == TrialState.COMPLETE else None,
        system_attrs=trial.system_attrs,
    )


def _key(params: Mapping[str, Any], distributions: Mapping[str, BaseDistribution]) -> Hashable:
    """Return the identity of a configuration: choices by index, numbers to 12 significant figures, in one order."""
    return tuple(f"{distributions[name].to_internal_repr(params[name]):.12g}" for name in sorted(params))
