"""What came out of a study, judged by hand: the front, the picks, and files that hold what was found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any, ClassVar

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import claimed, places_of, settings_in
from optuna.distributions import CategoricalDistribution, IntDistribution
from plotly.offline import get_plotlyjs
from rich.console import Console

from harness.core.errors import HarnessError
from harness.core.names import COLUMNS
from harness.cost.base import Conditions
from harness.cost.table import CostTable
from harness.metrics import METRICS
from harness.region import Region
from harness.reporting.notes import (
    agreement_lines,
    caveats,
    confirmed_intro,
    confirmed_lines,
    notes,
    nothing_to_confirm,
)
from harness.reporting.plots import _visible_range, curves_figure
from harness.reporting.report import report, summary, write_report
from harness.reporting.report_screen import show
from harness.reporting.result import Result, collect
from harness.screen.terminal import Terminal
from harness.settings import Settings
from harness.space import SearchSpace
from harness.storage.access import open_storage
from harness.studies.opening import find_study, open_study
from harness.studies.study import Study
from harness.task import primary_metric
from harness.tracking.spool import SPOOL, Spool, read_events
from harness.training.predictions import PREDICTIONS, compare_predictions, save_errors, save_predictions
from harness.trials.controls import untrained_controls
from lightning_modules.outputs import Errors
from search_spaces import digits_methods
from search_spaces.digits import SPACE, Digits

Outcome = tuple[float, float, float] | str
"""Accuracy, latency (ms) and parameters of a trial that was trained to the end, or why it failed."""

TEACHER = (0.95, 1.0, 1000.0)
STUDENTS: list[Outcome] = [
    (0.945, 0.8, 800),  # the best
    (0.94, 0.4, 400),  # exactly one point below the teacher
    (0.90, 0.2, 100),
    (0.60, 0.1, 50),
    (0.89, 0.3, 150),  # beaten by trial 2 everywhere
]
"""The front is trials 0 to 3.

