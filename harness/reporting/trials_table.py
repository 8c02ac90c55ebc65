"""The trials of a study as a table: parameters, metrics, which trials are on the front, and the three picks."""

from __future__ import annotations

import numpy as np
import pandas as pd

from harness.core.names import COLUMNS, column_names
from harness.core.pareto import knee, pareto_front
from harness.metrics import DEFAULT_OBJECTIVES, METRICS, metric_named
from harness.studies.study import Study

_POINT = 0.01  # margin of the small pick: one point on a scale of 0 to 1, one percent of the teacher on any other


def judged_frame(study: Study) -> pd.DataFrame:
    """Return ``trials_frame`` with two columns more: ``front`` (bool), and ``pick``, the names of its picks."""
    frame = trials_frame(study)
    region = study.region
    inside = frame.index[(frame["state"] == "COMPLETE") & frame[study.primary].map(region.holds).astype(bool)]
    frame["front"], frame["pick"] = False, ""
    if len(inside):
        values = frame.loc[inside, list(study.objectives)].to_numpy(dtype=float)
        front = inside[pareto_front(values, study.directions)]
        frame.loc[front, "front"] = True
        _pick(frame, front, study, study.attrs["kd.teacher"])
    return frame


def picked(study: Study) -> list[int]:
    """Return the numbers of the trials that are picked, the first trained first."""
    frame = judged_frame(study)
    return [int(number) for number in frame.loc[frame["pick"] != "", "number"]]


def trials_frame(study: Study) -> pd.DataFrame:
    """Return a row for each trial that has begun, in the order of their numbers."""
    columns = parameter_columns(study)
    rows = [
        {
            "number": trial.number,
            "state": trial.state.name,
            "recipe": trial.user_attrs.get("recipe", ""),
            **{columns[name]: value for name, value in trial.params.items() if name in columns},
            **trial.user_attrs.get("metrics", {}),
            # A trial that was interrupted while it was being stopped may have resumed since, and keep the attribute.
            "reason": trial.user_attrs.get("reason", "") if trial.state.name in ("PRUNED", "FAIL") else "",
            "started": trial.datetime_start,
            "finished": trial.datetime_complete,
        }
        for trial in study.trials()
        if trial.state.name != "WAITING"
    ]
    frame = pd.DataFrame(rows, columns=None if rows else ["number", "state", "recipe", *columns.values()])
    # The columns are the same before any trial has finished, or has used some method.
    declared = ["number", "state", "recipe", *columns.values(), study.primary, *METRICS]
    frame = frame.assign(**dict.fromkeys([name for name in declared if name not in frame], float("nan")))
    return frame[[*dict.fromkeys(declared), *(name for name in frame if name not in declared)]]


def parameter_columns(study: Study) -> dict[str, str]:
    """Return the column of each searched parameter, by its name."""
    return column_names(study.attrs["kd.identity"]["parameters"], (*COLUMNS, *METRICS, study.primary))


def small_margin(bounds: tuple[float | None, float | None], teacher: float) -> tuple[float, str]:
    """Return how far below the teacher the small pick may be, in the metric's units and in words.

    Args:
        bounds: The least and the most that the primary metric can be; ``None`` for one that is not known.
        teacher: The teacher's score.
    """
    if bounds == (0, 1):
        return _POINT, f"{_POINT:g}"
    margin = _POINT * abs(teacher)
    return margin, f"{_POINT:.0%} ({margin:.3g})"


def _pick(frame: pd.DataFrame, front: pd.Index, study: Study, teacher: dict[str, float]) -> None:
    """Name the accurate, the balanced (the knee of the front) and the small trial of the front in ``pick``."""
    primary, sign = study.primary, -study.primary_sign
    rows = frame.loc[front].sort_values([*reversed(DEFAULT_OBJECTIVES), "number"])
    losses = sign * rows[primary].to_numpy(dtype=float)
    others = [metric_named(name) for name in study.objectives if name != primary]
    axes = [metric for metric in others if metric.is_measured]  # a derived one would count its origin twice
    costs = np.array(
        [
            np.log(np.maximum(rows[metric.name].to_numpy(dtype=float), 1e-12)) * (-1 if metric.is_maximized else 1)
            for metric in axes
        ]
    ).T
    picked = {"accurate": rows.index[int(np.argmin(losses))], "balanced": rows.index[knee(losses, costs)]}
    margin, _ = small_margin(study.primary_bounds, teacher[primary])
    near = rows.index[losses <= sign * teacher[primary] + margin * (1 + 1e-9)]
    if len(near):
        picked["small"] = near[0]
    for name, index in picked.items():
        frame.loc[index, "pick"] = ", ".join(filter(None, [frame.loc[index, "pick"], name]))
