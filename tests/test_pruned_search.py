"""The command, stopping students that have no chance of the front: to the same numbers however it is cut."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import EXAMPLE, epochs_logged, load, numbers, search, start, wait_for
from mlflow import MlflowClient

pytestmark = pytest.mark.slow

# What no clock measures decides here, so that two searches are the same.
PRUNED = ("--space", "cancer.py", "--trials", "24", "--epochs", "6", "--objectives", "accuracy,parameters")
WITH = {sampler: (*PRUNED, "--sampler", sampler) for sampler in ("front", "tpe")}


@pytest.fixture(scope="module", params=WITH)
def sampler(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory, sampler: str) -> Path:
    folder = tmp_path_factory.mktemp("pruned")
    (folder / "cancer.py").write_text(EXAMPLE)
    search(folder, *WITH[sampler])
    return folder


def test_hopeless_students_are_stopped_and_said_so_everywhere(pruned: Path) -> None:
    study = load(pruned, "cancer")
    stopped = {trial.number: trial for trial in study.trials if trial.state.name == "PRUNED"}
    assert len(study.trials) == 24 and 1 <= len(stopped) < 20
    output = (pruned / "output.txt").read_text()
    assert f"{len(stopped)} of 24 trials were pruned" in output and "24/24 done" in output
    client = MlflowClient(f"sqlite:///{pruned}/mlflow.db")
    runs = {int(run.data.tags["kd.trial"]): run for run in client.search_runs(["1"], "tags.kd.role = 'trial'")}
    for number, trial in stopped.items():
        run, reason = runs[number], trial.user_attrs["reason"]
        assert f"trial {number:<4} pruned: {reason}" in output
        assert run.info.status == "KILLED" and run.data.tags["kd.state"] == "PRUNED"
        assert run.data.tags["kd.reason"] == reason
        assert {k: v for k, v in run.data.metrics.items() if "/" not in k} == pytest.approx(trial.user_attrs["metrics"])
        assert {"parameters", "latency_p50_ms", "speedup"} <= set(trial.user_attrs["metrics"])
        epochs = int(reason.split(" after ")[1].split(" of ")[0])
        curve = client.get_metric_history(run.info.run_id, "val/accuracy")
        assert [point.step for point in curve] == list(range(epochs)) and epochs in (1, 2)
        # A third of the way and no further; no checkpoint of a student that no one will go on with.
        left = {path.name for path in (pruned / "mlruns" / "trials" / "cancer" / str(number)).iterdir()}
        assert left == {"spool.jsonl", "mirror.json", "mirror.lock", "lease"}


def test_a_search_that_is_killed_stops_the_same_students(pruned: Path, example: Path, sampler: str) -> None:
    for number in (9, 15, 19):
        process = start(example, *WITH[sampler])
        wait_for(
            lambda number=number, process=process: (
                epochs_logged(example, "cancer", number) >= 1 or process.poll() is not None
            )
        )
        process.kill()
        process.wait()
    search(example, *WITH[sampler])
    assert numbers(example, "cancer") == numbers(pruned, "cancer")


def test_nothing_is_stopped_where_that_is_not_wanted_or_can_not_be(example: Path) -> None:
    search(example, *PRUNED, "--pruner", "none", "--study", "whole")
    output = search(
        example,
        *PRUNED[:2],
        "--trials",
        "14",
        "--epochs",
        "2",
        "--objectives",
        "accuracy,ece",
        "--study",
        "late",
    )
    assert "sampler   tpe, for ece is not known before the end" in output
    assert "pruner    none, for ece is not known before the end" in output
    for study in ("whole", "late"):
        assert {trial.state.name for trial in load(example, study).trials} == {"COMPLETE"}
