"""The command from one end to the other: searched, finished, killed, resumed."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import time
from pathlib import Path

import pandas as pd
import pytest
from conftest import (
    EXAMPLE,
    PATIENCE_S,
    ROOT,
    engine,
    epochs_logged,
    epochs_of_checkpoint,
    load,
    numbers,
    search,
    start,
    wait_for,
)
from mlflow import MlflowClient

from search_spaces.digits_methods import SPACE

pytestmark = pytest.mark.slow

CANCER = ("--space", "cancer.py", "--trials", "8", "--epochs", "6")


def test_the_readme_shows_a_whole_task_in_under_forty_lines() -> None:
    assert len(EXAMPLE.strip().splitlines()) < 40


def test_a_search_ends_with_a_front_three_picks_and_the_commands_that_follow(finished: Path) -> None:
    output = (finished / "output.txt").read_text()
    assert "8/8 done" in output
    assert "the Pareto front of accuracy ↑, latency_p50_ms ↓, parameters ↓" in output
    assert "accurate" in output and "balanced" in output
    assert re.search(r"compare  \S*mlflow ui", output) and re.search(
        r"\S*python -m harness report --study cancer", output
    )
    assert re.search(r"confirm  \S*python -m harness confirm --study cancer --space cancer.py\n", output)
    assert [trial.state.name for trial in load(finished, "cancer").trials] == ["COMPLETE"] * 8


def test_known_recipes_are_tried_first_and_alpha_weighs_the_labels(finished: Path) -> None:
    first = load(finished, "cancer").trials[:3]
    tried = {t.user_attrs["recipe"]: (t.params["temperature"], t.params["alpha"]) for t in first}
    assert tried == {
        "repdistiller": (4, 0.1),
        "distilbert": (2, 2 / 7),
        "keras": (10, 0.1),
    }
    assert len({t.params["learning_rate"] for t in first}) == 1
    widths = {t.user_attrs["recipe"]: t.params["width"] for t in first}
    assert widths == {"repdistiller": 1, "distilbert": 4, "keras": 3}  # the cheapest, the middle, and one between


def test_mlflow_mirrors_the_study(finished: Path) -> None:
    client = MlflowClient(f"sqlite:///{finished}/mlflow.db")
    experiment = client.get_experiment_by_name("kd-cancer")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    by_role = {role: [r for r in runs if r.data.tags["kd.role"] == role] for role in ("study", "teacher", "trial")}
    assert {role: len(found) for role, found in by_role.items()} == {"study": 1, "teacher": 1, "trial": 8}
    assert {run.info.status for run in runs} == {"FINISHED"} and {run.data.tags["kd.state"] for run in runs} == {
        "COMPLETE"
    }
    (parent,) = by_role["study"]
    stored = load(finished, "cancer").trials
    for run in by_role["trial"]:
        trial = stored[int(run.data.tags["kd.trial"])]
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id and run.data.tags["kd.study"] == "cancer"
        assert run.data.params == {name: str(value) for name, value in trial.params.items()}
        assert {k: v for k, v in run.data.metrics.items() if "/" not in k} == pytest.approx(trial.user_attrs["metrics"])
        assert {name for name in run.data.metrics if "/" in name} == {
            "train/loss", "train/hard_loss", "train/soft_loss",
            "val/loss", "val/hard_loss", "val/soft_loss", "val/accuracy", "val/agreement",
        }  # fmt: skip
        curve = client.get_metric_history(run.info.run_id, "val/accuracy")
        assert [point.step for point in curve] == list(range(6))
        assert run.data.metrics["accuracy"] == pytest.approx(curve[-1].value)  # the last epoch's, no lucky one
        assert {file.path for file in client.list_artifacts(run.info.run_id)} == {
            "student.safetensors", "answers.safetensors",
        }  # fmt: skip
    assert {file.path for file in client.list_artifacts(parent.info.run_id)} == {
        "trials.csv", "trials.parquet", "front.html", "front.png", "curves.png", "summary.md",
        "transfer.csv", "transfer.png",
    }  # fmt: skip
    assert parent.data.tags["mlflow.note.content"].startswith("## cancer")
    assert {"kd.dataset", "kd.teacher", "kd.device", "kd.versions"} <= set(parent.data.tags)


def test_every_trial_has_the_metrics_that_the_design_names(finished: Path) -> None:
    names = {
        "accuracy", "latency_p50_ms", "latency_p95_ms", "throughput_per_s", "parameters",
        "trainable_parameters", "macs", "size_mb", "agreement", "teacher_kl", "ece", "compression", "speedup",
    }  # fmt: skip
    study = load(finished, "cancer")
    assert all(set(trial.user_attrs["metrics"]) == names for trial in study.trials)
    teacher = study.user_attrs["kd.teacher"]
    assert set(teacher) == names and (teacher["agreement"], teacher["teacher_kl"]) == (1, 0)


def test_the_tables_hold_every_trial(finished: Path) -> None:
    report = finished / "mlruns" / "trials" / "cancer" / "report"
    csv, parquet = pd.read_csv(report / "trials.csv"), pd.read_parquet(report / "trials.parquet")
    assert csv["number"].tolist() == parquet["number"].tolist() == list(range(8))
    best = parquet.loc[parquet["accuracy"].idxmax(), "accuracy"]
    picked = parquet[parquet["pick"].str.contains("accurate")]
    assert len(picked) == 1 and picked["accuracy"].item() == best and picked["front"].item()
    assert (report / "front.png").read_bytes().startswith(b"\x89PNG")
    assert "Plotly.newPlot" in (report / "front.html").read_text()
    transfer = pd.read_csv(report / "transfer.csv", keep_default_na=False)
    assert transfer["samples"].groupby(transfer["trial"]).sum().unique().tolist() == [114]  # a fifth of 569
    right = transfer["student_right"].groupby(transfer["trial"]).sum() / 114
    front = csv[csv["front"]].set_index("number")
    assert right.to_dict() == pytest.approx(front["accuracy"].to_dict())
    assert (report / "transfer.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_command_again_says_that_the_study_is_finished(finished: Path) -> None:
    before = numbers(finished, "cancer")
    report = finished / "mlruns" / "trials" / "cancer" / "report"
    written = {path.name: path.stat().st_mtime_ns for path in report.iterdir()}
    output = search(finished, *CANCER)
    assert "study     cancer: 8 trials of cancer, front\n" in output and "is finished: 8 trials" in output
    fewer = search(finished, *CANCER[:2], "--trials", "5", *CANCER[4:])
    assert "study     cancer: 8 trials of cancer, front, more than the 5 asked for\n" in fewer
    assert "the Pareto front" in output and "the Pareto front" in fewer
    assert numbers(finished, "cancer") == before
    assert {path.name: path.stat().st_mtime_ns for path in report.iterdir()} == written


def test_a_search_killed_again_and_again_gives_the_numbers_of_one_that_was_not(example: Path, tmp_path: Path) -> None:
    # Latencies, measured anew, would move the proposals; and each has answers, which a pruned one has not.
    epochs = 60
    flags = (*CANCER[:-1], str(epochs), "--objectives", "accuracy,parameters", "--pruner", "none")
    whole = tmp_path / "whole"
    whole.mkdir()
    (whole / "cancer.py").write_text((example / "cancer.py").read_text())
    search(whole, *flags)
    draw = random.Random(0)
    cut = []
    for _ in range(4):
        process = start(example, *flags)
        target = min(7, len(cut) * 2)
        wait_for(
            lambda number=target, process=process: (
                epochs_logged(example, "cancer", number) > draw.randint(0, epochs // 2) or process.poll() == 0
            )
        )
        process.kill()
        process.wait()
        running = [t.number for t in load(example, "cancer").trials if t.state.name == "RUNNING"]
        cut += running
    assert cut, "no trial was cut"
    search(example, *flags)
    assert numbers(example, "cancer") == numbers(whole, "cancer")
    for number in range(8):
        kept = [folder / "mlruns" / "trials" / "cancer" / str(number) for folder in (example, whole)]
        once, never = ((folder / "answers.safetensors").read_bytes() for folder in kept)
        assert once == never
    client = MlflowClient(f"sqlite:///{example}/mlflow.db")
    runs = client.search_runs(["1"], "tags.kd.role = 'trial'")
    assert sorted(int(run.data.tags["kd.trial"]) for run in runs) == list(range(8))
    for run in runs:
        for name in ("train/loss", "val/accuracy"):
            assert [p.step for p in client.get_metric_history(run.info.run_id, name)] == list(range(epochs))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_at_once_and_the_trial_goes_on_in_its_run(
    example: Path, number: signal.Signals, code: int
) -> None:
    long = ("--space", "cancer.py", "--trials", "1", "--epochs", "300", "--no-controls")
    began = time.monotonic()
    process = start(example, *long)
    wait_for(lambda: epochs_logged(example, "cancer", 0) >= 3)
    sent = time.monotonic()
    process.send_signal(number)
    assert process.wait(PATIENCE_S) == code
    assert time.monotonic() - sent < sent - began  # a second and five where nothing else runs; both grow alike
    assert "stopped with 0 of 1 trials finished" in (example / "output.txt").read_text()
    client = MlflowClient(f"sqlite:///{example}/mlflow.db")
    (before,) = client.search_runs(["1"], "tags.kd.role = 'trial'")
    assert (before.info.status, before.data.tags["kd.state"]) == ("SCHEDULED", "WAITING")
    epochs = epochs_of_checkpoint(example, "cancer", 0)
    output = search(example, *long)
    assert f"trial 0 was interrupted; it resumes after epoch {epochs}" in output
    (after,) = client.search_runs(["1"], "tags.kd.role = 'trial'")
    assert (after.info.run_id, after.info.status) == (before.info.run_id, "FINISHED")


def test_a_run_of_a_search_that_was_killed_does_not_say_that_it_runs(example: Path) -> None:
    process = start(example, "--space", "cancer.py", "--trials", "1", "--epochs", "1000")
    wait_for(lambda: epochs_logged(example, "cancer", 0) >= 1)
    client = MlflowClient(f"sqlite:///{example}/mlflow.db")  # no earlier: two can't make its tables at once
    wait_for(lambda: client.search_runs(["1"], "tags.kd.role = 'trial' and tags.kd.state = 'RUNNING'"))
    process.kill()
    process.wait()
    wait_for(lambda: client.search_runs(["1"], "tags.kd.role = 'trial' and tags.kd.state = 'WAITING'"))
    wait_for(lambda: client.search_runs(["1"], "tags.kd.role = 'study' and tags.kd.state = 'WAITING'"))


def test_a_timeout_starts_no_further_trial(example: Path) -> None:
    output = search(example, "--space", "cancer.py", "--trials", "500", "--epochs", "2", "--timeout", "2")
    finished = len([trial for trial in load(example, "cancer").trials if trial.state.name in ("COMPLETE", "PRUNED")])
    assert 0 < finished < 500
    assert f"the time is up with {finished} of 500 trials finished; the same command goes on" in output


def test_a_value_that_is_held_fixed_is_every_trials_value(example: Path) -> None:
    search(example, *CANCER[:2], "--trials", "4", "--epochs", "1", "--fix", "alpha=0.5", "--fix", "width=3")
    trials = load(example, "cancer").trials
    assert {(t.params["alpha"], t.params["width"]) for t in trials} == {(0.5, 3)}
    assert len({t.params["temperature"] for t in trials}) == 4


def test_no_student_over_the_budget_is_trained(example: Path) -> None:
    # A perceptron of width w has 62 + 33·w parameters.
    search(example, *CANCER[:2], "--trials", "12", "--epochs", "1", "--max", "parameters=200")
    trials = load(example, "cancer").trials
    assert {t.params["width"] for t in trials} <= {1, 2, 3, 4} and len(trials) == 12
    assert max(t.user_attrs["metrics"]["parameters"] for t in trials) <= 200
    assert {t.user_attrs.get("recipe") for t in trials} > {"repdistiller", "distilbert", "keras"}


def test_a_space_that_is_exhausted_ends_the_study_with_a_word(example: Path) -> None:
    held = [f"--fix={name}" for name in ("width=3", "temperature=4", "learning_rate=0.01", "alpha=0.5")]
    for _ in range(2):
        output = search(example, *CANCER[:2], "--trials", "5", "--epochs", "1", *held)
        assert "the space is exhausted: 1 trials are all that it has." in output
    assert "study 'cancer' is finished: its space is exhausted." in output
    assert len(load(example, "cancer").trials) == 1


@pytest.mark.parametrize("sampler", ["nsga2", "gp", "random"])
def test_each_sampler_searches_and_its_seed_decides(example: Path, sampler: str) -> None:
    tried = []
    trials = "12" if sampler == "gp" else "7"  # the GP models from its eleventh on
    for study, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        flags = ("--sampler", sampler, "--seed", seed, "--study", study, "--no-controls")
        search(example, "--space", "cancer.py", "--trials", trials, "--epochs", "1", *flags)
        tried.append([t.params for t in load(example, study).trials])
    # A clock stands behind the latencies, and the GP models them: from its first suggestion on it may differ.
    same = 10 if sampler == "gp" else 7
    assert tried[0][:same] == tried[1][:same]
    assert tried[0][4:] != tried[2][4:]


def test_the_report_can_be_had_at_any_time(finished: Path) -> None:
    shown = engine(finished, "report", "--study", "cancer")
    assert "the Pareto front" in shown and "tables and plots are in" in shown
    missing = engine(finished, "report", "--study", "other", expect=2)
    # A build of torch for GPUs may have said before that it finds none.
    assert missing.splitlines()[-1] == "error: sqlite:///optuna.db must hold study 'other', but holds cancer."


def test_a_finished_study_takes_another_bound_and_its_run_tells_it(finished: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "copy"))
    begun_with, before = load(folder, "cancer").user_attrs["kd.region"], numbers(folder, "cancer")
    output = search(folder, *CANCER, "--no-controls", "--min", "accuracy=1")
    assert "region    accuracy at least 1, --min accuracy=1; before: accuracy at least 0." in output
    assert "None of 8 fully trained students is inside it" in output and "  confirm  " not in output
    output = search(folder, *CANCER, "--no-controls")  # it stays
    assert "None of 8 fully trained students" in output and "is finished: 8 trials" in output
    output = search(folder, *CANCER, "--no-controls", "--min", "none")
    assert "the Pareto front" in output and "  confirm  " in output
    assert numbers(folder, "cancer") == before
    assert load(folder, "cancer").user_attrs["kd.region"] == {"floor": None, "why": "--min none"} != begun_with
    (run,) = MlflowClient(f"sqlite:///{folder}/mlflow.db").search_runs(["1"], "tags.kd.role = 'study'")
    assert run.data.tags["kd.region"] == "all students count, --min none"


def test_a_teacher_is_loaded_from_a_checkpoint_and_its_own_file_is_its_source(finished: Path, example: Path) -> None:
    (kept,) = (finished / "mlruns" / "cache" / "teachers").glob("*/teacher.safetensors")
    output = search(example, *CANCER[:2], "--trials", "1", "--epochs", "1", "--teacher", str(kept))
    assert "trained in" not in output
    stored = load(finished, "cancer").user_attrs["kd.prepared"]
    assert load(example, "cancer").user_attrs["kd.prepared"] == stored


def test_the_default_space_is_digits(tmp_path: Path) -> None:
    output = search(tmp_path, "--trials", "2", "--epochs", "2")
    assert "1,077 train, 360 val, 360 test samples" in output
    teacher = load(tmp_path, "digits").user_attrs["kd.teacher"]
    assert teacher["accuracy"] >= 0.98
    assert set(json.loads(load(tmp_path, "digits").user_attrs["kd.costs"])["students"]) == {
        json.dumps({"width": width}) for width in range(1, 33)
    }
    assert (ROOT / "search_spaces" / "digits.py").exists()


def test_a_finished_study_whose_code_was_changed_and_accepted_is_shown_as_it_was(example: Path) -> None:
    command = ("--space", "cancer.py", "--trials", "3", "--epochs", "3", "--no-controls", "--min", "none")
    before = search(example, *command)
    with open(example / "cancer.py", "a") as file:
        file.write("\nUNUSED = 1\n")
    assert "--accept-changes to go on" in search(example, *command, expect=2)
    after = search(example, *command, "--accept-changes")
    assert "changed   before trial 3: cancer.py has `UNUSED = 1`" in after and "is finished: 3 trials" in after
    front = "the Pareto front of "
    assert after[after.index(front) :].split("\n\n")[:2] == before[before.index(front) :].split("\n\n")[:2]
    assert front in search(example, *command)  # accepted once


def test_the_method_is_searched_and_a_trial_has_its_own_method_s_parameters(tmp_path: Path) -> None:
    short = ("--epochs", "2", "--pruner", "none", "--min", "none")  # two epochs reach no region of interest
    output = search(tmp_path, "--space", "digits-methods", "--trials", "16", *short)
    trials = load(tmp_path, "digits-methods").trials
    methods = {trial.params["method"] for trial in trials}
    assert "soft_target" in methods and len(methods) >= 2  # the recipes, and what the model takes of the others
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    runs = client.search_runs(["1"], "tags.kd.role = 'trial'")
    logged = {int(run.data.tags["kd.trial"]): set(run.data.params) for run in runs}
    for trial in trials:
        names = {"width", "learning_rate", "method", *SPACE.methods[trial.params["method"]]}
        assert trial.params.keys() == names == logged[trial.number] and trial.state.name == "COMPLETE"
    front = output[output.index("the Pareto front") :]
    rows = re.findall(r"\n +\d+ +0\.\d{4}[^\n]* ([a-z]\w+) +0\.\d{4}[^\n]*\n {8}\w+ \S+", front)
    assert rows and set(rows) <= methods and "nan" not in front  # the method in a row, its own parameters below