The knee, by hand: losses scaled to [0, 1] are 0, .0145, .1304, 1; logarithms of latencies 1, .6667, .3333, 0; of
parameters 1, .75, .25, 0. Sums of loss and mean cost are 1, .7228, .4221, 1: trial 2.
"""


def metrics(primary: float, latency_ms: float, parameters: float, name: str = "accuracy") -> dict[str, float]:
    return {
        name: primary,
        "parameters": parameters,
        "macs": 2 * parameters,
        "size_mb": 4e-6 * parameters,
        "latency_p50_ms": latency_ms,
        "latency_p95_ms": 1.5 * latency_ms,
        "throughput_per_s": 2000 / latency_ms,
        "agreement": 0.9,
        "teacher_kl": 0.2,
        "ece": 0.05,
        "compression": 1000 / parameters,
        "speedup": 1 / latency_ms,
    }


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_in(tmp_path, trials=100)


def a_study(
    settings: Settings,
    outcomes: Sequence[Outcome],
    *,
    space: SearchSpace = SPACE,
    teacher: tuple[float, float, float] = TEACHER,
    bounds: tuple[float | None, float | None] = (0.0, 1.0),
) -> Study:
    """A study of which these trials are over, each of three epochs."""
    study, name = open_study(settings, space, open_storage(settings)), primary_metric(space.task).name
    costs = {
        "parameters": int(teacher[2]),
        "trainable_parameters": int(teacher[2]),
        "macs": 2 * int(teacher[2]),
        "size_mb": 4e-6 * teacher[2],
        "latency_p50_ms": teacher[1],
        "latency_p95_ms": 1.5 * teacher[1],
        "throughput_per_s": 2000 / teacher[1],
    }
    conditions = {"torch_eager": Conditions("a processor", torch="9.9")}
    study.costs = CostTable(conditions, costs, {}).to_json()
    study.teacher = metrics(*teacher, name=name)
    study.primary_bounds = bounds
    for outcome in outcomes:
        claim = claimed(study, space)
        assert claim is not None
        spool = Spool(claim.folder)
        for epoch in range(3):
            curves = {"train/hard_loss": 1 / (epoch + 1), "val/hard_loss": 2 / (epoch + 1), f"val/{name}": 0.1}
            spool.metrics({"train/loss": 1 / (epoch + 1), "val/loss": 2 / (epoch + 1), **curves}, step=epoch)
        spool.close()
        if isinstance(outcome, str):
            claim.fail(outcome)
        else:
            claim.complete(metrics(*outcome, name=name))
        claim.lease.release()
    return study


def numbers(result: Result) -> list[int]:
    return [int(number) for number in result.trials.loc[result.trials["front"], "number"]]


def picks(result: Result) -> dict[str, int]:
    return {name: int(row["number"]) for name, row in result.picks.items()}


def terminal() -> tuple[Terminal, StringIO]:
    """A terminal, and what is printed on it."""
    text = StringIO()
    return Terminal(Console(file=text, width=150)), text


def test_front_and_picks_of_a_study_worked_by_hand(settings: Settings) -> None:
    result = collect(a_study(settings, STUDENTS))
    assert numbers(result) == [0, 1, 2, 3]
    assert picks(result) == {"accurate": 0, "balanced": 2, "small": 1}
    assert result.front["number"].tolist() == [3, 2, 1, 0]  # the smallest first
    assert set(result.curves) == {0, 1, 2, 3}
    assert result.curves[2]["train/loss"] == {0: 1.0, 1: 0.5, 2: pytest.approx(1 / 3)}
    assert not any(line.startswith("No student") for line in notes(result))


def test_students_that_a_clock_s_spread_alone_keeps_on_the_front_are_named(settings: Settings) -> None:
    students: list[Outcome] = [
        (0.95, 1.0, 500),
        (0.94, 0.99, 500),
        (0.93, 0.97, 400),
        (0.92, 0.96, 450),
        (0.9, 0.9, 600),
    ]
    study = a_study(settings, students)
    result = collect(study)
    assert result.on_front_by_spread == [] and "spread" not in summary(result)  # nothing is known of it
    assert study.costs is not None
    table = CostTable.from_json(study.costs)
    table.conditions["torch_eager"] = replace(table.conditions["torch_eager"], spread=0.02)
    study.costs = table.to_json()
    result = collect(study)
    assert numbers(result) == [0, 1, 2, 3, 4]  # as before
    line = (
        "2 of 5 students are on the front only by a latency difference within the measured spread of 2 %: trials 1, 3."
    )
    assert f"\n- {line}\n" in summary(result)
    shown, text = terminal()
    show(result, shown)
    assert f"\n{line}\n" in text.getvalue()


REGION = Region("accuracy", 1, 0.89, "--min accuracy=0.89")


def test_students_beyond_the_region_are_on_no_front_and_no_pick(settings: Settings) -> None:
    study = a_study(settings, STUDENTS)
    study.region = REGION
    result = collect(study)
    # Trial 3, of 0.60, is the cheapest and beyond it. The knee of the others, by hand: losses 0, .1111, 1; logarithms
    # of latencies and of parameters 1, .5, 0 and 1, .6667, 0. Sums 1, .6944, 1: trial 1.
    assert numbers(result) == [0, 1, 2] == study.front()
    assert picks(result) == {"accurate": 0, "balanced": 1, "small": 1}
    told = "Region of interest: accuracy at least 0.89, --min accuracy=0.89. 1 of 5 fully trained"
    assert any(line.startswith(told) for line in notes(result))
    low, high, left_out = _visible_range(result)
    assert 0.6 < low < 0.89 and high > 0.95
    assert left_out == "dashed: bound of the region of interest; 1 of 5 trials are outside the plot"


def test_the_region_of_a_metric_that_is_to_be_small_is_below_its_bound(settings: Settings) -> None:
    students: list[Outcome] = [(0.055, 0.8, 800), (0.10, 0.2, 100), (0.40, 0.1, 50)]
    study = a_study(settings, students, space=replace(SPACE, task=Erring()), teacher=(0.05, 1.0, 1000))
    study.region = Region("error", -1, 0.2, "--max error=0.2")
    result = collect(study)
    assert numbers(result) == [0, 1] == study.front()
    low, high, _ = _visible_range(result)
    assert low < 0.05 and 0.10 < high < 0.4


def test_where_no_student_is_in_the_region_the_report_says_the_best_and_what_to_do(
    settings: Settings, tmp_path: Path
) -> None:
    study = a_study(settings, STUDENTS)
    study.region = Region("accuracy", 1, 0.99, "--min accuracy=0.99")
    shown, text = terminal()
    report(study, shown)
    result, said = collect(study), " ".join(text.getvalue().split())
    assert numbers(result) == [] == study.front() and picks(result) == {}
    assert "None of 5 fully trained students is inside it; the best, trial 0, has accuracy 0.945" in said
    assert "--min none" in said and "--min none" in summary(result)
    frame = pd.read_csv(study.folder / "report" / "trials.csv")
    assert not frame["front"].any() and len(frame) == 5


def test_a_front_that_is_gone_under_another_region_is_in_no_file_any_more(settings: Settings, tmp_path: Path) -> None:
    study = a_study_with_answers(settings)
    write_report(collect(study), tmp_path)
    assert {"front.html", "curves.png", "transfer.png"} <= {path.name for path in tmp_path.iterdir()}
    (tmp_path / "mine.txt").touch()
    study.region = Region("accuracy", 1, 0.99, "--min accuracy=0.99")
    write_report(collect(study), tmp_path)
    left = {path.name for path in tmp_path.iterdir() if path.is_file()}
    told = {"trials.csv", "trials.parquet", "summary.md"}
    assert {name for name in left if not name.strip(".").startswith("optuna.db")} == {"mine.txt", *told}


def test_why_there_is_nothing_to_confirm_is_said_as_it_is(settings: Settings) -> None:
    study = a_study(settings, [])
    assert nothing_to_confirm(collect(study)) == "study 's' has no complete trial yet: there is nothing to confirm."
    study = a_study(settings, STUDENTS)
    study.region = Region("accuracy", 1, 0.99, "--min accuracy=0.99")
    said = nothing_to_confirm(collect(study))
    assert said.startswith("study 's' has nothing to confirm: no student is inside its region. Region of interest: ")
    assert "None of 5 fully trained students" in said and "--min none" in said


def test_pictures_of_a_region_show_what_lies_beyond_it_only_when_asked(settings: Settings, tmp_path: Path) -> None:
    study = a_study(settings, STUDENTS)
    study.region = REGION
    write_report(collect(study), tmp_path)
    page = (tmp_path / "front.html").read_text()
    assert page.count('"visible":"legendonly"') == 2 and "outside the region" in page  # once a panel
    assert matplotlib.image.imread(tmp_path / "front.png").shape[2] in (3, 4)


def test_there_is_no_small_pick_where_no_student_is_within_one_point_of_the_teacher(settings: Settings) -> None:
    result = collect(a_study(settings, STUDENTS, teacher=(0.9551, 1.0, 1000)))
    assert picks(result) == {"accurate": 0, "balanced": 2}
    assert any("No student on the front is within 0.01 of the teacher's accuracy" in note for note in notes(result))


@pytest.mark.parametrize(
    ("students", "small"),
    # one percent of 95 is 0.95: 94.05 at least, and 94 is too little
    [([(96.0, 0.8, 800), (94.1, 0.4, 400)], 1), ([(96.0, 0.8, 800), (94.0, 0.4, 400)], 0)],
)
def test_the_small_pick_of_a_metric_from_0_to_100_is_within_one_percent_of_the_teacher(
    settings: Settings, students: list[Outcome], small: int
) -> None:
    result = collect(a_study(settings, students, teacher=(95.0, 1.0, 1000), bounds=(None, None)))
    assert picks(result)["small"] == small


def test_the_margin_of_a_small_pick_that_is_not_there_is_told_in_the_metrics_own_scale(settings: Settings) -> None:
    result = collect(a_study(settings, [(90.0, 0.8, 800)], teacher=(95.0, 1.0, 1000), bounds=(None, None)))
    assert any("No student on the front is within 1% (0.95) of the teacher's" in note for note in notes(result))


def test_curves_are_drawn_of_what_temperature_and_alpha_do_not_scale(settings: Settings) -> None:
    figure = curves_figure(collect(a_study(settings, STUDENTS)))
    panels = [panel for panel in figure.axes if panel.get_title()]
    assert [panel.get_title() for panel in panels] == ["train/hard_loss", "val/hard_loss", "val/accuracy"]
    assert [list(panel.lines[0].get_ydata()) for panel in panels[:2]] == [[1, 1 / 2, 1 / 3], [2, 1, 2 / 3]]


def test_a_small_student_off_the_front_is_no_pick(settings: Settings) -> None:
    # Trial 1 is smaller than trial 0 but no smaller, faster or better than trial 2.
    result = collect(a_study(settings, [(0.94, 0.5, 500), (0.93, 0.3, 300), (0.945, 0.3, 300)]))
    assert numbers(result) == [2]
    assert picks(result) == {"accurate": 2, "balanced": 2, "small": 2}
    assert result.trials["pick"].tolist() == ["", "", "accurate, balanced, small"]


def test_equal_students_are_all_on_the_front_and_the_first_is_picked(settings: Settings) -> None:
    result = collect(a_study(settings, [(0.5, 0.9, 900), (0.94, 0.5, 500), (0.94, 0.5, 500)]))
    assert numbers(result) == [1, 2]
    assert picks(result) == {"accurate": 1, "balanced": 1, "small": 1}


class Erring(Digits):
    """Digits judged by their error, which is to be small."""

    metric_name: ClassVar[str] = "error"
    metric_direction: ClassVar[str] = "minimize"


def test_picks_of_a_metric_that_is_to_be_small(settings: Settings) -> None:
    students: list[Outcome] = [(0.055, 0.8, 800), (0.06, 0.4, 400), (0.10, 0.2, 100), (0.40, 0.1, 50), (0.11, 0.3, 150)]
    space = replace(SPACE, task=Erring())
    result = collect(a_study(settings, students, space=space, teacher=(0.05, 1.0, 1000)))
    assert (result.primary, result.directions) == ("error", ("minimize",) * 3)
    assert numbers(result) == [0, 1, 2, 3]
    assert picks(result) == {"accurate": 0, "balanced": 2, "small": 1}


def test_the_front_is_of_the_studys_own_objectives(settings: Settings) -> None:
    # Accuracy and throughput alone: each trial of the front of three, and trial 4 still behind trial 2.
    study = a_study(replace(settings, objectives=("accuracy", "throughput_per_s")), STUDENTS)
    result = collect(study)
    assert (numbers(result), result.directions) == ([0, 1, 2, 3], ("maximize", "maximize"))
    # Costs of the knee are those of throughput only: 1, .6667, .3333, 0; sums 1, .6812, .4638, 1.
    assert picks(result)["balanced"] == 2
    study = a_study(replace(settings, study="costs", objectives=("parameters", "latency_p50_ms")), STUDENTS)
    assert numbers(collect(study)) == [3]  # the smallest is the fastest too


def test_a_trial_that_failed_is_on_no_front_and_is_told_of(settings: Settings) -> None:
    outcomes: list[Outcome] = ["loss is nan", *STUDENTS, "out of memory: 3 GB"]
    result = collect(a_study(settings, outcomes))
    assert result.trials["state"].tolist() == ["FAIL", *["COMPLETE"] * 5, "FAIL"]
    assert numbers(result) == [1, 2, 3, 4] and picks(result) == {"accurate": 1, "balanced": 3, "small": 2}
    assert result.trials.loc[[0, 6], "reason"].tolist() == ["loss is nan", "out of memory: 3 GB"]
    assert result.trials.loc[[0, 6], ["accuracy", "parameters"]].isna().all(axis=None)
    told = "2 of 7 trials failed (trial 0: loss is nan, trial 6: out of memory: 3 GB)."
    screen, text = terminal()
    show(result, screen)
    assert told in notes(result) and told in text.getvalue()
    assert "7 trials (5 COMPLETE, 2 FAIL), 4 on the front of accuracy ↑, latency_p50_ms ↓, parameters ↓." in summary(
        result
    )


def test_of_many_failures_five_are_named(settings: Settings) -> None:
    result = collect(a_study(settings, [*["loss is nan"] * 6, STUDENTS[0]]))
    reasons = ", ".join(f"trial {number}: loss is nan" for number in range(5))
    assert f"6 of 7 trials failed ({reasons}, …)." in notes(result)


@pytest.mark.parametrize("position", range(3))
def test_nan_never_enters_the_front(settings: Settings, position: int) -> None:
    study = a_study(settings, STUDENTS[:3])
    claim = claimed(study, SPACE)
    assert claim is not None
    accuracy, latency_ms, parameters = (math.nan if n == position else v for n, v in enumerate((0.99, 0.01, 1.0)))
    with pytest.raises(AssertionError, match="nan"):
        claim.complete(metrics(accuracy, latency_ms, parameters))  # it would win
    claim.lease.release()
    result = collect(study)
    assert result.trials["state"].tolist() == ["COMPLETE"] * 3 + ["RUNNING"]
    assert numbers(result) == [0, 1, 2] and 3 not in picks(result).values()


@pytest.mark.parametrize(
    ("outcomes", "failed"),
    [
        ([], ""),
        (["loss is nan"], "1 of 1 trials failed (trial 0: loss is nan).\n"),
        (["loss is nan", "loss is inf"], "2 of 2 trials failed (trial 0: loss is nan, trial 1: loss is inf).\n"),
    ],
)
def test_a_study_of_which_nothing_is_finished_has_tables_and_no_front(
    settings: Settings, outcomes: list[Outcome], failed: str
) -> None:
    study = a_study(settings, outcomes)
    screen, text = terminal()
    report(study, screen)
    folder = study.folder / "report"
    assert text.getvalue() == (
        f"no trial has been trained to the end yet: there is no front to show.\n{failed}"
        f"tables and plots are in {folder}\n"
    )
    assert {path.name for path in folder.iterdir()} == {"trials.csv", "trials.parquet", "summary.md"}
    result = collect(study)
    assert result.picks == {} and result.curves == {} and len(result.front) == 0
    for table in (pd.read_csv(folder / "trials.csv"), pd.read_parquet(folder / "trials.parquet")):
        assert len(table) == len(outcomes)
        assert {"number", "state", "width", "alpha", "accuracy", "latency_p50_ms", "front", "pick"} <= set(table)
    assert f"{len(outcomes)} trials (" in (folder / "summary.md").read_text()


def test_a_trial_that_runs_is_in_the_tables_and_on_no_front(settings: Settings) -> None:
    study = a_study(settings, STUDENTS[:2])
    claim = claimed(study, SPACE)
    assert claim is not None
    result = collect(study)
    assert result.trials["state"].tolist() == ["COMPLETE", "COMPLETE", "RUNNING"]  # and no recipe that waits
    assert numbers(result) == [0, 1]
    write_report(result, study.folder / "report")
    assert len(pd.read_parquet(study.folder / "report" / "trials.parquet")) == 3
    claim.lease.release()


def test_a_study_that_was_not_prepared_has_no_report(settings: Settings) -> None:
    study = open_study(settings, SPACE, open_storage(settings))
    with pytest.raises(HarnessError, match="study 's' has not been prepared yet: there is nothing to report"):
        collect(study)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    """A result with a failure in it, and its report's folder."""
    folder = tmp_path_factory.mktemp("written")
    result = collect(a_study(settings_in(folder, trials=100), ["loss is nan", *STUDENTS]))
    write_report(result, folder / "report")
    return result, folder / "report"


