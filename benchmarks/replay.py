"""Searches replayed on full learning curves: who reaches the exhaustive front, for how many epochs and MACs.

    python benchmarks/learning_curves.py digits && python benchmarks/replay.py digits

Every method is asked for configurations of the grid, is told the accuracy after each epoch, and may stop a trial after
any of them. A search replays one of the grid's training seeds. What counts are students that were trained to the end:
the hypervolume of (validation accuracy, log10 parameters) beyond the reference point, as a share of that of the whole
grid under the same training seed. A configuration that comes again costs nothing again.

MO-ASHA is Syne Tune's own: pip install -e '.[benchmarks]'.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import multiprocessing
import statistics
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import optuna
from learning_curves import EPOCHS, GRIDS, SEEDS
from matplotlib.figure import Figure
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial
from scipy.stats import spearmanr

from harness.candidates import Points, Pool
from harness.cost import key_of
from harness.flags import space_file
from harness.forecast import Forecast
from harness.launchers.local import usable_cores
from harness.pareto import hypervolume
from harness.proposal import make_sampler
from harness.pruning import Standing, rungs_of, stop
from harness.space import SearchSpace, load_space
from lightning_modules.criteria import HINTON

REFERENCE = (0.5, 4.78)  # accuracy, log10 of parameters
GOALS = (0.95, 0.98, 0.99)
_MOST_FULL_TRIALS = 100  # a search that has spent as many epochs, or has asked five times as often, never arrives
_MOST_ASKED = 5 * _MOST_FULL_TRIALS
RESULTS = Path(__file__).parent / "results"

Place = tuple[int, ...]


class Curves:
    """The learning curves of a grid.

    Attributes:
        space: Name of the space.
        names: The grid's parameters; the first one is the width.
        shape: How many values each has.
        accuracy: After each epoch, shape (*grid, seeds, epochs), of the training seeds whose runs are all there.
        seeds: How many those are.
        size: log10 of the parameters of the student of each width.
        macs: Of one sample, likewise.
    """

    def __init__(self, space: str, runs_dir: Path) -> None:
        grid = GRIDS[space]
        self.space = space
        self.names, self.epochs = list(grid), EPOCHS[space]
        self.shape = tuple(len(values) for values in grid.values())
        accuracy = np.full((*self.shape, SEEDS, self.epochs), np.nan)
        file = runs_dir / "curves" / f"{space}.jsonl"
        for line in file.read_text().splitlines() if file.exists() else []:
            run = json.loads(line)
            place = tuple(grid[name].index(run[name]) for name in grid)
            accuracy[(*place, run["seed"])] = run["accuracy"]
        whole = ~np.isnan(accuracy[..., -1].reshape(-1, SEEDS)).any(axis=0)
        if not whole.any():
            raise SystemExit(f"no grid in {file} is whole; benchmarks/learning_curves.py trains its runs.")
        self.accuracy = accuracy[..., whole, :]
        self.seeds = int(whole.sum())
        costs = json.loads(file.with_suffix(".costs.json").read_text())
        self.size = [math.log10(costs[key_of({"width": width})]["parameters"]) for width in grid["width"]]
        self.macs = [costs[key_of({"width": width})]["macs"] for width in grid["width"]]

    def places(self) -> Iterator[Place]:
        """Every configuration."""
        return np.ndindex(*self.shape)


class Method(Protocol):
    """A way to search. It sees the size of a student before it trains, and accuracies as they come."""

    def ask(self) -> Place:
        """The next configuration."""

    def stops(self, epoch: int, accuracy: float) -> bool:
        """Whether the trial ends after so many epochs, which are not all."""

    def end(self, accuracy: float | None) -> None:
        """The trial is over: its accuracy after its last epoch, or ``None`` if it was stopped."""


class Whole:
    """One of Optuna's samplers; every trial is trained to its end."""

    def __init__(self, curves: Curves, seed: int, sampler: str) -> None:
        self.curves = curves
        self.study = optuna.create_study(directions=["maximize", "minimize"], sampler=make_sampler(sampler, seed))
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

    def __init__(self, curves: Curves, seed: int, sampler: str) -> None:
        super().__init__(curves, seed, sampler)
        self.rungs = rungs_of(curves.epochs)
        self.complete: list[Standing] = []

    @property
    def costs(self) -> tuple[float, ...]:
        return (self.curves.size[self.place[0]],)

    def stops(self, epoch: int, accuracy: float) -> bool:
        super().stops(epoch, accuracy)
        return epoch in self.rungs and stop(accuracy, epoch, self.costs, self.complete) is not None

    def end(self, accuracy: float | None) -> None:
        if accuracy is not None:
            self.complete.append(Standing(costs=self.costs, marks=self.marks, end=accuracy))
        super().end(accuracy)


