"""Compare the methods of distillation that a study searches: what each reached, and how often it was tried."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from harness.region import Region
from harness.screen.formatting import cell, printable
from harness.space import METHOD


@dataclass(frozen=True)
class MethodResult:
    """What the trials of one method came to.

    Attributes:
        name: Name of the method.
        trials: Number of its trials, however they ended.
        best: Primary metric of its best student in the region of interest; ``None`` where there is none.
        best_trial: Number of that student's trial.
        on_front: Number of its students on the front.
    """

    name: str
    trials: int
    best: float | None
    best_trial: int | None
    on_front: int


def compare_methods(
    trials: pd.DataFrame, column: str, primary: str, region: Region, *, maximized: bool
) -> list[MethodResult]:
    """Return the result of each method that was tried, the best first, then those without a student in the region.

    Args:
        trials: A row for each trial, with ``number``, ``state``, ``front``, the method and the primary metric.
        column: Its column of methods.
        primary: Its column of the primary metric.
        region: The region of interest.
        maximized: Whether more of the primary metric is better.
    """
    found = [_result(str(name), group, primary, region, maximized) for name, group in trials.groupby(column)]

    def order(one: MethodResult) -> tuple[bool, float]:
        return one.best is None, 0.0 if one.best is None else -one.best if maximized else one.best

    return sorted(found, key=order)


def _result(name: str, trials: pd.DataFrame, primary: str, region: Region, maximized: bool) -> MethodResult:
    inside = trials[(trials["state"] == "COMPLETE") & trials[primary].map(region.holds).astype(bool)]
    best = inside.sort_values([primary, "number"], ascending=[not maximized, True]).head(1)
    return MethodResult(
        name=name,
        trials=len(trials),
        best=float(best[primary].iloc[0]) if len(best) else None,
        best_trial=int(best["number"].iloc[0]) if len(best) else None,
        on_front=int(trials["front"].sum()),
    )


def method_table(methods: Sequence[MethodResult], primary: str) -> tuple[list[str], list[list[str]]]:
    """Return the headings of a table of methods, and the cells of each row.

    Args:
        methods: The methods, in the order of the rows.
        primary: Name of the primary metric.
    """
    rows = [
        [
            printable(one.name),
            str(one.trials),
            "" if one.best is None else cell(primary, one.best),
            "" if one.best_trial is None else str(one.best_trial),
            str(one.on_front),
        ]
        for one in methods
    ]
    return [METHOD, "trials", f"best {printable(primary)}", "of trial", "on the front"], rows
