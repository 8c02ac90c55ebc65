"""Whole commands beside what people use today: wall and CPU time to the same hypervolume, start-up included.

    pip install -e '.[benchmarks]'
    python benchmarks/against_tuners.py digits --limit 130
    python benchmarks/against_tuners.py fashion-mnist --repeats 2 --limit 600

Each is a command with the same data, networks, loss, optimiser, ranges and epochs, and the same teacher, whose
checkpoint exists beforehand: the harness, told the objectives and the widths that all search, the usual script with
Optuna's TPE, one trial at a time with all threads, Ray Tune with OptunaSearch, without and with ASHA, and Syne Tune's
MO-ASHA with its priorities mended, as many trials at a time as there are cores. In all but the harness the teacher is
asked in ``training_step``. What counts are students that were trained to the end: the volume that validation accuracy
after the last epoch and log10 of the parameters dominate, in the harness's region of interest and over all accuracies
above 0.5. A command is stopped once it has reached every goal, or at the limit. One repeat, of one seed, runs all of
them one after the other, beginning with another one each time.

The table goes to ``benchmarks/results/against-tuners-<space>.md``, anew after each repeat.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import statistics
import sys
import tempfile
import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.trial import TrialState
from process_tree import ProcessTree
from provenance import provenance

from harness.core.pareto import hypervolume
from harness.preparation.concurrency import usable_cores

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).parent / "results"
MOST_PARAMETERS = 4.78  # log10, the reference point of every volume
WHOLE = 0.5  # accuracy, the reference point of the volume over all students
STUDY = "beside"


@dataclass(frozen=True)
class Goal:
    """A hypervolume to be reached by students of at least some accuracy.

    Attributes:
        volume: The hypervolume, of accuracy above ``floor`` and log10 of the parameters below ``MOST_PARAMETERS``.
        floor: The least accuracy that counts.
    """

    volume: float
    floor: float = WHOLE

    def __str__(self) -> str:
        return f"{self.volume:g}" if self.floor == WHOLE else f"{self.volume:g} in the region"


@dataclass(frozen=True)
class Race:
    """What is searched.

    Attributes:
        space: Name of the embedded space.
        widths: The least and the most of its students.
        epochs: Of a trial, as the space has them.
        floor: The least accuracy in the region of interest, as the harness has it by default.
        whole: Hypervolumes to be reached over all students, ascending.
        region: Hypervolumes to be reached in the region, ascending.
    """

    space: str
    widths: tuple[int, int]
    epochs: int
    floor: float
    whole: tuple[float, ...]
    region: tuple[float, ...]

    @property
    def goals(self) -> tuple[Goal, ...]:
        """Return the goals over all students, then those in the region, each ascending."""
        return (*map(Goal, self.whole), *(Goal(volume, self.floor) for volume in self.region))


RACES = {
    race.space: race
    for race in (
        # The grid of benchmarks/learning_curves.py has 1.131, and 0.221 in the region.
        Race("digits", widths=(2, 32), epochs=20, floor=0.888, whole=(0.98, 1.075, 1.1), region=(0.16, 0.19, 0.205)),
        # A study of 50 trials ended at 0.590, another at 0.229 in the region when it was at 0.583.
        Race(
            "fashion-mnist",
            widths=(2, 24),
            epochs=6,
            floor=0.743,
            whole=(0.56, 0.575, 0.583),
            region=(0.2, 0.22, 0.228),
        ),
    )
}

_SPACE_FILE = """\
from dataclasses import replace

from optuna.distributions import IntDistribution

from search_spaces.{module} import SPACE as WHOLE

