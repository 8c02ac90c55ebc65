"""The result of a study: its trials, its front, its controls and what was confirmed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from harness.core.errors import HarnessError
from harness.core.names import FOLD_SPREAD
from harness.core.pareto import front_by_spread
from harness.cost.base import BackendConditions
from harness.hints import confirm_command
from harness.metrics import is_timed, metrics_in_every_table
from harness.preparation.cost_table import used_conditions
from harness.region import Region
from harness.reporting.agreement import Comparison, DescribedErrors, TeacherAgreement
from harness.reporting.method_comparison import MethodResult, compare_methods
from harness.reporting.trials_table import judged_frame, parameter_columns
from harness.screen.formatting import cell
from harness.settings import Settings
from harness.space import METHOD, is_own_control
from harness.studies.study import Study
from harness.tracking.spool import curves
from harness.training.predictions import PREDICTIONS, load_errors, load_predictions
from harness.trials.confirm import Confirmation, confirmed
from harness.trials.controls import (
    PLAIN,
    TUNED,
    TunedControl,
    failed_plain_controls,
    plain_control_metrics,
    plain_control_name,
    tuned_controls,
)
from harness.trials.new_data_scores import NewDataResult, new_data_results


@dataclass(frozen=True, eq=False, kw_only=True)
class Result:
    """The result of a study. What is by trial number covers the trials on the front that have it.

    Attributes:
        study: Name of the study.
        trials: A row for each trial: ``number``, ``state``, parameters, metrics, ``front``, ``pick``, ``recipe``, …. On
            the front also ``control`` and ``tuned_control``, the primary metric of its plain and its tuned control,
            and ``gain``, its improvement over the control that ``gain_over`` names: the tuned one if there is one.
        teacher: Metrics of the teacher.
        ensemble: What is averaged of which teachers; empty for one teacher.
        sanity_warnings: Warnings about teacher and students, a sentence each.
        changes: Changes of the study that were accepted (``--accept-changes``), a sentence each.
        objectives: Names of the objectives.
        directions: Directions of the objectives.
        primary: Name of the primary metric.
        primary_is_maximized: Whether more of the primary metric is better.
        primary_bounds: Least and greatest value of the primary metric; ``None`` for an unknown one.
        region: The region of interest: students outside it are on no front.
        parameters: Columns of the searched parameters (``harness.core.names``).
        method_column: That of the method, where methods are searched; empty elsewhere.
        conditions: What latency was measured on.
        curves: Metrics by name and epoch, by trial number.
        agreements: Answers compared with the teacher's, by trial number.
        control_agreements: Answers of plain controls compared with the teacher's, by trial number.
        controls: Metrics of plain controls, by trial number.
        tuned_controls: Tuned controls, by trial number.
        tuned_parameters: Names of the training settings that vary, by which a control is tuned.
        no_control: Why no fair control is possible; empty if one is.
        unlabelled: Number of training samples that the teacher alone teaches.
        failed_controls: Why controls failed, by trial number.
        confirmed: Picks and their controls, trained with fresh seeds and scored on the test split.
        tested_teacher: The teacher's scores on the test split; ``None`` before anything was confirmed.
        new_data: What confirmed students scored on new data (``confirm --on``), one for each set of it.
        confirm_command: The command that confirms the picks.
    """

    study: str
    trials: pd.DataFrame
    teacher: dict[str, float]
    ensemble: str
    sanity_warnings: tuple[str, ...]
    changes: tuple[str, ...]
    objectives: tuple[str, ...]
    directions: tuple[str, ...]
    primary: str
    primary_is_maximized: bool
    primary_bounds: tuple[float | None, float | None]
    region: Region
    parameters: tuple[str, ...]
    method_column: str
    conditions: BackendConditions
    curves: dict[int, dict[str, dict[int, float]]]
    agreements: dict[int, Comparison]
    control_agreements: dict[int, Comparison]
    confirmed: list[Confirmation]
    tested_teacher: dict[str, float] | None
    new_data: list[NewDataResult]
    controls: dict[int, dict[str, float]]
    tuned_controls: dict[int, TunedControl]
    tuned_parameters: list[str]
    no_control: str
    unlabelled: int
    failed_controls: dict[int, str]
    confirm_command: str

    @property
    def front(self) -> pd.DataFrame:
        """Return the trials on the front, the smallest first."""
        return self.trials[self.trials["front"]].sort_values(["parameters", "number"])

    @property
    def complete(self) -> pd.DataFrame:
        """Return the trials that were trained to the end."""
        return self.trials[self.trials["state"] == "COMPLETE"]

    @property
    def outside_region(self) -> pd.DataFrame:
        """Return the complete trials outside the region of interest, the best first."""
        held = self.complete[self.primary].map(self.region.holds).astype(bool)
        return self.complete[~held].sort_values(self.primary, ascending=not self.primary_is_maximized)

    @property
    def on_front_by_spread(self) -> list[int]:
        """Return the trials that are on the front only by a latency difference within the measured spread."""
        spread, front = self.conditions.spread, self.front.sort_values("number")
        if not spread or not len(front):
            return []
        spreads = [spread if is_timed(name) else 0.0 for name in self.objectives]
        values = front[list(self.objectives)].to_numpy(dtype=float)
        return [int(number) for number in front["number"].iloc[front_by_spread(values, spreads, self.directions)]]

    @property
    def columns(self) -> list[str]:
        """Return the columns of a table: primary metric, controls, gain, objectives, comparisons with the teacher."""
        gain = ["control", *(["tuned_control"] if self.tuned_controls else []), "gain"] if self.controls else []
        gain = ["gain"] if self.no_control else gain
        others = [metric.name for metric in metrics_in_every_table() if metric.name in self.teacher]
        spread = [FOLD_SPREAD] if self.folds else []
        return list(dict.fromkeys([self.primary, *spread, *gain, *self.objectives, *others]))

    @property
    def folds(self) -> int:
        """Return the number of folds whose mean a score is; 0 where samples are not cut into folds."""
        suffix = f"/{self.primary}"
        return sum(name.startswith("fold_") and name.endswith(suffix) for name in map(str, self.trials))

    @property
    def compared(self) -> pd.DataFrame:
        """Return the trials on the front that have a gain, the smallest first; ``over`` is the control's score.

        A trial on labels alone has no gain: it is its own control.
        """
        front = self.front.assign(over=self.front["tuned_control"].fillna(self.front["control"]))
        return front[front["gain_over"] != ""].dropna(subset=["gain"])

    def cell(self, row: Mapping[Any, Any] | pd.Series, name: str) -> str:
        """Return the text of a trial's value in a table."""
        return "no control possible" if name == "gain" and self.no_control else cell(name, row[name])

    @property
    def own_parameters(self) -> list[str]:
        """Return the parameters that a table lists below each row, for columns of them would leave no room.

        If methods have parameters of their own, these are, and so are all whose values are words, but for the method.
        """
        own = [name for name in self.parameters if self.trials[name].isna().any()]
        words = [name for name in self.parameters if pd.api.types.infer_dtype(self.trials[name]) == "string"]
        return [name for name in self.parameters if own and name in (*own, *words) and name != self.method_column]

    @property
    def shared_parameters(self) -> list[str]:
        """Return the other parameters, which every trial has."""
        own = self.own_parameters
        return [name for name in self.parameters if name not in own]

    @property
    def methods(self) -> list[MethodResult]:
        """Return what each method came to, the best first; none unless several were tried."""
        if not self.method_column:
            return []
        found = compare_methods(
            self.trials, self.method_column, self.primary, self.region, maximized=self.primary_is_maximized
        )
        return found if len(found) > 1 else []

    @property
    def titles(self) -> list[str]:
        """Return the objectives, each with an arrow in its direction."""
        arrows = {"maximize": "↑", "minimize": "↓"}
        return [f"{name} {arrows[way]}" for name, way in zip(self.objectives, self.directions, strict=True)]

    @property
    def picks(self) -> dict[str, pd.Series]:
        """Return the picked trials, by the name of the pick."""
        picked = self.trials[self.trials["pick"] != ""]
        return {name: row for _, row in picked.iterrows() for name in row["pick"].split(", ")}

    @property
    def picked(self) -> dict[int, str]:
        """Return the names of each picked trial, by its number, the smallest first: ``"accurate, small"``."""
        front = self.front
        return {int(number): pick for number, pick in zip(front["number"], front["pick"], strict=True) if pick}