def test_the_tables_read_back_equal(written: tuple[Result, Path]) -> None:
    result, folder = written
    parquet = pd.read_parquet(folder / "trials.parquet")
    pd.testing.assert_frame_equal(parquet, result.trials, check_dtype=False, check_exact=True)
    csv = pd.read_csv(folder / "trials.csv", parse_dates=["started", "finished"])
    texts = ["state", "recipe", "reason", "pick", "gain_over"]
    csv[texts] = csv[texts].astype(object).fillna("")
    pd.testing.assert_frame_equal(csv, result.trials, check_dtype=False, check_exact=False, rtol=1e-14)
    # And they hold what was told, not only one another.
    assert csv["accuracy"].tolist()[1:] == [0.945, 0.94, 0.9, 0.6, 0.89] and math.isnan(csv["accuracy"][0])
    assert csv["front"].tolist() == [False, True, True, True, True, False]
    assert csv["recipe"].tolist() == ["repdistiller", "distilbert", "keras", "", "", ""]
    assert csv["temperature"][:3].tolist() == [4, 2, 10]
    assert (csv["finished"] >= csv["started"]).all()


@pytest.mark.parametrize("name", ["front.png", "curves.png"])
def test_the_pictures_are_drawn(written: tuple[Result, Path], name: str) -> None:
    picture = matplotlib.image.imread(written[1] / name)
    height, width, _ = picture.shape
    assert width > 1000 and height > 400
    coloured = np.ptp(picture[..., :3], axis=-1) > 0.2
    assert coloured.sum() > 1000  # points and lines: axes and words are black


