"""Searches replayed on full learning curves: who reaches the exhaustive front, for how many epochs and MACs.

    python benchmarks/learning_curves.py digits && python benchmarks/replay.py digits
    python benchmarks/replay.py digits --seeds 40 --methods "front, judged by its own model"   # prints its row

Every method is asked for configurations of the grid, is told the accuracy after each epoch, and may stop a trial after
any of them. A search replays one of the grid's training seeds. What counts are students that were trained to the end:
the hypervolume of (validation accuracy, log10 parameters) beyond the reference point, as a share of that of the whole
grid under the same training seed; over all accuracies, and in the region of interest alone. A configuration that comes
again costs nothing again.

MO-ASHA is Syne Tune's, as it is, and with its ranks mended (``front_ranks``): pip install -e '.[benchmarks]'.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import statistics
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import optuna
from learning_curves import GRIDS
from matplotlib.figure import Figure
from provenance import provenance
from recorded_curves import FLOORS, Curves
from scipy.stats import spearmanr
from searchers import METHODS, Method

from harness.core.pareto import hypervolume
from harness.preparation.concurrency import usable_cores
from harness.trials.pruning import rungs_of

WHOLE = 0.5  # accuracy from which all students count
MOST_PARAMETERS = 4.78  # log10
GOALS = (0.95, 0.98, 0.99)
REGION_GOAL = 0.95  # in the median nobody reaches 99 % of the region's volume on digits within all the epochs given
_PEER = "MO-TPE"  # what others are compared with
_MOST_FULL_TRIALS = 100  # a search that has spent as many epochs, or has asked five times as often, never arrives
_MOST_ASKED = 5 * _MOST_FULL_TRIALS
RESULTS = Path(__file__).parent / "results"


@dataclass
class Course:
    """One search: the share of the exhaustive hypervolume that it had, by what it had spent.

    Attributes:
        spent: Epochs, and MACs of one sample over all epochs, at each step upwards.
        share: Of the exhaustive hypervolume, from there on.
        mean_share: The same, each configuration judged by the mean over the training seeds.
        region_share: As ``share``, of the hypervolume in the region of interest.
    """

    spent: list[tuple[int, float]] = field(default_factory=list)
    share: list[float] = field(default_factory=list)
    mean_share: list[float] = field(default_factory=list)
    region_share: list[float] = field(default_factory=list)

    def arrival(self, goal: float, unit: int = 0, *, of: str = "share") -> float:
        """Return epochs (``unit`` 0) or MACs (1) spent when a share reached ``goal``; infinite if it never did."""
        shares = getattr(self, of)
        return next((spent[unit] for spent, share in zip(self.spent, shares, strict=True) if share >= goal), math.inf)


def replay(curves: Curves, make: Callable[[Curves, int], Method], seed: int) -> Course:
    """Let a method search until it has 99 % of the exhaustive front, by every measure, or has spent too much."""
    curve_of = {place: curves.accuracy[(*place, seed % curves.seeds)] for place in curves.places()}
    mean_of = {place: curves.accuracy[place][:, -1].mean() for place in curve_of}
    whole = _volume([(curve[-1], curves.size[place[0]]) for place, curve in curve_of.items()])
    mean_whole = _volume([(end, curves.size[place[0]]) for place, end in mean_of.items()])
    floor = FLOORS[curves.space]
    region_whole = _volume([(curve[-1], curves.size[place[0]]) for place, curve in curve_of.items()], floor)
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
            shares = _volume(ends) / whole, _volume(mean_ends) / mean_whole, _volume(ends, floor) / region_whole
            kept = (course.share, course.mean_share, course.region_share)
            if not course.share or any(share > before[-1] for share, before in zip(shares, kept, strict=True)):
                course.spent.append((epochs, macs))
                for share, before in zip(shares, kept, strict=True):
                    before.append(share)
            if min(shares) >= GOALS[-1]:
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


def _volume(points: list[tuple[float, float]], floor: float = WHOLE) -> float:
    return hypervolume(np.array(points), (floor, MOST_PARAMETERS), ("maximize", "minimize"))


_curves: Curves


def _job(job: tuple[str, int]) -> tuple[str, Course]:
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return job[0], replay(_curves, METHODS[job[0]], job[1])


def table(found: dict[str, list[Course]], curves: Curves) -> list[str]:
    """Return the arrivals of every method as a Markdown table, and how early ranks tell the end."""
    most = _MOST_FULL_TRIALS * curves.epochs
    seeds = len(next(iter(found.values())))
    lines = [
        provenance(),
        "",
        f"Median of {seeds} searches [quartiles] until a share of the exhaustive hypervolume is reached; ∞: not within "
        f"{most:,} epochs. *Mean*: each configuration is judged by the mean of its training seeds, of which there are "
        f"{curves.seeds}, and the search saw one. "
        f"*Region*: students of an accuracy of {FLOORS[curves.space]} and more.",
        "",
        f"| method | {' | '.join(f'epochs to {goal:.0%}' for goal in GOALS)} | arrived | mean, to {GOALS[-1]:.0%} "
        f"| region, to {REGION_GOAL:.0%} | MACs to {GOALS[-1]:.0%}, MO-TPE = 1 |",
        "|---|" + "---:|" * (len(GOALS) + 4),
    ]
    for name, courses in found.items():
        cells = [_cell([course.arrival(goal) for course in courses]) for goal in GOALS]
        arrived = sum(course.arrival(GOALS[-1]) < math.inf for course in courses)
        cells += [f"{arrived} of {seeds}"]
        cells += [
            _cell([course.arrival(goal, of=of) for course in courses])
            for of, goal in (("mean_share", GOALS[-1]), ("region_share", REGION_GOAL))
        ]
        lines.append(f"| {name} | {' | '.join(cells)} | {_macs(courses, found)} |")
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


def _macs(courses: list[Course], found: dict[str, list[Course]]) -> str:
    """Return the median of the MACs that searches have spent when they arrive, as a multiple of MO-TPE's."""
    spent, unpruned = (
        statistics.median(course.arrival(GOALS[-1], 1) for course in each) if each else math.inf
        for each in (courses, found.get(_PEER, []))
    )
    return f"{spent / unpruned:.2f}" if math.isfinite(spent) and math.isfinite(unpruned) else "–"


