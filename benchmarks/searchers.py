"""Ways to search a grid whose curves are recorded: this project's own, Optuna's, and Syne Tune's."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import optuna
from learning_curves import GRIDS
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial
from recorded_curves import FLOORS, Curves, Place

from harness.options.spaces import space_file
from harness.sampling.candidates import CandidateSet, SpaceEncoder
from harness.sampling.forecast import Forecast
from harness.sampling.model_fit import PrimaryMetric
from harness.sampling.proposal import make_sampler
from harness.space import SearchSpace, load_space
from harness.trials.pruning import CompleteTrial, rungs_of, shortfall
from lightning_modules.methods import HINTON


class Method(Protocol):
    """A way to search. It sees the size of a student before it trains, and accuracies as they come."""

    def ask(self) -> Place:
        """Return the next configuration."""

    def stops(self, epoch: int, accuracy: float) -> bool:
        """Return whether the trial ends after so many epochs, which are not all."""

    def end(self, accuracy: float | None) -> None:
        """The trial is over: its accuracy after its last epoch, or ``None`` if it was stopped."""


class Whole:
    """One of Optuna's samplers; every trial is trained to its end."""

    def __init__(self, curves: Curves, sampler: BaseSampler) -> None:
        self.curves = curves
        self.study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
        self.distributions: dict[str, BaseDistribution] = {
            n: IntDistribution(0, size - 1) for n, size in zip(curves.names, curves.shape, strict=True)
        }
        self.marks: dict[int, float] = {}

    def ask(self) -> Place:
        self.marks = {}
        self.trial = self.study.ask(self.distributions)
        self.place = tuple(self.trial.params[name] for name in self.curves.names)
        return self.place

    def stops(self, epoch: int, accuracy: float) -> bool:
        self.marks[epoch] = accuracy
        return False

    def end(self, accuracy: float | None) -> None:
        if accuracy is None:
            self.study.tell(self.trial, state=TrialState.PRUNED)
        else:
            self.study.tell(self.trial, [accuracy, self.curves.size[self.place[0]]])


class OnTheFront(Whole):
    """The same, pruned as this project prunes what such a sampler proposes."""

    def __init__(self, curves: Curves, sampler: BaseSampler) -> None:
        super().__init__(curves, sampler)
        self.rungs = rungs_of(curves.epochs)
        self.complete: list[CompleteTrial] = []

    @property
    def costs(self) -> tuple[float, ...]:
        return (self.curves.size[self.place[0]],)

    def stops(self, epoch: int, accuracy: float) -> bool:
        super().stops(epoch, accuracy)
        return epoch in self.rungs and shortfall(accuracy, epoch, self.costs, self.complete) is not None

    def end(self, accuracy: float | None) -> None:
        if accuracy is not None:
            self.complete.append(CompleteTrial(costs=self.costs, values=self.marks, final=accuracy))
        super().end(accuracy)


class MedianRule(Whole):
    """The same, with Optuna's median rule on accuracy: below the median of the complete trials after as many epochs."""

    def __init__(self, curves: Curves, sampler: BaseSampler) -> None:
        super().__init__(curves, sampler)
        self.complete: list[dict[int, float]] = []

    def stops(self, epoch: int, accuracy: float) -> bool:
        super().stops(epoch, accuracy)
        others = [marks[epoch] for marks in self.complete]
        return len(others) >= 5 and max(self.marks.values()) < statistics.median(others)  # 5: its n_startup_trials

    def end(self, accuracy: float | None) -> None:
        if accuracy is not None:
            self.complete.append(self.marks)
        super().end(accuracy)


class StratifiedAsha:
    """Asynchronous successive halving among the students of the same width, drawn at random."""

    def __init__(self, curves: Curves, seed: int) -> None:
        self.curves, self.rng = curves, np.random.default_rng(seed)
        self.rungs = rungs_of(curves.epochs)
        self.seen: dict[tuple[int, int], list[float]] = {}

    def ask(self) -> Place:
        self.place = tuple(int(self.rng.integers(size)) for size in self.curves.shape)
        return self.place

    def stops(self, epoch: int, accuracy: float) -> bool:
        if epoch not in self.rungs:
            return False
        seen = self.seen.setdefault((self.place[0], epoch), [])
        seen.append(accuracy)
        return accuracy < float(np.quantile(seen, 2 / 3))

    def end(self, accuracy: float | None) -> None:
        pass