class MedianRule(Whole):
    """The same, with Optuna's median rule on accuracy: below the median of the complete trials after as many epochs."""

    def __init__(self, curves: Curves, seed: int, sampler: str) -> None:
        super().__init__(curves, seed, sampler)
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
        self.forecast = Forecast(
            self.space,
            architectures=[{"width": width} for width in self.grid["width"]],
            costs=10 ** np.array(curves.size)[:, None],
            epochs=curves.epochs,
            primary="accuracy",
            sign=1.0,
            bounds=(0.0, 1.0),
            seed=seed,
        )
        self.left = _Left(self.space, self.grid)
        self.forecast._points = self.left
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
        return self.forecast.outdone(self.trials[-1].number, epoch, self.trials) is not None

    def end(self, accuracy: float | None) -> None:
        if not self.begun:
            return
        if accuracy is None:
            self.trials[-1].state = TrialState.PRUNED
        else:
            self.trials[-1].state = TrialState.COMPLETE
            self.trials[-1].user_attrs["metrics"] = {"accuracy": accuracy}


class _Left(Points):
    """What is left of the grid, where other points are drawn."""

    def __init__(self, space: SearchSpace, grid: dict[str, list[Any]]) -> None:
        super().__init__(space)
        self.places = set(np.ndindex(*map(len, grid.values())))
        self._grid = grid

    def drawn(self, rng: np.random.Generator, count: int) -> list[Pool]:
        rows = np.array(sorted(self.places))
        columns = {
            name: np.array(values, dtype=float)[row]
            for (name, values), row in zip(self._grid.items(), rows.T, strict=True)
        }
        points = np.hstack([self._axes(name, columns[name], len(rows)) for name in self._space.distributions])
        return [Pool(self._space.distributions, columns, points)]

    def near(self, rng: np.random.Generator, configuration: Mapping[str, Any], count: int) -> Pool:
        return Pool(
            self._space.distributions, {name: np.empty(0) for name in self._grid}, self.drawn(rng, 0)[0].points[:0]
        )


def _within(distribution: BaseDistribution, values: list[Any]) -> BaseDistribution:
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    return type(distribution)(min(values), max(values), log=distribution.log)


class MoAsha:
    """Syne Tune's MO-ASHA, as it is."""

    def __init__(self, curves: Curves, seed: int) -> None:
        import datetime

        from syne_tune.backend.trial_status import Trial
        from syne_tune.config_space import randint
        from syne_tune.optimizer.schedulers.multiobjective.moasha import MOASHA

        logging.getLogger("syne_tune").setLevel(logging.ERROR)
        np.random.seed(seed)
        self.curves, self.number = curves, 0
        self.make: Callable[[int, Any], Any] = lambda number, config: Trial(number, config, datetime.datetime.now())
        space = {name: randint(0, size - 1) for name, size in zip(curves.names, curves.shape, strict=True)}
        self.scheduler = MOASHA(
            space, ["error", "size"], time_attr="epoch", max_t=curves.epochs, grace_period=1, random_seed=seed
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
    "TPE, pruned on the front": lambda curves, seed: OnTheFront(curves, seed, "tpe"),
    "random, pruned on the front": lambda curves, seed: OnTheFront(curves, seed, "random"),
    "MO-TPE": lambda curves, seed: Whole(curves, seed, "tpe"),
    "MO-TPE, median rule": lambda curves, seed: MedianRule(curves, seed, "tpe"),
    "NSGA-II": lambda curves, seed: Whole(curves, seed, "nsga2"),
    "random": lambda curves, seed: Whole(curves, seed, "random"),
    "ASHA in each width": StratifiedAsha,
    "MO-ASHA (Syne Tune)": MoAsha,
}