def test_the_page_shows_each_trial_and_names_no_host(written: tuple[Result, Path]) -> None:
    page = (written[1] / "front.html").read_text()
    drawing = page[page.rindex("Plotly.newPlot") :]
    for number in range(1, 6):
        assert f"trial {number}\\u003c" in drawing
    assert "trial 0\\u003c" not in drawing  # it failed: it has no place
    for name in ("accurate", "balanced", "small", "teacher"):
        assert f'"name":"{name}' in drawing
    assert "<script src" not in page and len(page) > 1_000_000  # plotly itself is in it
    own = page.replace(get_plotlyjs(), "")
    assert len(own) < 100_000 and "://" not in own
    assert '"showSendToCloud": false' in own and '"displaylogo": false' in own  # its own button and link name some


def test_it_is_said_where_several_teach_as_one(settings: Settings) -> None:
    study = a_study(settings, STUDENTS)
    study.pin_inputs(teacher="0123")
    assert not any("The teacher is" in note for note in notes(collect(study)))
    several = a_study(replace(settings, study="several"), STUDENTS)
    several.pin_inputs(teacher="probabilities of 0123, 4567")
    said = "The teacher is the mean of the probabilities of 0123, 4567; its costs are those of all of them in turn."
    assert said in notes(collect(several))


def test_the_summary_shows_the_front_its_picks_and_the_teacher(written: tuple[Result, Path]) -> None:
    text = (written[1] / "summary.md").read_text()
    assert text.startswith("## s\n") and "6 trials (5 COMPLETE, 1 FAIL), 4 on the front" in text
    rows = [[cell.strip() for cell in line[1:-1].split("|")][:5] for line in text.splitlines() if line[:2] == "| "]
    assert rows == [
        ["pick", "trial", "accuracy", "latency_p50_ms", "parameters"],
        ["---"] * 5,
        ["", "4", "0.6000", "0.1000", "50"],
        ["balanced", "3", "0.9000", "0.2000", "100"],
        ["small", "2", "0.9400", "0.4000", "400"],
        ["accurate", "1", "0.9450", "0.8000", "800"],
        ["teacher", "", "0.9500", "1.0000", "1,000"],
    ]
    assert "Latency measured on a processor, 1 thread, latency at batch 1, throughput at batch 64, torch 9.9" in text


def test_the_table_on_the_terminal_has_the_front_the_picks_and_the_teacher(settings: Settings) -> None:
    screen, printed = terminal()
    show(collect(a_study(settings, STUDENTS)), screen)
    text = printed.getvalue()
    assert text.startswith("s: the Pareto front of accuracy ↑, latency_p50_ms ↓, parameters ↓")
    rows = [line.split() for line in text.splitlines()]
    found = {row[0]: (row[1:4], row[-1]) for row in rows if row and row[0] in {"0", "1", "2", "3", "4", "teacher"}}
    assert found == {
        "3": (["0.6000", "0.1000", "50"], "0.0239"),  # no pick: the learning rate is its last cell
        "2": (["0.9000", "0.2000", "100"], "balanced"),
        "1": (["0.9400", "0.4000", "400"], "small"),
        "0": (["0.9450", "0.8000", "800"], "accurate"),
        "teacher": (["0.9500", "1.0000", "1,000"], "1.0x"),
    }


def test_the_report_goes_to_the_studys_own_run(settings: Settings) -> None:
    study = a_study(settings, ["loss is nan", *STUDENTS])
    spool = Spool(study.folder)
    report(study, terminal()[0], spool)
    spool.close()
    artifact, values, tags = read_events(study.folder / SPOOL)
    assert artifact["path"] == "report" and values["step"] is None
    counts = {"trials_running": 0, "trials_waiting": 0, "trials_complete": 5, "trials_pruned": 0, "trials_fail": 1}
    assert values["values"] == {**counts, "front_size": 4, "best_accuracy": 0.945}
    assert tags["values"]["kd.picks"] == '{"accurate": 1, "small": 2, "balanced": 3}'
    assert tags["values"]["note"] == (study.folder / "report" / "summary.md").read_text()


@pytest.mark.parametrize("choices", [["bn", "none"], [None, "bn"], [False, "bn"], [1, "auto"]])
def test_a_choice_of_any_type_is_reported(settings: Settings, choices: list[Any]) -> None:
    space = replace(SPACE, student={"norm": CategoricalDistribution(choices)})
    study = a_study(replace(settings, trials=9), STUDENTS, space=space)
    write_report(collect(study), study.folder / "report")
    assert len(pd.read_parquet(study.folder / "report" / "trials.parquet")) == len(STUDENTS)
    assert any(f"norm {choice}" in (study.folder / "report" / "front.html").read_text() for choice in choices)


