"""The table of a race, and the volume that decides it, worked by hand."""

from __future__ import annotations

import importlib
import math
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, ModuleType]:
    """``races`` and ``race_table``, as a script of their folder sees them."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    for name in ("races", "race_table", "contenders"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module("races"), importlib.import_module("race_table")


def test_the_volume_is_above_a_floor_of_accuracy_and_below_the_most_parameters(
    modules: tuple[ModuleType, ModuleType],
) -> None:
    races, _ = modules
    ends = [races.End(1.0, 0.9, 10**3), races.End(2.0, 0.7, 10**2), races.End(3.0, 0.4, 10)]
    # (0.9 - 0.5) * (4.78 - 3) + (0.7 - 0.5) * (3 - 2); the third is below the floor.
    assert races.volume(ends) == pytest.approx(0.4 * 1.78 + 0.2)
    assert races.volume(ends, 0.8) == pytest.approx(0.1 * 1.78)


def test_a_table_has_every_run_and_how_many_times_as_long_as_the_harness_it_took(
    modules: tuple[ModuleType, ModuleType],
) -> None:
    races, race_table = modules
    race = races.Race("digits", widths=(2, 32), epochs=20, floor=0.9, whole=(1.0,), region=(0.2,))

    def run(*wall_s: float, ran_s: float) -> object:
        cpu_s = tuple(2 * value for value in wall_s)
        return races.Run(wall_s, cpu_s, ran_s=ran_s, used_s=2 * ran_s, trained=5, volumes=(1.05, 0.21))

    runs = {
        "harness": [run(4.0, 8.0, ran_s=9.0), run(5.0, math.inf, ran_s=100.0)],
        "script": [run(12.0, math.inf, ran_s=80.0), run(10.0, 30.0, ran_s=31.0)],
    }
    lines = race_table.table(race, runs, seed=3, trials=1000, limit_s=100)
    assert "| harness | 3 | 4.0 | 8.0 | 8.0 | 16.0 | 9.0 | 18.0 | 5 | 1.050 | 0.210 |" in lines
    assert "| usual script, Optuna's TPE | 3 | 12.0 | ∞ | 24.0 | ∞ | 80.0 | 160.0 | 5 | 1.050 | 0.210 |" in lines
    # To the first goal 12 / 4 and 10 / 5. To the second at least 80 / 8, and 30 s where the harness ran 100 in vain.
    ratios = "2.5 (3.0, 2.0) | no median (≥ 10.0, ≤ 0.3)"
    assert lines[-1] == f"| usual script, Optuna's TPE | {ratios} | {ratios} |"