SPACE = replace(WHOLE, student={{"width": IntDistribution({least}, {most}, log=True)}})
"""

CONTENDERS = {
    "harness": "harness",
    "script": "usual script, Optuna's TPE",
    "ray": "Ray Tune, OptunaSearch",
    "ray-asha": "Ray Tune, OptunaSearch, ASHA",
    "moasha": "Syne Tune, MO-ASHA, ranks mended",
}


def command_of(contender: str, race: Race, teacher: Path, folder: Path, *, trials: int, seed: int) -> list[str]:
    """Return the command line of a contender, to be run in ``folder``."""
    common = ["--epochs", str(race.epochs), "--trials", str(trials), "--seed", str(seed)]
    if contender == "harness":
        least, most = race.widths
        space = folder / f"{STUDY}.py"
        space.write_text(_SPACE_FILE.format(module=race.space.replace("-", "_"), least=least, most=most))
        objectives = ["--objectives", "accuracy,parameters"]
        return [str(ROOT / "search.py"), "--space", str(space), "--teacher", str(teacher), *objectives, *common]
    workers = ["--workers", str(usable_cores())]
    script, more = {
        "script": ("usual_script.py", []),
        "ray": ("ray_script.py", workers),
        "ray-asha": ("ray_script.py", [*workers, "--asha"]),
        "moasha": ("syne_script.py", workers),
    }[contender]
    widths = ["--widths", *map(str, race.widths)]
    return [str(ROOT / "benchmarks" / script), race.space, str(teacher), *widths, *common, *more]


@dataclass(frozen=True)
class End:
    """A student that was trained to the end: when, in seconds since the epoch, and what it is."""

    time: float
    accuracy: float
    parameters: float


class Ends:
    """The students that a contender has trained to the end so far, by their lines or, for the harness, its study."""

    def __init__(self, contender: str, folder: Path) -> None:
        self._is_harness, self._folder = contender == "harness", folder
        self._study: optuna.Study | None = None

    def read(self) -> list[End]:
        """Return all of them, in the order of their ends."""
        return sorted(self._of_study() if self._is_harness else self._of_lines(), key=lambda end: end.time)

    def _of_lines(self) -> list[End]:
        file = self._folder / "results.jsonl"
        # A line that is being written has no end yet.
        lines = file.read_text().splitlines(keepends=True) if file.exists() else []
        return [End(**json.loads(line)) for line in lines if line.endswith("\n")]

    def _of_study(self) -> list[End]:
        if self._study is None:
            if not any(self._folder.glob(f"mlruns/trials/{STUDY}/*/student.safetensors")):
                return []  # it is not to be opened while the harness makes it
            self._study = optuna.load_study(study_name=STUDY, storage=f"sqlite:///{self._folder}/optuna.db")
        complete = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return [End(t.datetime_complete.timestamp(), *t.values) for t in complete if t.datetime_complete]


def volume(ends: Sequence[End], floor: float = WHOLE) -> float:
    """Return the hypervolume that students dominate above an accuracy."""
    points = [(end.accuracy, math.log10(end.parameters)) for end in ends]
    return hypervolume(points, (floor, MOST_PARAMETERS), ("maximize", "minimize"))


@dataclass(frozen=True)
class Run:
    """One run of a contender.

    Attributes:
        wall_s: Seconds from the start of the command until it had reached each goal; infinite if it never did.
        cpu_s: CPU seconds of all its processes until then, likewise.
        ran_s: Seconds until it was stopped, or ended.
        used_s: CPU seconds until then.
        trained: Students trained to the end.
        volumes: What they dominate over all accuracies, and in the region.
    """

    wall_s: tuple[float, ...]
    cpu_s: tuple[float, ...]
    ran_s: float
    used_s: float
    trained: int
    volumes: tuple[float, float]


def run(contender: str, race: Race, teacher: Path, folder: Path, *, trials: int, seed: int, limit_s: float) -> Run:
    """Run a contender until it has reached every goal, at most ``limit_s``."""
    command = command_of(contender, race, teacher, folder, trials=trials, seed=seed)
    ends, log = Ends(contender, folder), folder / "log.txt"
    tree = ProcessTree([sys.executable, *command], folder=folder, log=log, environment=_environment(folder))
    cpu = [(0.0, 0.0)]  # seconds since the start, and CPU seconds until then
    try:
        while True:
            time.sleep(1)
            exit_code = tree.exit_code
            cpu.append((time.time() - tree.started, tree.cpu_s()))
            if exit_code:
                raise SystemExit(f"{' '.join(command)}\nended with exit code {exit_code}:\n{log.read_text()[-5000:]}")
            reached = [end for end in ends.read() if end.time <= tree.started + limit_s]
            is_there = all(volume(reached, goal.floor) >= goal.volume for goal in race.goals)
            if exit_code == 0 or cpu[-1][0] >= limit_s or is_there:
                break
    finally:
        tree.end()
    wall_s = tuple(
        next(
            (
                end.time - tree.started
                for count, end in enumerate(reached, start=1)
                if volume(reached[:count], goal.floor) >= goal.volume
            ),
            math.inf,
        )
        for goal in race.goals
    )
    return Run(
        wall_s=wall_s,
        cpu_s=tuple(_cpu_at(second, cpu) for second in wall_s),
        ran_s=min(cpu[-1][0], limit_s),
        used_s=_cpu_at(min(cpu[-1][0], limit_s), cpu),
        trained=len(reached),
        volumes=(volume(reached), volume(reached, race.floor)),
    )


def _environment(folder: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'benchmarks'}",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",  # else it keeps a token in the home folder
        "RAY_TMPDIR": str(folder),
        "SYNETUNE_FOLDER": str(folder / "syne"),
    }


def _cpu_at(second: float, samples: Sequence[tuple[float, float]]) -> float:
    """CPU seconds used until then, between two samples by proportion."""
    if math.isinf(second):
        return math.inf
    after = bisect_left(samples, (second, 0.0), hi=len(samples) - 1)
    (since, low), (until, high) = samples[max(0, after - 1)], samples[after]
    return low + (high - low) * (second - since) / (until - since) if until > since else high


def make_teacher(race: Race, folder: Path) -> Path:
    """Let the harness train the space's teacher; its checkpoint."""
    command = [str(ROOT / "search.py"), "--space", race.space, "--trials", "1", "--epochs", "1", "--no-controls"]
    log = folder / "log.txt"
    tree = ProcessTree([sys.executable, *command], folder=folder, log=log, environment=_environment(folder))
    try:
        while tree.exit_code is None:
            time.sleep(0.2)
    finally:
        tree.end()
    if tree.exit_code:
        raise SystemExit(f"no teacher could be made:\n{log.read_text()[-5000:]}")
    (teacher,) = (folder / "mlruns" / "cache" / "teachers").glob("*/teacher.safetensors")
    return teacher