def test_a_study_without_a_trial_of_some_method_is_reported_whole(settings: Settings) -> None:
    study = a_study(settings, STUDENTS[:2], space=digits_methods.SPACE)  # two recipes, of one method
    assert not any("hint_weight" in trial.params for trial in study.trials())
    report(study, Terminal())
    csv = pd.read_csv(study.folder / "report" / "trials.csv")
    assert csv["hint_weight"].isna().all() and csv["student_layer"].isna().all() and csv["temperature"].notna().all()
    head, *rows = [line.split(" | ") for line in (study.folder / "report" / "summary.md").read_text().splitlines()[4:8]]
    assert head[0] == "| pick" and head[-1] == "with |" and {len(row) for row in rows} == {len(head)}
    place = head.index("method")
    assert [row[place] for row in rows[1:]] == ["soft_target"] * 2
    assert "### Methods" not in summary(collect(study))  # there is nothing to compare


def a_study_of_methods(settings: Settings) -> Study:
    """Two trials of soft_target, of which one is beaten, and one of contrastive, which is the best."""
    study = a_study(settings, [STUDENTS[2], STUDENTS[4]], space=digits_methods.SPACE)
    study.optuna.enqueue_trial({"method": "contrastive"})
    claim = claimed(study, digits_methods.SPACE)
    assert claim is not None
    claim.complete(metrics(*STUDENTS[0]))
    claim.lease.release()
    return study


def test_methods_stand_side_by_side_in_the_summary_and_on_the_screen(settings: Settings) -> None:
    result = collect(a_study_of_methods(settings))
    assert summary(result).partition("### Methods\n\n")[2].splitlines()[:4] == [
        "| method | trials | best accuracy | of trial | on the front |",
        "| --- | --- | --- | --- | --- |",
        "| contrastive | 1 | 0.9450 | 2 | 1 |",
        "| soft_target | 2 | 0.9000 | 0 | 1 |",
    ]
    screen, text = terminal()
    show(result, screen)
    lines = [line.split() for line in text.getvalue().splitlines()]
    assert ["contrastive", "1", "0.9450", "2", "1"] in lines and ["soft_target", "2", "0.9000", "0", "1"] in lines


@pytest.mark.parametrize(("width", "omitted"), [(75, True), (200, False)])
def test_a_narrow_terminal_keeps_the_method_of_a_trial_and_gives_up_what_other_columns_tell(
    settings: Settings, width: int, omitted: bool
) -> None:
    text = StringIO()
    show(collect(a_study_of_methods(settings)), Terminal(Console(file=text, width=width)))
    (header,) = (line.split() for line in text.getvalue().splitlines() if line.endswith(" pick"))
    assert "method" in header and ("faster" not in header) == omitted
    assert any(line.split()[:1] == ["2"] and "contrastive" in line for line in text.getvalue().splitlines())


def test_a_student_without_parameters_is_drawn(settings: Settings) -> None:
    study = a_study(settings, [(0.9, 0.5, 500)])
    claim = claimed(study, SPACE)
    assert claim is not None
    claim.complete(metrics(0.8, 0.4, 1) | {"parameters": 0})
    claim.lease.release()
    write_report(collect(study), study.folder / "report")
    assert (study.folder / "report" / "curves.png").stat().st_size > 1000


@pytest.mark.parametrize(("width", "shown"), [(70, False), (200, True)])
def test_on_a_narrow_terminal_the_comparisons_give_way_and_no_heading_is_cut(
    settings: Settings, width: int, shown: bool
) -> None:
    text = StringIO()
    show(collect(a_study(settings, STUDENTS)), Terminal(Console(file=text, width=width)))
    assert all(heading in text.getvalue() for heading in ("accuracy", "p50 ms", "parameters", "pick"))
    table, _, rest = text.getvalue().partition("Columns omitted to fit the width: ")
    assert ("faster" in table) == shown
    assert rest.startswith("faster, smaller, agrees; trials.csv has all.") != shown


def answered(study: Study, place: str, student: list[int]) -> None:
    """Let a student have kept these answers beside a teacher that has three of four right."""
    logits = [torch.nn.functional.one_hot(torch.tensor(classes), 3).float() for classes in (student, [0, 1, 2, 2])]
    save_predictions(compare_predictions(*logits, torch.tensor([0, 1, 2, 0])), study.folder / place / PREDICTIONS)


def a_study_with_answers(settings: Settings) -> Study:
    """Picks: accurate is trial 0, balanced 2, small 1. Trial 1 has a control, wrong once more than the teacher."""
    study = a_study(settings, STUDENTS)
    for number, student in enumerate(([0, 1, 2, 0], [0, 1, 2, 2], [1, 1, 1, 1], [2, 1, 2, 2])):
        answered(study, str(number), student)
    study.store_retrained("controls/1", {"metrics": metrics(0.93, 0.4, 400)})
    answered(study, "controls/1", [0, 1, 1, 2])
    return study


def test_each_pick_says_what_it_keeps_of_the_teachers_answers(settings: Settings) -> None:
    study = a_study_with_answers(settings)
    study.class_names = ("cat", "dog", "owl")
    result, (screen, text) = collect(study), terminal()
    assert set(result.agreements) == {0, 1, 2, 3}
    told = agreement_lines(result)
    assert told == [
        "balanced (trial 2) keeps 1 of the teacher's 3 right answers (33.3 %) and corrects 0 of its 1 wrong ones; "
        "no class loses more than 1.",
        "small (trial 1) keeps 3 of the teacher's 3 right answers (100.0 %) and corrects 0 of its 1 wrong ones.",
        "accurate (trial 0) keeps 3 of the teacher's 3 right answers (100.0 %) and corrects 1 of its 1 wrong ones.",
    ]
    show(result, screen)
    assert all(line in text.getvalue() for line in told)
    _, _, section = summary(result).partition("### Teacher-student agreement\n\n")
    lines = section.splitlines()
    assert [line.split(" keeps")[0] for line in lines] == [
        "- balanced (trial 2)",
        "- small (trial 1)",
        "- the control of trial 1, on labels alone,",
        "- accurate (trial 0)",
    ]
    assert "keeps 2 of the teacher's 3 right answers" in lines[2]
    assert lines[1].startswith(f"- {told[1]} Both are wrong on 1 of 4 samples and give the same wrong answer on 1;")
    report(study, screen)
    table = pd.read_csv(study.folder / "report" / "transfer.csv", keep_default_na=False)
    assert table.groupby("trial")["pick"].first().to_dict() == {0: "accurate", 1: "small", 2: "balanced", 3: ""}
    assert table["class"].tolist() == ["cat", "dog", "owl"] * 4
    assert table.loc[table["trial"] == 2, "lost_to"].tolist() == ["dog", "", "dog"]
    assert (study.folder / "report" / "transfer.png").stat().st_size > 10_000


