"""What a study found: its trials as a table, the front among them, and three picks by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harness.cli.search import command_for
from harness.core.errors import HarnessError
from harness.core.names import COLUMNS, column_names
from harness.core.pareto import front_by_spread, knee, pareto_front
from harness.cost.measure import Conditions
from harness.metrics import METRICS, is_timed, shown_unasked
from harness.preparation.cost_table import used_conditions
from harness.region import Region
from harness.reporting.transfer import Transfer
from harness.screen.formatting import cell
from harness.settings import Settings
from harness.studies.study import Study
from harness.tracking.spool import curves
from harness.training.answers import ANSWERS, read_answers
from harness.trials.confirm import Confirmation, confirmed
from harness.trials.controls import PLAIN, TUNED, TunedControl, is_own_control, name_of, tuned
from harness.trials.controls import failed as failed_controls
from harness.trials.controls import known as known_controls

_POINT = 0.01  # margin of the small pick: one point on a scale of 0 to 1, one percent of the teacher on any other


@dataclass(frozen=True, eq=False, kw_only=True)
class Result:
    """What a study found.

    Attributes:
        study: Its name.
        trials: One row a trial: ``number``, ``state``, parameters, metrics, ``front``, ``pick``, ``recipe``, …; where
            it is on the front, ``control`` is what its plain control reached, ``tuned_control`` what its tuned one did,
            and ``gain`` how much better it is itself than the one that ``gain_over`` names, the tuned one if there is.
        teacher: The teacher's metrics.
        ensemble: Where several teach as one, what is averaged of which; else empty.
        misgivings: What is doubtful of those who teach and learn, a sentence each.
        changes: What was changed under the study and accepted (``--accept-changes``), a sentence each.
        objectives: Names of the objectives.
        directions: Their directions.
        primary: Name of the primary metric.
        primary_is_maximized: Whether more of it is better.
        primary_bounds: The least and the most that it can be; ``None`` for one that is not known.
        region: Which students count: those beyond it are on no front.
        parameters: Columns of the searched parameters (``harness.core.names``).
        conditions: What the latencies hold for.
        curves: Of the trials on the front: metric by name and epoch, by trial number.
        transfers: What the students of the front answer beside the teacher, by trial number, as far as their answers
            are at hand.
        confirmed: What picks and their controls reached with fresh seeds on the test split.
        tested_teacher: The teacher's scores there; ``None`` before anything was confirmed.
        control_transfers: The same of their controls, by the trial's number.
        controls: Metrics of the plain controls of those on the front, as far as they were trained, by the trial's
            number.
        tuned_controls: The tuned controls of those on the front, where there are any, by the trial's number.
        tuned_parameters: Names of the settings of training that vary: what a control is tuned by.
        no_control: Why no control is fair; empty where one is.
        failed_controls: Why those of them failed that did.
        confirm_command: What to type to have the picks confirmed.
    """

    study: str
    trials: pd.DataFrame
    teacher: dict[str, float]
    ensemble: str
    misgivings: tuple[str, ...]
    changes: tuple[str, ...]
    objectives: tuple[str, ...]
    directions: tuple[str, ...]
    primary: str
    primary_is_maximized: bool
    primary_bounds: tuple[float | None, float | None]
    region: Region
    parameters: tuple[str, ...]
    conditions: Conditions
    curves: dict[int, dict[str, dict[int, float]]]
    transfers: dict[int, Transfer]
    control_transfers: dict[int, Transfer]
    confirmed: list[Confirmation]
    tested_teacher: dict[str, float] | None
    controls: dict[int, dict[str, float]]
    tuned_controls: dict[int, TunedControl]
    tuned_parameters: list[str]
    no_control: str
    failed_controls: dict[int, str]
    confirm_command: str

    @property
    def front(self) -> pd.DataFrame:
        """Trials on the front, the smallest first."""
        return self.trials[self.trials["front"]].sort_values(["parameters", "number"])

    @property
    def complete(self) -> pd.DataFrame:
        """Trials that were trained to the end."""
        return self.trials[self.trials["state"] == "COMPLETE"]

    @property
    def beyond(self) -> pd.DataFrame:
        """Return those of them that are not in the region, the best first."""
        held = self.complete[self.primary].map(self.region.holds).astype(bool)
        return self.complete[~held].sort_values(self.primary, ascending=not self.primary_is_maximized)

    @property
    def on_front_by_spread(self) -> list[int]:
        """Numbers of the trials on the front that are there only by latencies within the measurement's spread."""
        spread, front = self.conditions.spread, self.front.sort_values("number")
        if not spread or not len(front):
            return []
        spreads = [spread if is_timed(name) else 0.0 for name in self.objectives]
        values = front[list(self.objectives)].to_numpy(dtype=float)
        return [int(number) for number in front["number"].iloc[front_by_spread(values, spreads, self.directions)]]

    @property
    def columns(self) -> list[str]:
        """What a table shows: primary metric, control and gain, objectives, and how they compare with the teacher."""
        gained = ["control", *(["tuned_control"] if self.tuned_controls else []), "gain"] if self.controls else []
        gained = ["gain"] if self.no_control else gained
        unasked = [metric.name for metric in shown_unasked() if metric.name in self.teacher]
        return list(dict.fromkeys([self.primary, *gained, *self.objectives, *unasked]))

    @property
    def compared(self) -> pd.DataFrame:
        """Trials on the front that have a gain, the smallest first; ``over``: what it is a gain over.

        One that was trained on labels alone itself has none: it is its own control.
        """
        front = self.front.assign(over=self.front["tuned_control"].fillna(self.front["control"]))
        return front[front["gain_over"] != ""].dropna(subset=["gain"])

    def cell(self, row: Mapping[Any, Any] | pd.Series, name: str) -> str:
        """Return a trial's value in a table."""
        return "no control possible" if name == "gain" and self.no_control else cell(name, row[name])

    @property
    def own_parameters(self) -> list[str]:
        """Return those of the searched parameters that a table names row by row: a column for each would leave no room.

        Where methods have parameters of their own, these, and whatever is a word beside them, as the method is.
        """
        own = [name for name in self.parameters if self.trials[name].isna().any()]
        words = [name for name in self.parameters if pd.api.types.infer_dtype(self.trials[name]) == "string"]
        return [name for name in self.parameters if own and name in (*own, *words)]

    @property
    def shared_parameters(self) -> list[str]:
        """Return the others, which every trial has."""
        own = self.own_parameters
        return [name for name in self.parameters if name not in own]

    @property
    def titles(self) -> list[str]:
        """Return the objectives, each with the way that it is to go."""
        arrows = {"maximize": "↑", "minimize": "↓"}
        return [f"{name} {arrows[way]}" for name, way in zip(self.objectives, self.directions, strict=True)]

    @property
    def picks(self) -> dict[str, pd.Series]:
        """Return the named choices, by name."""
        picked = self.trials[self.trials["pick"] != ""]
        return {name: row for _, row in picked.iterrows() for name in row["pick"].split(", ")}

    @property
    def picked(self) -> dict[int, str]:
        """Return what a trial is picked as, by its number, the smallest first: ``"accurate, small"``."""
        front = self.front
        return {int(number): pick for number, pick in zip(front["number"], front["pick"], strict=True) if pick}