def table(race: Race, runs: dict[str, list[Run]], *, seed: int, trials: int, limit_s: float) -> list[str]:
    """Return every run, and how many times as long each took as the harness of the same repeat, as Markdown."""
    goals = [f"{unit} to {goal}" for unit in ("wall s", "CPU s") for goal in race.goals]
    lines = [
        f"# {race.space}: whole commands to a hypervolume",
        "",
        provenance(),
        "",
        f"Students of width {race.widths[0]} to {race.widths[1]}, {race.epochs} epochs, {usable_cores()} cores. "
        f"Hypervolume of (validation accuracy above {WHOLE}, log10 of parameters below {MOST_PARAMETERS}) of the "
        f"students that were trained to the end; in the region of interest: accuracy above {race.floor}. Seconds "
        "since the command was started; CPU seconds of all its processes. ∞: not reached before the command was "
        "stopped, as the last columns say; the limit was "
        f"{limit_s:g} s and {trials:,} trials.",
        "",
        *_head(
            "command", ["seed", *goals, "stopped after, s", "CPU s", "students trained", "hypervolume", "in the region"]
        ),
    ]
    for name, done in runs.items():
        for repeat, each in enumerate(done):
            seconds = [_seconds(value) for value in (*each.wall_s, *each.cpu_s, each.ran_s, each.used_s)]
            lines.append(
                _row(
                    [
                        CONTENDERS[name],
                        str(seed + repeat),
                        *seconds,
                        str(each.trained),
                        *(f"{volume:.3f}" for volume in each.volumes),
                    ]
                )
            )
    if "harness" not in runs:
        return lines
    lines += [
        "",
        "How many times as long as the harness: the median, and each pair. ≥: it never arrived, and had run so many "
        "times as long when it was stopped; ≤: the harness never arrived; –: neither did.",
        "",
        *_head("command", [goal.replace(" s to", " to") for goal in goals]),
    ]
    for name in [name for name in runs if name != "harness"]:
        pairs = list(zip(runs[name], runs["harness"], strict=True))
        places = range(len(race.goals))
        wall = [_ratio([(a.wall_s[goal], a.ran_s, b.wall_s[goal], b.ran_s) for a, b in pairs]) for goal in places]
        cpu = [_ratio([(a.cpu_s[goal], a.used_s, b.cpu_s[goal], b.used_s) for a, b in pairs]) for goal in places]
        lines.append(_row([CONTENDERS[name], *wall, *cpu]))
    return lines