@dataclass
class Course:
    """One search: the share of the exhaustive hypervolume that it had, by what it had spent.

    Attributes:
        spent: Epochs, and MACs of one sample over all epochs, at each step upwards.
        share: Of the exhaustive hypervolume, from there on.
        mean_share: The same, each configuration judged by the mean over the training seeds.
    """

    spent: list[tuple[int, float]] = field(default_factory=list)
    share: list[float] = field(default_factory=list)
    mean_share: list[float] = field(default_factory=list)

    def arrival(self, goal: float, unit: int = 0, *, by_mean: bool = False) -> float:
        """Epochs (``unit`` 0) or MACs (1) spent when it reached ``goal``; infinite if it never did."""
        shares = self.mean_share if by_mean else self.share
        return next((spent[unit] for spent, share in zip(self.spent, shares, strict=True) if share >= goal), math.inf)


def replay(curves: Curves, make: Callable[[Curves, int], Method], seed: int) -> Course:
    """Let a method search until it has 99 % of the exhaustive front, by either measure, or has spent too much."""
    curve_of = {place: curves.accuracy[(*place, seed % curves.seeds)] for place in curves.places()}
    mean_of = {place: curves.accuracy[place][:, -1].mean() for place in curve_of}
    whole = _volume([(curve[-1], curves.size[place[0]]) for place, curve in curve_of.items()])
    mean_whole = _volume([(end, curves.size[place[0]]) for place, end in mean_of.items()])
    method, course = make(curves, seed), Course()
    epochs, macs, paid = 0, 0.0, dict.fromkeys(curve_of, 0)
    ends: list[tuple[float, float]] = []
    mean_ends: list[tuple[float, float]] = []
    for _ in range(_MOST_ASKED):
        place = method.ask()
        curve, stopped = curve_of[place], False
        for epoch in range(1, curves.epochs + 1):
            if epoch > paid[place]:
                paid[place] = epoch
                epochs, macs = epochs + 1, macs + curves.macs[place[0]]
            if epoch < curves.epochs and method.stops(epoch, float(curve[epoch - 1])):
                stopped = True
                break
        method.end(None if stopped else float(curve[-1]))
        if not stopped:
            ends.append((float(curve[-1]), curves.size[place[0]]))
            mean_ends.append((mean_of[place], curves.size[place[0]]))
            share, mean_share = _volume(ends) / whole, _volume(mean_ends) / mean_whole
            if not course.share or share > course.share[-1] or mean_share > course.mean_share[-1]:
                course.spent.append((epochs, macs))
                course.share.append(share)
                course.mean_share.append(mean_share)
            if min(share, mean_share) >= GOALS[-1]:
                break
        if epochs >= _MOST_FULL_TRIALS * curves.epochs:
            break
    return course


def fewest_epochs(curves: Curves, seed: int) -> int:
    """Epochs to 99 % for someone who knows how all end and trains, one after the other, what adds most to the front."""
    points = [(float(curves.accuracy[(*place, seed)][-1]), curves.size[place[0]]) for place in curves.places()]
    whole, chosen = _volume(points), list[tuple[float, float]]()
    while _volume(chosen) < GOALS[-1] * whole:
        chosen.append(max(points, key=lambda point: _volume([*chosen, point])))
    return len(chosen) * curves.epochs


def _volume(points: list[tuple[float, float]]) -> float:
    return hypervolume(np.array(points), REFERENCE, ("maximize", "minimize"))


_curves: Curves


def _job(job: tuple[str, int]) -> tuple[str, Course]:
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return job[0], replay(_curves, METHODS[job[0]], job[1])