def collect(study: Study) -> Result:
    """Read a study: its trials, its front, and its picks."""
    if "kd.teacher" not in study.attrs:
        raise HarnessError(f"study {study.settings.study!r} has not been prepared yet: there is nothing to report.")
    teacher = study.attrs["kd.teacher"]
    frame = judged_frame(study)
    on_front = [int(number) for number in frame.loc[frame["front"], "number"]]
    controls = {number: metrics for number, metrics in known_controls(study).items() if number in on_front}
    best = {number: found for number, found in tuned(study).items() if number in on_front}
    _compare(frame, controls, best, study)
    return Result(
        study=study.settings.study,
        trials=frame,
        teacher=teacher,
        ensemble=study.ensemble,
        misgivings=study.sanity_warnings,
        changes=study.changes,
        objectives=study.objectives,
        directions=study.directions,
        primary=study.primary,
        primary_is_maximized=study.primary_direction == "maximize",
        primary_bounds=study.primary_bounds,
        region=study.region,
        parameters=tuple(parameter_columns(study).values()),
        conditions=used_conditions(study),
        curves={number: curves(study.trial_folder(number)) for number in on_front},
        transfers=_transfers({number: str(number) for number in on_front}, study),
        control_transfers=_transfers({number: name_of(number) for number in controls}, study),
        controls=controls,
        tuned_controls=best,
        tuned_parameters=study.tuned_parameters,
        no_control=study.no_control or "",
        failed_controls={number: why for number, why in failed_controls(study).items() if number in on_front},
        confirmed=confirmed(study),
        tested_teacher=study.tested_teacher,
        confirm_command=command_for("confirm", _as_searched(study)),
    )