def _head(name: str, columns: Sequence[str]) -> list[str]:
    return [_row([name, *columns]), "|---|" + "---:|" * len(columns)]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _seconds(value: float) -> str:
    return "∞" if math.isinf(value) else f"{value:.1f}"


def _ratio(pairs: Sequence[tuple[float, float, float, float]]) -> str:
    """Their ratios; each pair is when the other arrived and when it was stopped, and the same of the harness."""
    shown, least = [], []
    for theirs, their_end, ours, our_end in pairs:
        if math.isinf(theirs) and math.isinf(ours):
            shown.append("–")
        elif math.isinf(ours):
            shown.append(f"≤ {theirs / our_end:.1f}")
        else:
            least.append(min(theirs, their_end) / ours)
            shown.append(f"{'≥ ' if math.isinf(theirs) else ''}{least[-1]:.1f}")
    if len(least) < len(pairs):
        return f"no median ({', '.join(shown)})"
    bound = "≥ " if any(math.isinf(theirs) for theirs, *_ in pairs) else ""
    return f"{bound}{statistics.median(least):.1f} ({', '.join(shown)})"


def main() -> None:
    """Run them beside each other, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("space", choices=RACES)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=300, metavar="SECONDS", help="of each command (default: 300)")
    parser.add_argument("--trials", type=int, default=1000, help="the most that a command begins (default: 1000)")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    asked = parser.parse_args()
    provenance()  # of what runs, whatever is committed meanwhile
    race, names = RACES[asked.space], asked.contenders
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what it has started ends with it
    runs: dict[str, list[Run]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as top:
        (first := Path(top, "first")).mkdir()
        teacher = make_teacher(race, first)
        for repeat in range(asked.repeats):
            seed = asked.first_seed + repeat
            for name in [*names[repeat % len(names) :], *names[: repeat % len(names)]]:
                (folder := Path(top, f"{name}{repeat}")).mkdir()
                done = run(name, race, teacher, folder, trials=asked.trials, seed=seed, limit_s=asked.limit)
                runs[name].append(done)
                arrivals = ", ".join(
                    f"{goal} after {_seconds(wall)} s ({_seconds(cpu)} CPU s)"
                    for goal, wall, cpu in zip(race.goals, done.wall_s, done.cpu_s, strict=True)
                )
                print(
                    f"{seed}: {CONTENDERS[name]}: {arrivals}; stopped after {done.ran_s:.0f} s with {done.trained} "
                    f"students trained, hypervolume {done.volumes[0]:.3f}, in the region {done.volumes[1]:.3f}",
                    flush=True,
                )
            lines = table(race, runs, seed=asked.first_seed, trials=asked.trials, limit_s=asked.limit)
            (RESULTS / f"against-tuners-{race.space}.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
