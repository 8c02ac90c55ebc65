"""Metrics are declared once: a declaration added to a copy of the program is all that a new metric needs."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from conftest import README, ROOT, TEACHER_COSTS, ended, environment, load, opened, settings_in
from forked import Forked
from mlflow import MlflowClient
from safetensors.torch import load_file
from torch import Tensor

from harness.core.errors import HarnessError, Unfit
from harness.core.metric import Costs, Metric, SplitLogits
from harness.core.names import COLUMNS, logged_name
from harness.cost.base import Conditions, backends
from harness.cost.counting import Counts
from harness.cost.table import CostTable, key_of
from harness.metrics import DEFAULT_OBJECTIVES, METRICS, budget_names, cost_metrics, unknown_for_some
from harness.reporting.report_screen import _omission_order
from harness.screen.formatting import cell, heading
from harness.space import load_space
from harness.training.tensor_file import load_state
from harness.trials.pruning import why_no_pruning
from search_spaces.digits import SPACE

ODDLY = (
    'Metric("oddly", "minimize", label="odd score", heading="odd", '
    "score=lambda on: on.student.softmax(-1).sub(on.student.new_zeros(on.student.shape)"
    ".scatter(1, on.labels[:, None], 1)).square().sum(-1))"
)
"""The one line: the Brier score, the mean squared distance of the probabilities from the true class.

Its name is none that a metric will have that ships.
"""

STUDENT = TEACHER_COSTS | {"parameters": 40, "macs": 200, "latency_p50_ms": 0.5}
LOGITS = SplitLogits(
    student=torch.tensor([[0.75, 0.25], [0.62, 0.38], [0.25, 0.75]]).log(),
    teacher=torch.tensor([[0.6, 0.4], [0.75, 0.25], [0.75, 0.25]]).log(),
    labels=torch.tensor([0, 0, 0]),
    classes=2,
)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the program with one line more, in one file."""
    folder = tmp_path_factory.mktemp("program")
    shutil.copy(ROOT / "search.py", folder)
    for layer in ("harness", "lightning_modules", "search_spaces"):
        shutil.copytree(ROOT / layer, folder / layer, ignore=shutil.ignore_patterns("__pycache__"))
    file = folder / "harness" / "metrics.py"
    before, end, after = file.read_text().partition("\n)\n\n\ndef _by_name")
    assert end
    file.write_text(f"{before}\n    {ODDLY},{end}{after}")
    return folder


def test_a_declared_metric_stands_in_the_help(program: Path) -> None:
    shown = subprocess.run(
        [sys.executable, "search.py", "--help"], cwd=program, env=_environment(program), capture_output=True, text=True
    )
    words = " ".join(shown.stdout.split())
    also = re.search(r"what spans the front \(default: accuracy,latency_p50_ms,parameters; also (.*?)\)", words)
    assert also is not None
    known = [name for name in METRICS if name not in DEFAULT_OBJECTIVES]
    last_score = [name for name in known if METRICS[name].score is not None][-1]
    known.insert(known.index(last_score) + 1, "oddly")
    assert also[1].split(", ") == known


@pytest.mark.slow
def test_a_declared_metric_is_an_objective_and_stands_wherever_metrics_do(program: Path, example: Path) -> None:
    arguments = ("--space", "cancer.py", "--trials", "2", "--epochs", "2", "--objectives", "accuracy,oddly,parameters")
    process = Forked(
        program / "search.py",
        *(*arguments, "--workers", "1", "--min", "none", "--no-controls"),
        output=example / "output.txt",
        env=_environment(program),
    )
    output = ended(process, example / "output.txt")
    assert "the Pareto front of accuracy ↑, oddly ↓, parameters ↓" in output
    assert re.search(r"trial +accuracy +odd +parameters", output)

    study = load(example, "cancer")
    task = load_space(example / "cancer.py").task
    val = task.data(None).splits["val"]
    stored = [trial.user_attrs["metrics"]["oddly"] for trial in study.trials]
    for trial, value in zip(study.trials, stored, strict=True):
        student = task.student(width=trial.params["width"])
        folder = example / "mlruns" / "trials" / "cancer" / str(trial.number)
        load_state(student, load_file(folder / "student.safetensors"))
        with torch.no_grad():
            probabilities = student.eval()(val.inputs).softmax(-1).double().numpy()
        truth = pd.get_dummies(val.labels.numpy()).to_numpy(dtype=float)
        assert value == pytest.approx(((probabilities - truth) ** 2).sum(axis=1).mean(), rel=1e-4)
        assert value == trial.values[1]
    assert 0 < study.user_attrs["kd.teacher"]["oddly"] < 2

    report = example / "mlruns" / "trials" / "cancer" / "report"
    assert pd.read_csv(report / "trials.csv")["oddly"].tolist() == pytest.approx(stored)
    assert '"text":"odd score"' in (report / "front.html").read_text()  # an axis of the plot
    client = MlflowClient(f"sqlite:///{example}/mlflow.db")
    experiment = client.get_experiment_by_name("kd-cancer")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    logged = {run.data.tags["kd.trial"]: run.data.metrics for run in runs if run.data.tags["kd.role"] == "trial"}
    assert [logged[str(number)]["oddly"] for number in range(2)] == pytest.approx(stored)
    assert all("oddly" in run.data.metrics for run in runs if run.data.tags["kd.role"] == "teacher")


