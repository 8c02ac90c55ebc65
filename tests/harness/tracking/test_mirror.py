"""The process that sends to MLflow dies, and another one takes its place."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
from conftest import wait_for
from mlflow import MlflowClient
from mlflow.entities import Run

from harness.core.errors import HarnessError
from harness.tracking.mirror import Mirror
from harness.tracking.spool import Spool


@pytest.fixture
def store(tmp_path: Path, empty_store: Path) -> str:
    """The address of a database with MLflow's tables."""
    return f"sqlite:///{shutil.copy(empty_store, tmp_path / 'mlflow.db')}"


def logged(folder: Path, name: str, mirror: Mirror) -> Spool:
    """The log of a run with one epoch."""
    spool = Spool(folder / name, mirror.notify)
    spool.begin(name, tags={"kd.run_key": name}, params={})
    spool.set_state("RUNNING")
    spool.metrics({"loss": 0.5}, step=0)
    return spool


def runs(store: str) -> dict[str, Run]:
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("kd-x")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    by_name = {str(run.info.run_name): run for run in found}
    assert len(by_name) == len(found), "a run twice"
    return by_name


def kill(mirror: Mirror) -> None:
    mirror._process.kill()
    mirror._process.wait()


@pytest.mark.parametrize("moment", ["in the middle", "before the last word"])
def test_after_the_process_was_killed_all_runs_are_sent_once(tmp_path: Path, store: str, moment: str) -> None:
    said: list[str] = []
    with Mirror(store) as mirror:
        mirror.connect("kd-x", tmp_path / "mlruns", say=said.append)
        one = logged(tmp_path, "one", mirror)
        wait_for(lambda: "one" in runs(store))
        if moment == "in the middle":
            kill(mirror)
        two = logged(tmp_path, "two", mirror)
        for spool in (one, two):
            spool.set_state("COMPLETE")
            spool.close()
        if moment == "before the last word":
            kill(mirror)
    found = runs(store)
    assert {name: run.info.status for name, run in found.items()} == {"one": "FINISHED", "two": "FINISHED"}
    assert all(run.data.metrics == {"loss": 0.5} for run in found.values())
    assert not any("not everything" in text for text in said)


def test_it_is_said_once_that_the_process_is_started_again_and_requests_are_answered(
    tmp_path: Path, store: str
) -> None:
    said: list[str] = []
    with Mirror(store) as mirror:
        mirror.connect("kd-x", tmp_path / "mlruns", say=said.append)
        spool = logged(tmp_path, "one", mirror)
        kill(mirror)
        assert mirror.settle(spool.folder) in ("the process that logs to it has ended", None)
        wait_for(lambda: mirror.settle(spool.folder) is None)
        spool.close()
    assert said == ["the process that logs to MLflow died and is started again (exit code -9)"]
    assert list(runs(store)) == ["one"]


def dying(monkeypatch: pytest.MonkeyPatch, folder: Path, program: str) -> None:
    """Let the process be another program."""
    (folder / "dies.py").write_text(program)
    monkeypatch.setattr("harness.tracking.mirror._MODULE", "dies")
    monkeypatch.setattr("harness.tracking.mirror._FIRST_BACKOFF_S", 0.01)
    monkeypatch.setenv("PYTHONPATH", str(folder))


READY = 'input(); print(\'{"ready": true, "experiment_id": "1", "store": "s"}\', flush=True)\n'


def test_a_process_that_dies_at_each_start_is_started_a_few_times_and_the_command_that_sends_the_rest_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dying(monkeypatch, tmp_path, f"open('starts', 'a').write('x')\n{READY}raise SystemExit(3)\n")
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    with Mirror("sqlite:///none.db", remedy="python -m harness report --study s") as mirror:
        mirror.connect("kd-x", tmp_path, say=said.append)
        wait_for(lambda: len(said) > 1)
        started = len((tmp_path / "starts").read_text())
        time.sleep(0.3)
        assert len((tmp_path / "starts").read_text()) == started == 5  # a loop would go on
    assert said == [
        "the process that logs to MLflow died and is started again (exit code 3)",
        "the process that logs to MLflow dies each time (exit code 3); runs are kept, and this sends them: "
        "python -m harness report --study s",
        "not everything could be sent to MLflow; it is kept, and this sends it: python -m harness report --study s",
    ]


def test_a_process_that_never_connects_is_an_error_of_one_line_that_says_how_to_see_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dying(monkeypatch, tmp_path, "raise ImportError('no mlflow')\n")
    error = r"ends \(exit code 1\); to see why: python -m dies MLflow"
    with Mirror("sqlite:///none.db") as mirror, pytest.raises(HarnessError, match=error):
        mirror.connect("kd-x", tmp_path, say=print)


def test_a_folder_of_the_same_name_where_the_person_stands_is_not_imported(
    tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "harness").mkdir()
    (tmp_path / "harness" / "__init__.py").write_text("raise SystemExit('theirs')")
    monkeypatch.chdir(tmp_path)
    with Mirror(store) as mirror:
        mirror.connect("kd-x", tmp_path, say=print)
        assert mirror.experiment_id


def test_no_process_is_left_behind(tmp_path: Path, store: str) -> None:
    with Mirror(store) as mirror:
        mirror.connect("kd-x", tmp_path / "mlruns", say=lambda text: None)
        kill(mirror)
    with pytest.raises(ProcessLookupError):
        os.kill(mirror._process.pid, 0)


def test_a_search_that_is_stopped_does_not_wait_until_a_long_backlog_is_sent(
    tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.tracking.mirror._CLOSES_WHEN_STOPPED_S", 0.0)
    epochs, said = 1_500, list[str]()  # more than MLflow takes in one call
    with pytest.raises(KeyboardInterrupt), Mirror(store, remedy="the remedy") as mirror:
        mirror.connect("kd-x", tmp_path / "mlruns", say=said.append)
        spool = logged(tmp_path, "long", mirror)
        for epoch in range(1, epochs):
            spool.metrics({"loss": 0.5}, step=epoch)
        raise KeyboardInterrupt
    assert said == ["not everything could be sent to MLflow; it is kept, and this sends it: the remedy"]
    with Mirror(store) as mirror:
        mirror.connect("kd-x", tmp_path / "mlruns", say=said.append)
        mirror.notify(tmp_path / "long")
    steps = [point.step for point in MlflowClient(store).get_metric_history(runs(store)["long"].info.run_id, "loss")]
    assert sorted(steps) == list(range(epochs))