def _cell(arrivals: list[float]) -> str:
    quartiles = [sorted(arrivals)[round((len(arrivals) - 1) * q)] for q in (0.25, 0.75)]
    shown = ["∞" if math.isinf(v) else f"{v:,.0f}" for v in (statistics.median(arrivals), *quartiles)]
    return f"{shown[0]} [{shown[1]}, {shown[2]}]"


def picture(found: dict[str, list[Course]], curves: Curves, title: str, path: Path) -> None:
    """Draw the median share of the hypervolume against epochs and MACs, with its quartiles for ours and MO-TPE."""
    figure = Figure(figsize=(13, 5.4), layout="constrained", dpi=110)
    panels = figure.subplots(1, 2, sharey=True)
    most = [max(course.spent[-1][unit] for course in found[_PEER]) for unit in (0, 1)]
    for unit, label in enumerate(("epochs trained", "MACs of one sample, over all epochs")):
        panel = panels[unit]
        grid = np.linspace(0, most[unit], 2000)
        for place, (name, courses) in enumerate(found.items()):
            shares = np.zeros((len(courses), len(grid)))
            for row, course in zip(shares, courses, strict=True):
                for spent, share in zip(course.spent, course.share, strict=True):
                    row[grid >= spent[unit]] = min(share, GOALS[-1])
            low, median, high = np.quantile(shares, [0.25, 0.5, 0.75], axis=0)
            ours = name == next(iter(found))
            style = "--" if place >= 10 else "-"  # there are ten colours
            (line,) = panel.plot(grid, median, style, label=name, lw=2.4 if ours else 1.2, zorder=3 if ours else 2)
            if ours or name == _PEER:
                panel.fill_between(grid, low, high, color=line.get_color(), alpha=0.15, lw=0)
        for goal in GOALS:
            panel.axhline(goal, color="0.8", lw=0.8, zorder=1)
        panel.set(xlabel=label, xlim=(0, most[unit]), ylim=(0.85, GOALS[-1] + 0.002))
    panels[0].set_ylabel(f"share of the exhaustive hypervolume, as far as {GOALS[-1]:.0%}")
    figure.suptitle(title)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center")
    figure.savefig(path)


def main() -> None:
    """Replay every method, and write the table and the picture."""
    global _curves
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("space", choices=GRIDS)
    parser.add_argument("--runs-dir", type=Path, default=Path("mlruns"))
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="their rows only")
    asked = parser.parse_args()
    provenance()  # of what runs, whatever is committed meanwhile
    _curves = Curves(asked.space, asked.runs_dir)
    jobs = [(name, seed) for seed in range(asked.seeds) for name in asked.methods]
    found: dict[str, list[Course]] = {name: [] for name in asked.methods}
    with multiprocessing.get_context("fork").Pool(usable_cores()) as pool:
        for count, (name, course) in enumerate(pool.imap_unordered(_job, jobs), start=1):
            found[name].append(course)
            if count % 16 == 0:
                print(f"{count}/{len(jobs)} searches", flush=True)
    lines = table(found, _curves)
    print("\n".join(lines))
    if set(found) != set(METHODS):
        return  # a table has all of them
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"replay-{asked.space}.md").write_text("\n".join([f"# {asked.space}", "", *lines]) + "\n")
    picture(found, _curves, f"{asked.space}: {asked.seeds} searches each", RESULTS / f"replay-{asked.space}.png")


if __name__ == "__main__":
    main()