def test_an_output_without_classes_says_how_each_pick_errs_and_has_a_table_but_no_picture(settings: Settings) -> None:
    study = a_study(settings, STUDENTS)
    for number in range(3):  # not of trial 3, which is on the front too
        told = Errors(answers={}, sentence=f"errs by {number}.", details="Much.", table={"student_mae": [number]})
        (study.folder / str(number)).mkdir(parents=True, exist_ok=True)
        save_errors(told, study.folder / str(number) / PREDICTIONS)
    result, (screen, text) = collect(study), terminal()
    assert agreement_lines(result) == [
        "balanced (trial 2) errs by 2.",
        "small (trial 1) errs by 1.",
        "accurate (trial 0) errs by 0.",
        "Not compared with the teacher's answers: 1 of the 4 trials on the front, whose answers.safetensors is not in "
        "this --runs-dir, or can't be read.",
    ]
    assert "- balanced (trial 2) errs by 2. Much." in summary(result)
    report(study, screen)
    assert "errs by 1." in text.getvalue()
    table = pd.read_csv(study.folder / "report" / "transfer.csv", keep_default_na=False)
    assert table["student_mae"].tolist() == [0, 1, 2] and table["pick"].tolist() == ["accurate", "small", "balanced"]
    assert not (study.folder / "report" / "transfer.png").exists()


@pytest.mark.parametrize("left", ["none", "damaged", "some"])
def test_answers_that_are_not_at_hand_are_said_in_one_line(settings: Settings, left: str) -> None:
    study = a_study_with_answers(settings)
    for number in range(1 if left == "some" else 4):
        file = study.trial_folder(number) / PREDICTIONS
        if left == "damaged":
            file.write_bytes(b"damaged")
        else:
            file.unlink()
    screen, text = terminal()
    report(study, screen)
    count = 1 if left == "some" else 4
    line = (
        f"Not compared with the teacher's answers: {count} of the 4 trials on the front, whose "
        "answers.safetensors is not in this --runs-dir, or can't be read."
    )
    assert text.getvalue().count(line) == 1 and summary(collect(study)).count(line) == 1
    assert "accurate (trial 0) keeps" not in text.getvalue()
    assert ("small (trial 1) keeps" in text.getvalue()) == (left == "some")
    written = {path.name for path in (study.folder / "report").iterdir()}
    assert ({"transfer.csv", "transfer.png"} <= written) == (left == "some")


def test_the_answers_of_a_namesakes_trials_are_not_reported(settings: Settings) -> None:
    study = a_study_with_answers(settings)
    (study.folder / "study.json").write_text('{"id": "another"}')
    assert collect(study).agreements == {}


def test_a_gain_stands_beside_its_control(settings: Settings) -> None:
    study = a_study(settings, STUDENTS)
    assert collect(study).front["gain"].isna().all()
    study.store_retrained("controls/1", {"metrics": metrics(0.93, 0.4, 400)})
    study.store_retrained("controls/2", {"metrics": metrics(0.91, 0.2, 100)})
    study.store_retrained("controls/4", {"metrics": metrics(0.5, 0.3, 150)})  # its student is not on the front any more
    result, (screen, printed) = collect(study), terminal()
    assert result.front.set_index("number")["gain"].dropna().to_dict() == pytest.approx({1: 0.01, 2: -0.01})
    assert set(result.controls) == {1, 2}
    show(result, screen)
    rows = [line.split() for line in printed.getvalue().splitlines()]
    assert [row[1:4] for row in rows if row[:1] == ["1"]] == [["0.9400", "0.9300", "+0.0100"]]
    assert [row[1:4] for row in rows if row[:1] == ["2"]] == [["0.9000", "0.9100", "-0.0100"]]
    (gain,) = (note for note in notes(result) if note.startswith("Gain: improvement in accuracy over the plain"))
    assert "1 of 2 are above 0" in gain
    write_report(result, study.folder / "report")
    page = (study.folder / "report" / "front.html").read_text()
    assert "control of trial 1" in page[page.rindex("Plotly.newPlot") :]
    assert "| +0.0100 |" in summary(result)


def test_the_gain_of_a_pick_is_over_its_tuned_control_and_says_so(settings: Settings) -> None:
    study = a_study(settings, STUDENTS)
    for one in untrained_controls(study, study.settings, SPACE, [2]):  # the plain ones are those of trials 0 to 3
        accuracy = 0.89 if one.tags.get("kd.try") == "2" else 0.88
        study.store_retrained(one.name, {**one.facts, "metrics": metrics(accuracy, 0.2, 100)})
    result, (screen, printed) = collect(study), terminal()
    widths = result.front.set_index("number")["width"]
    alike = set(widths[widths == widths[2]].index)  # they share the tuned control
    assert set(result.tuned_controls) == alike
    rows = result.front.set_index("number")
    for number, row in rows.iterrows():
        over, kind = (0.89, "tuned") if number in alike else (0.88, "plain")
        assert row["gain"] == pytest.approx(row["accuracy"] - over) and row["gain_over"] == kind
        assert result.compared.set_index("number")["over"][number] == over
    show(result, screen)
    lines = [line.split() for line in printed.getvalue().splitlines()]
    assert [row[1:5] for row in lines if row[:1] == ["2"]] == [["0.9000", "0.8800", "0.8900", "+0.0100"]]
    assert any("trial 2: lr" in note and "best of 5" in note for note in notes(result))
    over_plain = sorted(set(result.picked) - alike)
    assert over_plain == [] or any("over plain controls; --controls tuned" in note for note in notes(result))


def test_how_controls_are_trained_is_said_where_samples_have_no_label(settings: Settings) -> None:
    study = a_study(settings, STUDENTS)
    assert not any("unlabelled" in note for note in notes(collect(study)))
    study.unlabelled = 1000
    told = "1,000 training samples are unlabelled: the teacher alone teaches them, and controls are trained on the lab"
    assert any(note.startswith(told) for note in notes(collect(study)))