def collect(study: Study) -> Result:
    """Read the result of a study.

    Raises:
        HarnessError: If the study has not been prepared.
    """
    if "kd.teacher" not in study.attrs:
        raise HarnessError(f"study {study.settings.study!r} has not been prepared yet: there is nothing to report.")
    teacher = study.attrs["kd.teacher"]
    frame = judged_frame(study)
    on_front = [int(number) for number in frame.loc[frame["front"], "number"]]
    controls = {number: metrics for number, metrics in plain_control_metrics(study).items() if number in on_front}
    best = {number: found for number, found in tuned_controls(study).items() if number in on_front}
    _compare(frame, controls, best, study)
    columns = parameter_columns(study)
    return Result(
        study=study.settings.study,
        trials=frame,
        teacher=teacher,
        ensemble=study.ensemble,
        sanity_warnings=study.sanity_warnings,
        changes=study.changes,
        objectives=study.objectives,
        directions=study.directions,
        primary=study.primary,
        primary_is_maximized=study.primary_direction == "maximize",
        primary_bounds=study.primary_bounds,
        region=study.region,
        parameters=tuple(columns.values()),
        method_column=columns.get(METHOD, ""),
        conditions=used_conditions(study),
        curves={number: curves(study.trial_folder(number)) for number in on_front},
        agreements=_agreements({number: str(number) for number in on_front}, study),
        control_agreements=_agreements({number: plain_control_name(number) for number in controls}, study),
        controls=controls,
        tuned_controls=best,
        tuned_parameters=study.tuned_parameters,
        no_control=study.no_control or "",
        unlabelled=study.unlabelled,
        failed_controls={number: why for number, why in failed_plain_controls(study).items() if number in on_front},
        confirmed=confirmed(study),
        tested_teacher=study.tested_teacher,
        new_data=new_data_results(study),
        confirm_command=confirm_command(_as_searched(study)),
    )


def _compare(
    frame: pd.DataFrame, controls: Mapping[int, Mapping[str, float]], best: Mapping[int, TunedControl], study: Study
) -> None:
    """Add the columns ``control``, ``tuned_control``, ``gain_over`` and ``gain``."""
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
    known = study.sources["space_file"]
    file = study.settings.space_file or (Path(known) if known else None)
    return replace(study.settings, space_name=study.space_name, space_file=file)


def _agreements(folders: dict[int, str], study: Study) -> dict[int, Comparison]:
    """Return the comparisons with the teacher, by trial number, from files in these places of the study's folder."""
    if not study.owns_folder():
        return {}
    found = {number: _comparison(study.folder / folder / PREDICTIONS, study) for number, folder in folders.items()}
    return {number: compared for number, compared in found.items() if compared is not None}


def _comparison(file: Path, study: Study) -> Comparison | None:
    """Return the comparison in a file, of classes or of what else the output kind gives; ``None`` if it has none."""
    if (answers := load_predictions(file)) is not None:
        return TeacherAgreement(answers, study.class_names)
    errors = load_errors(file)
    return None if errors is None else DescribedErrors(errors)
