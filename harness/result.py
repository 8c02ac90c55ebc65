"""What a study found: its trials as a table, the front among them, and three picks by name."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from harness.answers import ANSWERS, read_answers
from harness.cost import Conditions
from harness.errors import HarnessError
from harness.pareto import knee, pareto_front
from harness.prepare import used_conditions
from harness.spool import curves
from harness.study import MAXIMIZED, METRICS, Study
from harness.transfer import Transfer

WITHIN_TEACHER = 0.01  # "one point", the margin of the small pick
_COST_AXES = ("latency_p50_ms", "latency_p95_ms", "parameters", "macs", "size_mb", "throughput_per_s")


@dataclass(frozen=True, eq=False, kw_only=True)
class Result:
    """What a study found.

    Attributes:
        study: Its name.
        trials: One row a trial: ``number``, ``state``, parameters, metrics, ``front``, ``pick``, ``recipe``, …
        teacher: The teacher's metrics.
        ensemble: Where several teach as one, what is averaged of which; else empty.
        objectives: Names of the objectives.
        directions: Their directions.
        primary: Name of the primary metric.
        parameters: Names of the searched parameters.
        conditions: What the latencies hold for.
        curves: Of the trials on the front: metric by name and epoch, by trial number.
        transfers: What students answer beside the teacher, by trial number: of those on the front and of the control,
            as far as their answers are at hand.
    """

    study: str
    trials: pd.DataFrame
    teacher: dict[str, float]
    ensemble: str
    objectives: tuple[str, ...]
    directions: tuple[str, ...]
    primary: str
    parameters: tuple[str, ...]
    conditions: Conditions
    curves: dict[int, dict[str, dict[int, float]]]
    transfers: dict[int, Transfer]

    @property
    def front(self) -> pd.DataFrame:
        """Trials on the front, the smallest first."""
        return self.trials[self.trials["front"]].sort_values(["parameters", "number"])

    @property
    def picks(self) -> dict[str, pd.Series]:
        """The named choices, by name."""
        picked = self.trials[self.trials["pick"] != ""]
        return {name: row for _, row in picked.iterrows() for name in row["pick"].split(", ")}

    @property
    def picked(self) -> dict[int, str]:
        """What a trial is picked as, by its number, the smallest first: ``"accurate, small"``."""
        front = self.front
        return {int(number): pick for number, pick in zip(front["number"], front["pick"], strict=True) if pick}


def collect(study: Study) -> Result:
    """Read a study: its trials, its front, and its picks."""
    identity = study.attrs["kd.identity"]
    if "kd.teacher" not in study.attrs:
        raise HarnessError(f"study {study.settings.study!r} has not been prepared yet: there is nothing to report.")
    teacher = study.attrs["kd.teacher"]
    frame = trials_frame(study)
    complete = frame.index[frame["state"] == "COMPLETE"]
    frame["front"], frame["pick"] = False, ""
    if len(complete):
        values = frame.loc[complete, list(study.objectives)].to_numpy(dtype=float)
        front = complete[pareto_front(values, study.directions)]
        frame.loc[front, "front"] = True
        _pick(frame, front, study, teacher)
    return Result(
        study=study.settings.study,
        trials=frame,
        teacher=teacher,
        ensemble=study.ensemble,
        objectives=study.objectives,
        directions=study.directions,
        primary=study.primary,
        parameters=tuple(identity["parameters"]),
        conditions=used_conditions(study),
        curves={int(n): curves(study.trial_folder(int(n))) for n in frame.loc[frame["front"], "number"]},
        transfers=_transfers(frame, study),
    )


def trials_frame(study: Study) -> pd.DataFrame:
    """One row for each trial that has begun, in their order."""
    parameters = study.attrs["kd.identity"]["parameters"]
    columns = ["number", "state", "recipe", *parameters]
    rows = [
        {
            "number": trial.number,
            "state": trial.state.name,
            "recipe": trial.user_attrs.get("recipe", ""),
            **trial.params,
            **trial.user_attrs.get("metrics", {}),
            # One that was cut while it was being stopped may have gone on since.
            "reason": trial.user_attrs.get("reason", "") if trial.state.name in ("PRUNED", "FAIL") else "",
            "started": trial.datetime_start,
            "finished": trial.datetime_complete,
        }
        for trial in study.trials()
        if trial.state.name != "WAITING"
    ]
    frame = pd.DataFrame(rows, columns=None if rows else columns)
    # A study of which nothing is finished yet, or no trial has had some method, has the same columns.
    missing = [name for name in (*parameters, study.primary, *METRICS) if name not in frame]
    return frame.assign(**dict.fromkeys(missing, float("nan")))


def _transfers(frame: pd.DataFrame, study: Study) -> dict[int, Transfer]:
    if not study.owns_folder():
        return {}
    shown = frame["front"] | ((frame["recipe"] == "control") & (frame["state"] == "COMPLETE"))
    found = {int(n): read_answers(study.trial_folder(int(n)) / ANSWERS) for n in frame.loc[shown, "number"]}
    names = study.class_names
    return {number: Transfer(answers, names) for number, answers in found.items() if answers is not None}


def _pick(frame: pd.DataFrame, front: pd.Index, study: Study, teacher: dict[str, float]) -> None:
    primary, sign = study.primary, -1 if study.primary_direction == "maximize" else 1
    rows = frame.loc[front].sort_values(["parameters", "latency_p50_ms", "number"])
    losses = sign * rows[primary].to_numpy(dtype=float)
    axes = [name for name in study.objectives if name in _COST_AXES]
    costs = np.array(
        [
            np.log(np.maximum(rows[name].to_numpy(dtype=float), 1e-12)) * (-1 if name in MAXIMIZED else 1)
            for name in axes
        ]
    ).T
    picked = {"accurate": rows.index[int(np.argmin(losses))], "balanced": rows.index[knee(losses, costs)]}
    near = rows.index[losses <= sign * teacher[primary] + WITHIN_TEACHER + 1e-9]
    if len(near):
        picked["small"] = near[0]
    for name, index in picked.items():
        frame.loc[index, "pick"] = ", ".join(filter(None, [frame.loc[index, "pick"], name]))