def test_where_no_control_is_possible_it_stands_instead_of_a_gain(settings: Settings) -> None:
    study = a_study(settings, STUDENTS)
    study.store_retrained("controls/1", {"metrics": metrics(0.93, 0.4, 400)})
    study.no_control = "the views mix samples, and the labels are those of the first"
    result, (screen, printed) = collect(study), terminal()
    assert result.trials[["control", "tuned_control", "gain"]].isna().all(axis=None)
    show(result, screen)
    assert printed.getvalue().count("no control possible") == len(result.front)
    assert "No control possible: the views mix samples" in summary(result) and not len(result.compared)


def test_a_loss_that_falls_is_a_gain_too(settings: Settings) -> None:
    study = a_study(settings, STUDENTS)
    study.optuna.set_user_attr("kd.primary_direction", "minimize")
    study.store_retrained("controls/1", {"metrics": metrics(0.95, 0.4, 400)})
    assert collect(study).front.set_index("number")["gain"][1] == pytest.approx(0.01)


def test_a_control_that_failed_is_told(settings: Settings) -> None:
    study = a_study(settings, STUDENTS)
    study.store_retrained("controls/1", {"reason": "val/loss is nan in epoch 3"})
    study.store_retrained("controls/4", {"reason": "disk full"})  # its student is not on the front
    told = "1 controls failed, so these gains are unknown (trial 1: val/loss is nan in epoch 3)."
    assert told in notes(collect(study))


def test_a_student_on_labels_alone_is_in_no_count_of_gains(settings: Settings) -> None:
    study = a_study(settings, STUDENTS)
    study.store_retrained("controls/1", {"metrics": metrics(0.93, 0.4, 400)})
    claim = claimed(study, SPACE.fixed({"alpha": "1"}))
    assert claim is not None
    claim.complete(metrics(0.96, 0.9, 900))
    claim.lease.release()
    result = collect(study)
    own = result.front.set_index("number").loc[5]
    assert (own["control"], own["gain"], own["gain_over"]) == (0.96, 0.0, "")  # as the table shows it
    assert result.compared["number"].tolist() == [1]  # what is drawn, and logged
    assert any("1 of 1 are above 0" in note for note in notes(result))


def test_what_was_confirmed_says_what_is_picked_today_and_what_is_not_confirmed_yet(settings: Settings) -> None:
    study = a_study(settings, STUDENTS)
    study.tested_teacher = {"accuracy": 0.95}
    for place in range(2):
        for arm in ("student", "control"):
            for number in (0, 3):
                result = {"pick": "small", "metrics": {"test/accuracy": 0.9}}
                study.store_retrained(f"confirm/{number}/{arm}-{place}", result)
    result = collect(study)
    assert 0 in result.picked and 3 not in result.picked
    of_0, of_3, *missing = confirmed_lines(result)
    assert confirmed_intro(result).startswith("Confirmed on the test split")
    assert of_0.startswith(f"{result.picked[0]} (trial 0): accuracy") and of_3.startswith("formerly small (trial 3)")
    assert missing == [f"{pick} (trial {n}): not confirmed yet." for n, pick in result.picked.items() if n != 0]
    write_report(result, study.folder / "report")
    table = pd.read_csv(study.folder / "report" / "confirm.csv").set_index("trial")
    assert table.loc[0, "picked"] == result.picked[0] and pd.isna(table.loc[3, "picked"])


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_table_of_methods_fits_the_terminal_and_cuts_nothing(settings: Settings, width: int) -> None:
    space = digits_methods.SPACE.fixed({"method": "contrastive"})
    study, name = a_study(replace(settings, study="of-one"), STUDENTS[:2], space=space), "contrastive_temperature"
    text = StringIO()
    result = collect(study)
    result.trials.loc[0, name] = math.nan  # as where that trial has another method
    show(result, Terminal(Console(file=text, width=width, force_terminal=True, color_system=None)))
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= width and "…" not in text.getvalue()
    # All that a row is made of, in the lines up to the next one.
    (place,) = (n for n, line in enumerate(lines) if line.startswith("       1 "))
    row, below = lines[place], " ".join("".join(lines[place + 1 : place + 5]).split())
    assert "0.9400" in row and "400" in row and "small" in row
    assert "student_layer block1" in {item.strip() for item in below.split(",")} and "contrastive" in row + below
    assert f"{name} 0." in below


def confirmed_over(study: Study, *accuracies: float) -> Result:
    """The study with its pick, trial 0, confirmed: these of the student, and of its control the same, last to first."""
    study.tested_teacher = {"accuracy": 0.95}
    study.primary_bounds = (0.0, 1.0)
    for arm, scores in (("student", accuracies), ("control", accuracies[::-1])):
        for place, accuracy in enumerate(scores):
            result = {"pick": "accurate", "metrics": {"test/accuracy": accuracy}}
            study.store_retrained(f"confirm/0/{arm}-{place}", result)
    return collect(study)


def test_an_interval_of_two_seeds_says_how_little_that_is_and_that_it_leaves_the_metric_s_range(
    settings: Settings,
) -> None:
    result = confirmed_over(a_study(settings, STUDENTS), 0.97, 0.99)  # 0.98 ± 12.706 · 0.01
    few, more, outside = caveats(result)
    assert few.startswith("Two seeds say little") and more.endswith("--seeds 5")
    assert outside.startswith("An interval extends below 0 or above 1, where accuracy can't be: ")
    _, _, section = summary(result).partition("### Confirmed\n\n")
    intro, row, *_ = section.split("\n\n")
    assert intro == confirmed_intro(result) and row.startswith("- accurate (trial 0): accuracy 0.9800 [0.8529, 1.1071]")
    assert section.rstrip().endswith(outside)
    screen, text = terminal()
    show(result, screen)
    (line,) = (line for line in text.getvalue().splitlines() if "0.9800 ± 0.1271" in line)
    assert line.split()[:3] == ["0", "accurate", "2"] and line.rstrip().endswith("no gain") and few in text.getvalue()