def test_a_declared_metric_is_no_name_for_a_tasks_own_and_is_near_what_is_misspelt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METRICS, "oddly", Metric("oddly", "minimize", score=lambda on: on.student.mean()))
    with pytest.raises(HarnessError, match=r"--objectives must name some of accuracy, .*, oddly, but got 'oddl'; did"):
        opened(replace(settings_in(tmp_path, trials=1), objectives=("accuracy", "oddl")))
    study = opened(replace(settings_in(tmp_path, trials=1), objectives=("accuracy", "oddly")))
    assert study.directions == ("maximize", "minimize") and why_no_pruning(study) == "oddly is not known before the end"
    monkeypatch.setattr(type(SPACE.task), "metric_name", "oddly")
    with pytest.raises(ValueError, match="metric_name must be a name of its own, but 'oddly' has another meaning"):
        replace(SPACE)


def test_a_derived_cost_is_known_before_training_as_far_as_its_costs_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def flops(student: Costs, teacher: Costs) -> float | None:
        return 2 * student["macs"] if "macs" in student else None

    monkeypatch.setitem(METRICS, "flops", Metric("flops", "minimize", may_be_unknown=True, derive=flops))
    uncounted = {name: value for name, value in STUDENT.items() if name != "macs"}
    students = {key_of({"width": 2}): STUDENT, key_of({"width": 3}): uncounted}
    table = CostTable({"torch_eager": Conditions("a processor")}, TEACHER_COSTS, students)
    assert table.metrics({"width": 2})["flops"] == 400
    assert table.metrics({"width": 3}).keys() == (
        {name for name, metric in METRICS.items() if metric.known_before_training} - {"macs", "flops"}
    )
    assert METRICS["flops"].known_before_training and not METRICS["flops"].may_be_budget
    assert unknown_for_some(["accuracy", "flops", "parameters", "macs", "flops"]) == ["flops", "macs"]


def test_budgets_are_measured_costs_that_are_better_the_lower_they_are() -> None:
    assert budget_names() == [
        "parameters", "trainable_parameters", "macs", "size_mb", "latency_p50_ms", "latency_p95_ms",
    ]  # fmt: skip


def test_measured_costs_are_counted_or_declared_by_a_backend() -> None:
    measured = [metric.name for metric in METRICS.values() if metric.is_measured]
    declared = [metric.name for backend in backends() for metric in backend.metrics if metric.is_measured]
    assert measured == [*Counts._fields, *declared] == list(TEACHER_COSTS)
    assert {name for name, metric in METRICS.items() if metric.is_timed} == {
        "latency_p50_ms", "latency_p95_ms", "throughput_per_s", "speedup",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("agreement", 2 / 3),
        # 0.6 ln(0.6 / 0.75) + 0.4 ln(0.4 / 0.25) and so on: 0.05412, 0.03809 and 0.54931, averaged.
        ("teacher_kl", 0.21384),
        # Confidences 0.75 (right), 0.75 (wrong) and 0.62 (right): 2/3 · |1/2 - 0.75| + 1/3 · |1 - 0.62|.
        ("ece", 0.29333),
    ],
)
def test_scores_are_what_was_worked_by_hand(name: str, expected: float) -> None:
    metric = METRICS[name]
    assert metric.of_values(metric.of_rows(LOGITS)) == pytest.approx(expected, abs=1e-5)


def test_beside_a_teacher_without_parameters_nothing_is_smaller() -> None:
    metrics = cost_metrics(STUDENT, TEACHER_COSTS | {"parameters": 0})
    assert "compression" not in metrics and "speedup" in metrics


