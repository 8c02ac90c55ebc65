"""What is tried next: a sampler's word, never the same configuration twice, never a student over the budget."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from harness import recipes
from harness.content import derived_seed
from harness.errors import HarnessError
from harness.space import SearchSpace, listed

_DRAWS = 10  # of the sampler, before the rest of a finite space is drawn from evenly
_EVEN_DRAWS = 10_000
MOST_CONFIGURATIONS = 100_000  # a space of more counts as endless
_TOLD = (TrialState.COMPLETE, TrialState.PRUNED)


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
        affordable: Whether an architecture is within the budgets.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        sampler: str,
        seed: int,
        directions: tuple[str, ...],
        affordable: Callable[[Mapping[str, Any]], bool] = lambda architecture: True,
    ) -> None:
        self.space = space
        self._sampler = sampler
        self._seed = seed
        self._view = optuna.create_study(directions=directions, sampler=RandomSampler(seed))  # type: ignore[arg-type]
        self._viewed: set[int] = set()
        self._tried: dict[int, Hashable] = {}
        self._affordable = affordable

    def propose(self, trials: list[FrozenTrial]) -> Proposal | None:
        """The next configuration; ``None`` when all of a finite space have been tried.

        Draws are seeded by (seed, number of trials): a search that was cut goes on as if it had not been.

        Args:
            trials: All of the study.

        Raises:
            HarnessError: If next to nothing that can be drawn is within the budgets.
        """
        self._look_at(trials)
        tried = set(self._tried.values())
        used = {trial.user_attrs.get("recipe") for trial in trials}
        for name, params in recipes.configurations(self.space).items():
            if name not in used and _key(params) not in tried and self._is_affordable(params):
                return Proposal(params=params, distributions=self.space.distributions, recipe=name)
        drawn: set[Hashable] = set()
        for attempt in range(_DRAWS):
            proposal = self._drawn(derived_seed(self._seed, "draw", len(trials), attempt))
            key = _key(proposal.params)
            if key not in tried and self._is_affordable(proposal.params):
                return proposal
            if key in drawn:
                break  # a sampler that repeats itself has nothing else in mind
            drawn.add(key)
        return self._drawn_evenly(tried, derived_seed(self._seed, "even draw", len(trials)))

    def _look_at(self, trials: list[FrozenTrial]) -> None:
        for trial in trials:
            if trial.number not in self._tried and len(trial.params) == len(self.space.distributions):
                self._tried[trial.number] = _key({name: trial.params[name] for name in self.space.distributions})
            if trial.state in _TOLD and trial.number not in self._viewed:
                self._view.add_trial(trial)
                self._viewed.add(trial.number)

    def _drawn(self, seed: int) -> Proposal:
        self._view.sampler = make_sampler(self._sampler, seed)
        trial = self._view.ask(self.space.distributions)
        params = {name: trial.params[name] for name in self.space.distributions}
        notes = self._view.get_trials(deepcopy=False)[trial.number].system_attrs
        self._view.tell(trial, state=TrialState.FAIL)  # no sampler heeds it
        return Proposal(params=params, distributions=self.space.distributions, notes=dict(notes))

    def _drawn_evenly(self, tried: set[Hashable], seed: int) -> Proposal | None:
        space = self.space.distributions
        values = [listed(distribution, MOST_CONFIGURATIONS) for distribution in space.values()]
        count = 1
        for choices in values:
            count = min(count * (MOST_CONFIGURATIONS + 1 if choices is None else len(choices)), MOST_CONFIGURATIONS + 1)
        if count <= MOST_CONFIGURATIONS:
            rows = itertools.product(*(choices for choices in values if choices is not None))
            configurations = (dict(zip(space, row, strict=True)) for row in rows)
            left = [c for c in configurations if _key(c) not in tried and self._is_affordable(c)]
            if not left:
                return None
            chosen = left[int(np.random.default_rng(seed).integers(len(left)))]
            return Proposal(params=chosen, distributions=space)
        view = optuna.create_study(sampler=RandomSampler(seed))
        for _ in range(_EVEN_DRAWS):
            trial = view.ask(space)
            params = {name: trial.params[name] for name in space}
            if _key(params) not in tried and self._is_affordable(params):
                return Proposal(params=params, distributions=space)
        raise HarnessError(f"--max must leave students to be trained, but {_EVEN_DRAWS:,} draws found none within it.")

    def _is_affordable(self, params: Mapping[str, Any]) -> bool:
        return self._affordable({name: params[name] for name in self.space.student})


def make_sampler(name: str, seed: int) -> BaseSampler:
    """Optuna's sampler of that name, for several objectives."""
    match name:
        case "tpe":
            return TPESampler(seed=seed)
        case "nsga2":
            return NSGAIISampler(seed=seed, population_size=16)  # its default, 50, would be a whole search
        case "gp":
            return GPSampler(seed=seed)
        case "random":
            return RandomSampler(seed=seed)
    raise AssertionError(name)


def _key(params: Mapping[str, Any]) -> Hashable:
    return tuple(params.values())
