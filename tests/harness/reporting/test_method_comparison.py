"""The methods of a study side by side, counted by hand."""

from __future__ import annotations

import pandas as pd
import pytest

from harness.region import Region
from harness.reporting.method_comparison import MethodResult, compare_methods, method_table

TRIALS = pd.DataFrame(
    [
        (0, "COMPLETE", "hint", 0.90, True),
        (1, "COMPLETE", "soft_target", 0.96, True),
        (2, "COMPLETE", "hint", 0.97, False),  # dearer than trial 3, and no better
        (3, "COMPLETE", "hint", 0.97, True),
        (4, "COMPLETE", "relation", 0.70, False),  # outside of the region
        (5, "PRUNED", "relation", 0.99, False),  # as far as it got
        (6, "FAIL", "soft_target", None, False),
        (7, "RUNNING", "soft_target", None, False),
    ],
    columns=["number", "state", "params.method", "accuracy", "front"],
)


def test_each_method_has_its_best_student_in_the_region_its_trials_and_its_share_of_the_front() -> None:
    region = Region("accuracy", 1, 0.8, "--min accuracy=0.8")
    found = compare_methods(TRIALS, "params.method", "accuracy", region, maximized=True)
    assert found == [
        MethodResult("hint", trials=3, best=0.97, best_trial=2, on_front=2),
        MethodResult("soft_target", trials=3, best=0.96, best_trial=1, on_front=1),
        MethodResult("relation", trials=2, best=None, best_trial=None, on_front=0),
    ]
    titles, rows = method_table(found, "accuracy")
    assert titles == ["method", "trials", "best accuracy", "of trial", "on the front"]
    assert rows == [
        ["hint", "3", "0.9700", "2", "2"],
        ["soft_target", "3", "0.9600", "1", "1"],
        ["relation", "2", "", "", "0"],
    ]


@pytest.mark.parametrize(("maximized", "first"), [(True, ["hint", "soft_target", "relation"]), (False, ["relation"])])
def test_the_best_method_comes_first_whichever_way_the_metric_goes(maximized: bool, first: list[str]) -> None:
    everywhere = Region("accuracy", 1 if maximized else -1, None, "--min none")
    found = compare_methods(TRIALS, "params.method", "accuracy", everywhere, maximized=maximized)
    assert [one.name for one in found][: len(first)] == first
    assert {one.name: one.best for one in found} == (
        {"hint": 0.97, "soft_target": 0.96, "relation": 0.70}
        if maximized
        else {"hint": 0.90, "soft_target": 0.96, "relation": 0.70}
    )