def test_the_way_to_confirm_that_is_said_has_the_space_file_and_the_places(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched = replace(settings, space_name="my-space", space_file=settings.runs_dir / "my_space.py")
    study = a_study(searched, STUDENTS)
    study.store_retrained("controls/1", {"metrics": metrics(0.93, 0.4, 400)})
    monkeypatch.chdir(settings.runs_dir)
    places = f"--storage {settings.storage} --runs-dir {settings.runs_dir}"
    command = f"python -m harness confirm --study {settings.study} {places} --space my_space.py"
    result = collect(find_study(places_of(settings)))  # as the report has it
    (note,) = (note for note in notes(result) if note.startswith("Gain: "))
    assert note.endswith(command)
    assert caveats(confirmed_over(study, 0.5, 0.51))[1].endswith(f"{command} --seeds 5")


@pytest.mark.parametrize(("seeds", "more"), [(3, 6), (2, 5)])
def test_seeds_that_score_alike_are_no_certainty(settings: Settings, seeds: int, more: int) -> None:
    *_, alike, last = caveats(confirmed_over(a_study(settings, STUDENTS), *[0.6] * seeds))
    assert alike == (
        "An interval of zero width is no certainty: the seeds happened to score alike on the test split "
        f"(trial 0: {seeds} seeds)."
    )
    assert last.endswith(f"--seeds {more}")


@pytest.mark.parametrize(("accuracies", "said"), [((0.5, 0.51), 2), ((0.6, 0.61, 0.62), 0), ((0.9, 0.99, 0.99), 1)])
def test_what_needs_no_caveat_has_none(settings: Settings, accuracies: tuple[float, ...], said: int) -> None:
    assert len(caveats(confirmed_over(a_study(settings, STUDENTS), *accuracies))) == said


def test_a_table_of_what_was_confirmed_shows_failures_and_what_is_not_confirmed_yet(settings: Settings) -> None:
    study = a_study(settings, STUDENTS)
    confirmed_over(study, 0.6, 0.61, 0.62)
    study.store_retrained("confirm/0/student-3", {"pick": "accurate", "reason": "loss is nan"})
    screen, text = terminal()
    show(collect(study), screen)
    lines = text.getvalue().splitlines()
    (place,) = (n for n, line in enumerate(lines) if "0.6100 ± 0.0248" in line)
    assert lines[place].rstrip().endswith("unproven")
    assert lines[place + 1].strip() == "of the student, 1 of 4 seeds failed (loss is nan)"
    assert sum(line.rstrip().endswith("not confirmed yet") for line in lines) == 2


def test_what_was_reported_just_so_is_shown_again_and_not_written(settings: Settings) -> None:
    study = a_study(settings, STUDENTS)
    spool, folder = Spool(study.folder), study.folder / "report"
    report(study, terminal()[0], spool, anew=False)
    written = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    screen, text = terminal()
    report(study, screen, spool, anew=False)
    assert "the Pareto front" in text.getvalue() and f"tables and plots are in {folder}" in text.getvalue()
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == written
    events = len(read_events(study.folder / SPOOL))
    (folder / "front.png").unlink()
    report(study, terminal()[0], spool, anew=False)
    assert (folder / "front.png").exists() and len(read_events(study.folder / SPOOL)) > events
    study.store_retrained("controls/1", {"metrics": metrics(0.93, 0.4, 400)})  # news
    report(study, terminal()[0], spool, anew=False)
    assert "| +0.0100 |" in (folder / "summary.md").read_text()
    spool.close()


@pytest.mark.parametrize(("hurts", "known", "said_so"), [(True, 9, True), (False, 9, False), (True, 2, False)])
def test_a_teacher_that_helps_nobody_is_said_to(settings: Settings, hurts: bool, known: int, said_so: bool) -> None:
    study = a_study(settings, STUDENTS)
    for number in study.front()[:known]:
        accuracy = 0.99 if hurts or number else 0.1
        study.store_retrained(f"controls/{number}", {"metrics": metrics(accuracy, 0.4, 400)})
    said = "there is no evidence that this teacher helps" in " ".join(notes(collect(study)))
    assert said == said_so


def test_a_parameter_with_the_name_of_another_column_has_one_of_its_own(settings: Settings) -> None:
    student = {name: IntDistribution(1, 40) for name in ("state", "parameters", "front", "width")}
    study = a_study(replace(settings, trials=9), STUDENTS, space=replace(SPACE, student=student))
    result = collect(study)
    assert picks(result) == {"accurate": 0, "balanced": 2, "small": 1}
    assert set(result.parameters) > {"params.state", "params.parameters", "params.front", "width"}
    assert result.trials["parameters"].tolist() == [800, 400, 100, 50, 150]
    assert result.trials["params.parameters"].tolist() == [t.params["parameters"] for t in study.trials()]
    write_report(result, study.folder / "report")
    assert "params.state " in (study.folder / "report" / "front.html").read_text()
    known = {*COLUMNS, *METRICS, study.primary, *result.parameters}
    assert set(result.trials) <= known, "harness.core.names.COLUMNS must name each column of the table"


@pytest.mark.parametrize(
    ("teacher", "said"),
    [
        (0.94, "it generalises worse than its teacher."),
        (0.2, "it generalises better than its teacher."),
        (0.85, "no difference from its teacher is shown."),
    ],
)
def test_what_was_scored_on_new_data_is_on_the_screen_in_the_summary_and_in_a_table(
    settings: Settings, teacher: float, said: str
) -> None:
    study = a_study(settings, STUDENTS)
    confirmed_over(study, 0.93, 0.95)
    scores = [(f"confirm/0/{arm}-{place}", (0.83, 0.852)[place]) for arm in ("student", "control") for place in (0, 1)]
    named = {name: {"accuracy": accuracy} for name, accuracy in scores}
    study.store_new_data_scores(
        "f", {"path": "other_photos", "samples": 1500, "teacher": {"accuracy": teacher}, "scores": named}
    )
    result = collect(study)
    screen, text = terminal()
    show(result, screen)
    shown = " ".join(text.getvalue().split())
    intro = f"The teacher, one network, goes from 0.9500 to {teacher:.4f}, a drop of {0.95 - teacher:.4f}."
    assert "On other_photos, 1,500 new samples: accuracy there" in shown and intro in shown and said in shown
    # Drops of 0.100 and 0.098, of its control 0.120 and 0.078.
    assert "0 accurate student 2 0.9400 ± 0.1271 0.8410 ± 0.1398 0.0990 ± 0.0127" in shown
    assert "Beside its plain control: +0.0000" in shown and "Two seeds say little: more --seeds" in shown
    end = "control: +0.0000 [-0.2541, +0.2541]."
    (sentence,) = (line for line in summary(result).splitlines() if line.endswith(end))
    assert sentence.startswith("- accurate (trial 0): drop 0.0990, its teacher's") and said in sentence
    write_report(result, study.folder / "report")
    table = pd.read_csv(study.folder / "report" / "new_data.csv")
    assert table["arm"].tolist() == ["student", "control", "teacher"] and table["new"].iloc[2] == teacher
    study.store_retrained("confirm/0/student-2", {"pick": "accurate", "reason": "loss is nan"})
    assert "1 of its seeds failed, so it is unproven." in summary(collect(study))