def _compare(
    frame: pd.DataFrame, controls: Mapping[int, Mapping[str, float]], best: Mapping[int, TunedControl], study: Study
) -> None:
    """Add the columns that tell what was gained."""
    plain = {number: metrics[study.primary] for number, metrics in controls.items()}
    tuned_ones = {number: (found.chosen.metrics or {})[study.primary] for number, found in best.items()}
    for name, scores in (("control", plain), ("tuned_control", tuned_ones)):
        frame[name] = frame["number"].map(scores).astype(float)
    own = [trial.number for trial in study.trials() if is_own_control(trial.params)]
    over = {**dict.fromkeys(plain, PLAIN), **dict.fromkeys(tuned_ones, TUNED), **dict.fromkeys(own, "")}
    frame["gain_over"] = [over.get(number, "") for number in frame["number"]]
    frame["gain"] = (frame[study.primary] - frame["tuned_control"].fillna(frame["control"])) * study.primary_sign


def _as_searched(study: Study) -> Settings:
    """Return the settings with the study's space, which not every command is given."""
    given = study.settings.space_file
    file = Path(study.sources["space_file"]) if given == Path() else given
    return replace(study.settings, space_name=study.space_name, space_file=file)


def judged_frame(study: Study) -> pd.DataFrame:
    """Return ``trials_frame`` with ``front``, whether a trial is on it, and ``pick``, what it is picked as."""
    frame = trials_frame(study)
    region = study.region
    counted = frame.index[(frame["state"] == "COMPLETE") & frame[study.primary].map(region.holds).astype(bool)]
    frame["front"], frame["pick"] = False, ""
    if len(counted):
        values = frame.loc[counted, list(study.objectives)].to_numpy(dtype=float)
        front = counted[pareto_front(values, study.directions)]
        frame.loc[front, "front"] = True
        _pick(frame, front, study, study.attrs["kd.teacher"])
    return frame


def picked(study: Study) -> list[int]:
    """Return the numbers of the trials that are picked, the first trained first."""
    frame = judged_frame(study)
    return [int(number) for number in frame.loc[frame["pick"] != "", "number"]]


def trials_frame(study: Study) -> pd.DataFrame:
    """Return one row for each trial that has begun, in their order."""
    columns = parameter_columns(study)
    rows = [
        {
            "number": trial.number,
            "state": trial.state.name,
            "recipe": trial.user_attrs.get("recipe", ""),
            **{columns[name]: value for name, value in trial.params.items() if name in columns},
            **trial.user_attrs.get("metrics", {}),
            # One that was cut while it was being stopped may have gone on since.
            "reason": trial.user_attrs.get("reason", "") if trial.state.name in ("PRUNED", "FAIL") else "",
            "started": trial.datetime_start,
            "finished": trial.datetime_complete,
        }
        for trial in study.trials()
        if trial.state.name != "WAITING"
    ]
    frame = pd.DataFrame(rows, columns=None if rows else ["number", "state", "recipe", *columns.values()])
    # A study of which nothing is finished yet, or no trial has had some method, has the same columns.
    missing = [name for name in (*columns.values(), study.primary, *METRICS) if name not in frame]
    return frame.assign(**dict.fromkeys(missing, float("nan")))


def parameter_columns(study: Study) -> dict[str, str]:
    """Return the column of each searched parameter, by its name."""
    return column_names(study.attrs["kd.identity"]["parameters"], (*COLUMNS, *METRICS, study.primary))


def _transfers(folders: dict[int, str], study: Study) -> dict[int, Transfer]:
    """Return what was answered, by trial number, in these places of the study's folder."""
    if not study.owns_folder():
        return {}
    found = {number: read_answers(study.folder / folder / ANSWERS) for number, folder in folders.items()}
    names = study.class_names
    return {number: Transfer(answers, names) for number, answers in found.items() if answers is not None}


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
    primary, sign = study.primary, -study.primary_sign
    rows = frame.loc[front].sort_values(["parameters", "latency_p50_ms", "number"])
    losses = sign * rows[primary].to_numpy(dtype=float)
    others = [METRICS[name] for name in study.objectives if name != primary]
    axes = [metric for metric in others if metric.is_measured]  # what is derived from them would count them twice
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
