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
import signal
import sys
import tempfile
from pathlib import Path

import optuna
from contenders import CONTENDERS
from provenance import provenance
from race import make_teacher, run
from race_table import seconds_text, table
from races import RACES, Run

RESULTS = Path(__file__).parent / "results"


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
                    f"{goal} after {seconds_text(wall)} s ({seconds_text(cpu)} CPU s)"
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