class Front:
    """This project's own sampler and its judging; all that is left of the grid are its candidates."""

    def __init__(self, curves: Curves, seed: int) -> None:
        self.curves, self.grid = curves, GRIDS[curves.space]
        space = load_space(space_file(curves.space))
        held = {name: _within(distribution, self.grid[name]) for name, distribution in space.distributions.items()}
        self.space = replace(
            space,
            student={name: held[name] for name in space.student},
            distillation={name: held[name] for name in space.methods[HINTON]},
            training={name: held[name] for name in space.training},
        )
        self.left = _Left(self.space, self.grid)
        self.forecast = Forecast(
            self.space,
            encoder=self.left,
            architectures=[{"width": width} for width in self.grid["width"]],
            costs=10 ** np.array(curves.size)[:, None],
            metric=PrimaryMetric("accuracy", 1.0, (0.0, 1.0), FLOORS[curves.space]),
            seed=seed,
        )
        self.rungs = rungs_of(curves.epochs)
        self.trials: list[FrozenTrial] = []

    def ask(self) -> Place:
        params = self.forecast.propose(self.trials, lambda params: True) if self.left.places else None
        self.begun = params is not None
        if params is None:  # it has tried all of the grid, and pruned what was wanted
            return (0,) * len(self.grid)
        place = tuple(values.index(params[name]) for name, values in self.grid.items())
        self.left.places.remove(place)
        self.trials.append(
            create_trial(state=TrialState.RUNNING, params=params, distributions=self.space.distributions)
        )
        self.trials[-1].number = len(self.trials) - 1
        return place

    def stops(self, epoch: int, accuracy: float) -> bool:
        if epoch not in self.rungs or not self.left.places or not self.begun:
            return False
        self.trials[-1].intermediate_values[epoch] = accuracy
        return self.forecast.should_prune(self.trials[-1].number, epoch, self.trials) is not None

    def end(self, accuracy: float | None) -> None:
        if not self.begun:
            return
        if accuracy is None:
            self.trials[-1].state = TrialState.PRUNED
        else:
            self.trials[-1].state = TrialState.COMPLETE
            self.trials[-1].user_attrs["metrics"] = {"accuracy": accuracy}


class _Left(SpaceEncoder):
    """What is left of the grid, where other points are drawn."""

    def __init__(self, space: SearchSpace, grid: dict[str, list[Any]]) -> None:
        super().__init__(space)
        self.places = set(np.ndindex(*map(len, grid.values())))
        self._grid = grid

    def sample(self, rng: np.random.Generator, count: int) -> list[CandidateSet]:
        rows = np.array(sorted(self.places))
        columns = {
            name: np.array(values, dtype=float)[row]
            for (name, values), row in zip(self._grid.items(), rows.T, strict=True)
        }
        points = np.hstack([self._axes(name, columns[name], len(rows)) for name in self._space.distributions])
        return [CandidateSet(self._space.distributions, columns, points)]

    def neighbours(self, rng: np.random.Generator, configuration: Mapping[str, Any], count: int) -> CandidateSet:
        return CandidateSet(
            self._space.distributions, {name: np.empty(0) for name in self._grid}, self.sample(rng, 0)[0].points[:0]
        )


def _within(distribution: BaseDistribution, values: list[Any]) -> BaseDistribution:
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    return type(distribution)(min(values), max(values), log=distribution.log)


class MoAsha:
    """Syne Tune's MO-ASHA: as it is, or with the priority that it is described with (``front_ranks``)."""

    def __init__(self, curves: Curves, seed: int, *, ranked: bool) -> None:
        import datetime

        from front_ranks import front_ranks
        from syne_tune.backend.trial_status import Trial
        from syne_tune.config_space import randint
        from syne_tune.optimizer.schedulers.multiobjective.moasha import MOASHA

        logging.getLogger("syne_tune").setLevel(logging.ERROR)
        np.random.seed(seed)
        self.curves, self.number = curves, 0
        self.make: Callable[[int, Any], Any] = lambda number, config: Trial(number, config, datetime.datetime.now())
        space = {name: randint(0, size - 1) for name, size in zip(curves.names, curves.shape, strict=True)}
        self.scheduler = MOASHA(
            space,
            ["error", "size"],
            time_attr="epoch",
            multiobjective_priority=front_ranks if ranked else None,
            max_t=curves.epochs,
            grace_period=1,
            random_seed=seed,
        )

    def ask(self) -> Place:
        suggestion = self.scheduler.suggest()
        assert suggestion is not None
        self.trial = self.make(self.number, suggestion.config)
        self.number += 1
        self.scheduler.on_trial_add(self.trial)
        self.place = tuple(int(suggestion.config[name]) for name in self.curves.names)
        return self.place

    def _result(self, accuracy: float, epoch: int) -> dict[str, float]:
        return {"error": -accuracy, "size": self.curves.size[self.place[0]], "epoch": epoch}

    def stops(self, epoch: int, accuracy: float) -> bool:
        return bool(self.scheduler.on_trial_result(self.trial, self._result(accuracy, epoch)) == "STOP")

    def end(self, accuracy: float | None) -> None:
        if accuracy is not None:
            self.scheduler.on_trial_complete(self.trial, self._result(accuracy, self.curves.epochs))


METHODS: dict[str, Callable[[Curves, int], Method]] = {
    "front, judged by its own model": Front,
    "TPE, pruned on the front": lambda curves, seed: OnTheFront(curves, make_sampler("tpe", seed)),
    "random, pruned on the front": lambda curves, seed: OnTheFront(curves, make_sampler("random", seed)),
    "MO-TPE": lambda curves, seed: Whole(curves, make_sampler("tpe", seed)),
    "MO-TPE, multivariate": lambda curves, seed: Whole(curves, TPESampler(multivariate=True, seed=seed)),
    "MO-TPE, median rule": lambda curves, seed: MedianRule(curves, make_sampler("tpe", seed)),
    "NSGA-II, 16 a generation": lambda curves, seed: Whole(curves, make_sampler("nsga2", seed)),
    "random": lambda curves, seed: Whole(curves, make_sampler("random", seed)),
    "ASHA in each width": StratifiedAsha,
    "MO-ASHA, ranks mended": lambda curves, seed: MoAsha(curves, seed, ranked=True),
    "MO-ASHA (Syne Tune)": lambda curves, seed: MoAsha(curves, seed, ranked=False),
}
