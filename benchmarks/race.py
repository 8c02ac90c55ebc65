"""Run one contender of ``benchmarks/against_tuners.py`` until it has reached every goal; make the teacher of all."""

from __future__ import annotations

import math
import sys
import time
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path

from contenders import ROOT, Ends, command_of, environment_of
from process_tree import ProcessTree
from races import Race, Run, volume


def run(contender: str, race: Race, teacher: Path, folder: Path, *, trials: int, seed: int, limit_s: float) -> Run:
    """Run a contender until it has reached every goal, at most ``limit_s``."""
    command = command_of(contender, race, teacher, folder, trials=trials, seed=seed)
    ends, log = Ends(contender, folder), folder / "log.txt"
    tree = ProcessTree([sys.executable, *command], folder=folder, log=log, environment=environment_of(folder))
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
    tree = ProcessTree([sys.executable, *command], folder=folder, log=log, environment=environment_of(folder))
    try:
        while tree.exit_code is None:
            time.sleep(0.2)
    finally:
        tree.end()
    if tree.exit_code:
        raise SystemExit(f"no teacher could be made:\n{log.read_text()[-5000:]}")
    (teacher,) = (folder / "mlruns" / "cache" / "teachers").glob("*/teacher.safetensors")
    return teacher
