"""The table of methods: what each is compared with."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

from harness.space import Configuration


@pytest.fixture
def methods(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The benchmark, as a script of its folder sees it."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    monkeypatch.delitem(sys.modules, "methods", raising=False)
    return importlib.import_module("methods")


def test_a_method_gains_over_its_own_control_and_not_over_another_learning_rate(methods: ModuleType) -> None:
    one = Configuration({"width": 8}, {"method": "hint", "hint_weight": 2.0}, {"learning_rate": 0.03})
    alone = Configuration({"width": 8}, {"temperature": 1.0, "alpha": 1.0}, {"learning_rate": 0.001})
    lines = methods.table(
        {"hint": one, "labels alone": alone},
        {"hint": [0.90, 0.92], "labels alone": [0.80, 0.82]},
        {"hint": [0.90, 0.92]},
    )
    (row,) = (line for line in lines if line.startswith("| `hint`"))
    assert "+0.00 [+0.00, +0.00] | no gain" in row and row.count("0.9100") == 2
    (row,) = (line for line in lines if line.startswith("| labels alone"))
    assert "gain" not in row and row.endswith("| learning_rate 0.001 |")