def test_tables_and_plots_show_a_metric_as_it_is_declared() -> None:
    assert [heading(name) for name in ("latency_p50_ms", "speedup", "ece")] == ["p50 ms", "faster", "ece"]
    assert [cell(name, 1234.56) for name in ("parameters", "compression", "size_mb")] == [
        "1,235", "1234.6x", "1234.5600",
    ]  # fmt: skip
    assert [METRICS[name].axis_label for name in ("latency_p50_ms", "macs", "throughput_per_s", "ece")] == [
        "latency p50, batch 1 (ms)", "MACs a sample", "throughput (samples/s)", "ece",
    ]  # fmt: skip
    assert _omission_order() == ["agreement", "tuned_control", "control", "compression", "speedup"]


def test_a_metric_of_an_unknown_direction_is_refused() -> None:
    with pytest.raises(ValueError, match="direction of metric 'oddly' must be 'maximize' or 'minimize', but got 'max'"):
        Metric("oddly", "max")  # type: ignore[arg-type]


def _raise(*logits: object) -> float:
    raise ZeroDivisionError("division by zero.")


@pytest.mark.parametrize(
    ("score", "found"),
    [
        (_raise, rf"in {__file__}, line \d+: ZeroDivisionError: division by zero;"),
        (lambda logits: logits.student.mean(), r"ValueError: it gives shape \(\) for 3 rows; mend"),
        (lambda logits: None, "AttributeError: 'NoneType'"),
    ],
)
def test_a_score_that_fails_is_reported_under_its_metrics_name(score: Callable[..., Any], found: str) -> None:
    metric = Metric("oddly", "minimize", score=score)
    assert metric.score is not None
    with pytest.raises(
        Unfit, match=rf"^metric 'oddly': score\(logits\) must give a value of each row, but fails.*{found}"
    ):
        metric.of_rows(LOGITS)


def test_a_metric_that_is_declared_after_another_one_is_reported_under_its_own_name() -> None:
    metric = replace(Metric("oddly", "minimize", score=_raise), name="mine")
    assert metric.score is not None
    with pytest.raises(Unfit, match=r"^metric 'mine': score"):
        metric.of_rows(LOGITS)


def test_a_reduction_that_fails_is_reported_under_its_metrics_name() -> None:
    metric = Metric("oddly", "minimize", score=lambda logits: logits.labels, reduce=lambda values: values)
    with pytest.raises(Unfit, match=r"^metric 'oddly': reduce\(values\) must give one number, but fails.*Error"):
        metric.of_values(metric.of_rows(LOGITS))


def test_a_derived_metric_that_fails_is_reported_under_its_name() -> None:
    metric = Metric("flops", "minimize", derive=lambda student, teacher: 2 * student["mac"])
    with pytest.raises(Unfit, match=r"^metric 'flops': derive\(student, teacher\) .*: KeyError: 'mac'; mend its decl"):
        metric.of_costs(STUDENT, TEACHER_COSTS)


def test_memory_that_runs_out_while_a_metric_is_computed_is_not_the_metrics_fault() -> None:
    def score(logits: SplitLogits) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    metric = Metric("oddly", "minimize", score=score)
    assert metric.score is not None
    with pytest.raises(torch.OutOfMemoryError):
        metric.of_rows(LOGITS)


def test_every_metric_has_a_name_that_flags_tables_and_mlflow_can_say() -> None:
    assert not {*METRICS} & {*COLUMNS}
    for name, metric in METRICS.items():
        assert name == metric.name == logged_name(name) and re.fullmatch(r"[a-z][a-z0-9_]*", name)
        assert metric.format.format(1.5) and metric.label and metric.heading


@pytest.mark.parametrize(
    "listed",
    [
        lambda: re.search(r"an objective that only a trained student has \((.*?)\)", README, re.DOTALL),
        lambda: re.search(r"Beside its accuracy a trial has (.*?) all on the validation split", README, re.DOTALL),
    ],
)
def test_what_the_readme_calls_scores_are_scores(listed: Callable[[], re.Match[str] | None]) -> None:
    found = listed()
    assert found is not None
    named = re.findall(r"`(\w+)`", found[1])
    assert named and not any(METRICS[name].known_before_training for name in named)


def _environment(program: Path) -> dict[str, str]:
    return {**environment(), "PYTHONPATH": str(program), "COLUMNS": "160"}
