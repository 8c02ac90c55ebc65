"""Machines that share the study's PostgreSQL and an MLflow server, and no folder."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import EXAMPLE, PATIENCE_S, opened, search, settings_in, wait_for
from forked import Forked
from mlflow import MlflowClient
from mlflow.entities import Run
from servers import MlflowServer, Postgres
from test_storm import EPOCHS, FLAGS, begin, reached

pytestmark = [pytest.mark.slow, pytest.mark.service]

TRIALS = 6


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Any]:
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "cancer.py").write_text(EXAMPLE)
    search(folder, *FLAGS, "--trials", str(TRIALS), "--workers", "2")
    return reached(f"sqlite:///{folder}/optuna.db")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    made = MlflowServer(tmp_path_factory.mktemp("mlflow") / "server")
    made.start()
    yield made
    made.stop()


def begin_apart(
    example: Path, server: MlflowServer, storage: str, name: str, *, trials: int = TRIALS, epochs: int = EPOCHS
) -> Forked:
    """A search as another machine runs it: with a folder of its own."""
    flags = ("--trials", str(trials), "--workers", "1", "--storage", storage, "--tracking-uri", server.address)
    return begin(example, name, *flags, "--runs-dir", str(example / name), "--epochs", str(epochs))


def runs_of(server: MlflowServer, role: str, study: str = "") -> list[Run]:
    """Runs by their role; of one study, by its id."""
    client = MlflowClient(server.address)
    experiment = client.get_experiment_by_name("kd-cancer")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], f"tags.`kd.role` = '{role}'", max_results=1000)
    return [run for run in found if run.data.tags["kd.run_key"].startswith(study)]


def steps(server: MlflowServer, run: Run, name: str) -> list[int]:
    return sorted(p.step for p in MlflowClient(server.address).get_metric_history(run.info.run_id, name))


def check_runs(server: MlflowServer, trials: int, epochs: int) -> None:
    """The last study has one run, one of each trial, and no gap or repeat in any curve."""
    study = max(runs_of(server, "study"), key=lambda run: run.info.start_time)
    key = study.data.tags["kd.run_key"]
    assert [run.info.run_id for run in runs_of(server, "study", key)] == [study.info.run_id]
    runs = runs_of(server, "trial", key)
    assert sorted(int(run.data.tags["kd.trial"]) for run in runs) == list(range(trials))
    assert {(run.info.status, run.data.tags["kd.state"]) for run in runs} == {("FINISHED", "COMPLETE")}
    for run in runs:
        assert run.data.tags["mlflow.parentRunId"] == study.info.run_id
        assert steps(server, run, "train/loss") == steps(server, run, "val/accuracy") == list(range(epochs))
        assert steps(server, run, "parameters") == steps(server, run, "agreement") == [0]


def kill_machine(process: Forked) -> None:
    """Kill a search and all that it started, at once."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for pid in (process.pid, *map(int, children)):
        os.kill(pid, signal.SIGKILL)
    process.wait()


def test_machines_that_share_no_folder_have_one_teacher_and_one_study(
    example: Path, server: MlflowServer, postgres: Postgres, undisturbed: dict[int, Any]
) -> None:
    storage = postgres.new_database("apart")
    searches = [begin_apart(example, server, storage, name) for name in ("one", "two")]
    try:
        assert [process.wait(PATIENCE_S) for process in searches] == [0, 0], [
            (example / f"{name}.txt").read_text() for name in ("one", "two")
        ]
    finally:
        for process in searches:
            process.kill()
            process.wait()
    said = [(example / f"{name}.txt").read_text() for name in ("one", "two")]
    assert sum("teacher   trained in" in text for text in said) == 1
    other = said[0] if "teacher   trained in" in said[1] else said[1]
    assert "teacher   found on the tracking server" in other
    assert sum("teacher outputs found on the tracking server" in text for text in said) == 1
    assert sum("architectures and the teacher on" in text for text in said) == 1
    assert reached(storage) == undisturbed
    check_runs(server, TRIALS, EPOCHS)
    (teacher,) = runs_of(server, "teacher")
    kept = {file.path for file in MlflowClient(server.address).list_artifacts(teacher.info.run_id)}
    outputs = [file.name for file in (example / "one" / "cache" / "teacher_outputs").glob("*.safetensors")]
    assert kept == {"teacher.safetensors", *outputs} and len(outputs) == 1
    epochs = steps(server, teacher, "train/loss")
    assert epochs == list(range(len(epochs))) and epochs


def test_who_waits_for_a_worker_on_another_machine_says_so(tmp_path: Path, postgres: Postgres) -> None:
    storage = postgres.new_database("waiting")
    made = []
    for machine in (tmp_path / "one", tmp_path / "two"):
        machine.mkdir()
        made.append(opened(replace(settings_in(machine, trials=1), storage=storage)))
    said: list[str] = []
    holds, waits = threading.Event(), threading.Event()

    def on_wait(text: str) -> None:
        said.append(text)
        waits.set()

    def hold() -> None:
        with made[0].exclusive("teacher a key", on_wait=lambda: said.append("nobody is there yet")):
            holds.set()
            waits.wait(PATIENCE_S)
            said.append("done")

    thread = threading.Thread(target=hold)
    thread.start()
    assert made[0].is_shared and holds.wait(PATIENCE_S)
    with made[1].exclusive("teacher another key", on_wait=lambda: said.append("it is another thing")):
        pass
    with made[1].exclusive("teacher a key", on_wait=lambda: on_wait("waiting")):
        said.append("mine")
    thread.join()
    assert said == ["waiting", "done", "mine"]
    for study in made:
        study.storage.close_connections()


def test_a_trial_of_a_machine_that_is_lost_begins_again_in_its_run(
    lasting: Path, server: MlflowServer, postgres: Postgres
) -> None:
    trials, epochs = 2, 100  # a trial is in the middle for some seconds: what was never sent is lost with its disk
    search(lasting, *FLAGS, "--trials", str(trials), "--epochs", str(epochs))
    undisturbed = reached(f"sqlite:///{lasting}/optuna.db")
    storage = postgres.new_database("lost")
    lost = begin_apart(lasting, server, storage, "lost", trials=trials, epochs=epochs)
    other = None
    try:
        wait_for(lambda: any("train/loss" in run.data.metrics for run in _running(server)))
        kill_machine(lost)
        for part in (lasting / "lost").rglob("*"):  # all but the lock by which one host knows at once that it is dead
            if part.is_file() and "workers" not in part.parts:
                part.unlink()
        shutil.rmtree(lasting / "lost" / "cache")
        other = begin_apart(lasting, server, storage, "other", trials=trials, epochs=epochs)
        assert other.wait(PATIENCE_S) == 0, (lasting / "other.txt").read_text()
    finally:
        for process in filter(None, (lost, other)):
            process.kill()
            process.wait()
    said = (lasting / "other.txt").read_text()
    assert "it starts again, for no checkpoint of it is here" in said
    assert "teacher   found on the tracking server" in said and "trained in" not in said
    assert reached(storage) == undisturbed
    check_runs(server, trials, epochs)


def _running(server: MlflowServer) -> list[Run]:
    try:
        return [run for run in runs_of(server, "trial") if run.info.status == "RUNNING"]
    except AssertionError:
        return []