def table(found: dict[str, list[Course]], curves: Curves) -> list[str]:
    """The arrivals of every method as a Markdown table, and how early ranks tell the end."""
    most = _MOST_FULL_TRIALS * curves.epochs
    seeds = len(next(iter(found.values())))
    lines = [
        f"Median of {seeds} searches [quartiles] until a share of the exhaustive hypervolume is reached; ∞: not within "
        f"{most:,} epochs. *Mean*: each configuration is judged by the mean of its training seeds, of which there are "
        f"{curves.seeds}, and the search saw one.",
        "",
        f"| method | {' | '.join(f'epochs to {goal:.0%}' for goal in GOALS)} | arrived | mean, to {GOALS[-1]:.0%} "
        f"| MACs to {GOALS[-1]:.0%}, MO-TPE = 1 |",
        "|---|" + "---:|" * (len(GOALS) + 3),
    ]
    unpruned = statistics.median(course.arrival(GOALS[-1], 1) for course in found["MO-TPE"])
    for name, courses in found.items():
        cells = [_cell([course.arrival(goal) for course in courses]) for goal in GOALS]
        arrived = sum(course.arrival(GOALS[-1]) < math.inf for course in courses)
        by_mean = _cell([course.arrival(GOALS[-1], by_mean=True) for course in courses])
        macs = statistics.median(course.arrival(GOALS[-1], 1) for course in courses)
        ratio = f"{macs / unpruned:.2f}" if math.isfinite(macs) and math.isfinite(unpruned) else "–"
        lines.append(f"| {name} | {' | '.join(cells)} | {arrived} of {seeds} | {by_mean} | {ratio} |")
    fewest = statistics.median(fewest_epochs(curves, seed) for seed in range(curves.seeds))
    lines += ["", f"Whoever knew how all end would need {fewest:,.0f} epochs to {GOALS[-1]:.0%}."]
    lines += ["", "Spearman's rank correlation of the accuracy at a rung with that at the end (median over seeds):", ""]
    lines += ["| epochs | all | within a width, median |", "|---:|---:|---:|"]
    for rung in rungs_of(curves.epochs):
        early, end = curves.accuracy[..., rung - 1], curves.accuracy[..., -1]
        of_all = [spearmanr(early[..., s].ravel(), end[..., s].ravel())[0] for s in range(curves.seeds)]
        within = [
            spearmanr(early[w, ..., s].ravel(), end[w, ..., s].ravel())[0]
            for w in range(curves.shape[0])
            for s in range(curves.seeds)
        ]
        lines.append(
            f"| {rung} of {curves.epochs} | {statistics.median(of_all):.2f} | {statistics.median(within):.2f} |"
        )
    return lines


def _cell(arrivals: list[float]) -> str:
    quartiles = [sorted(arrivals)[round((len(arrivals) - 1) * q)] for q in (0.25, 0.75)]
    shown = ["∞" if math.isinf(v) else f"{v:,.0f}" for v in (statistics.median(arrivals), *quartiles)]
    return f"{shown[0]} [{shown[1]}, {shown[2]}]"


def picture(found: dict[str, list[Course]], curves: Curves, title: str, path: Path) -> None:
    """Draw the median share of the hypervolume against epochs, with its quartiles for ours and MO-TPE."""
    figure = Figure(figsize=(8, 5), layout="constrained", dpi=110)
    panel = figure.subplots()
    grid = np.arange(curves.epochs, _MOST_FULL_TRIALS * curves.epochs // 2)
    for name, courses in found.items():
        shares = np.zeros((len(courses), len(grid)))
        for row, course in zip(shares, courses, strict=True):
            for spent, share in zip(course.spent, course.share, strict=True):
                row[grid >= spent[0]] = share
        low, median, high = np.quantile(shares, [0.25, 0.5, 0.75], axis=0)
        ours = name == next(iter(found))
        (line,) = panel.plot(grid, median, label=name, lw=2.4 if ours else 1.2, zorder=3 if ours else 2)
        if ours or name == "MO-TPE":
            panel.fill_between(grid, low, high, color=line.get_color(), alpha=0.15, lw=0)
    for goal in GOALS:
        panel.axhline(goal, color="0.8", lw=0.8, zorder=1)
    panel.set(xlabel="epochs trained", ylabel="share of the exhaustive hypervolume", ylim=(0.85, 1), title=title)
    panel.legend(loc="lower right")
    figure.savefig(path)


def main() -> None:
    """Replay every method, and write the table and the picture."""
    global _curves
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("space", choices=GRIDS)
    parser.add_argument("--runs-dir", type=Path, default=Path("mlruns"))
    parser.add_argument("--seeds", type=int, default=20)
    asked = parser.parse_args()
    _curves = Curves(asked.space, asked.runs_dir)
    jobs = [(name, seed) for seed in range(asked.seeds) for name in METHODS]
    found: dict[str, list[Course]] = {name: [] for name in METHODS}
    with multiprocessing.get_context("fork").Pool(usable_cores()) as pool:
        for count, (name, course) in enumerate(pool.imap_unordered(_job, jobs), start=1):
            found[name].append(course)
            if count % 16 == 0:
                print(f"{count}/{len(jobs)} searches", flush=True)
    lines = table(found, _curves)
    print("\n".join(lines))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"replay-{asked.space}.md").write_text("\n".join([f"# {asked.space}", "", *lines]) + "\n")
    picture(found, _curves, f"{asked.space}: {asked.seeds} searches each", RESULTS / f"replay-{asked.space}.png")


if __name__ == "__main__":
    main()
