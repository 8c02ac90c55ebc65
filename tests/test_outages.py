"""Real servers: MLflow's that goes away and comes back, and PostgreSQL as the study's storage."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import PATIENCE_S, epochs_logged, is_free, search, start, wait_for
from mlflow import MlflowClient
from servers import MlflowServer, Postgres

from harness.tracking.mirror import Mirror
from harness.tracking.spool import Spool

pytestmark = [pytest.mark.slow, pytest.mark.service]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MlflowServer]:
    made = MlflowServer(tmp_path / "server")
    made.start()
    yield made
    made.stop()


def test_an_outage_of_the_tracking_server_loses_no_trial_and_no_data(example: Path, server: MlflowServer) -> None:
    command = ("--space", "cancer.py", "--trials", "6", "--epochs", "150", "--tracking-uri", server.address)
    process = start(example, *command)
    wait_for(lambda: epochs_logged(example, "cancer", 0) >= 5)
    server.stop()
    wait_for(lambda: epochs_logged(example, "cancer", 2) >= 5)  # it trains on
    server.start()
    assert process.wait(PATIENCE_S) == 0
    output = (example / "output.txt").read_text()
    assert "MLflow does not answer" in output and "MLflow answers again" in output
    _whole(server, trials=6, epochs=150)


def test_runs_that_could_not_be_sent_are_sent_by_the_next_start(example: Path, server: MlflowServer) -> None:
    command = ("--space", "cancer.py", "--trials", "2", "--epochs", "40", "--tracking-uri", server.address)
    process = start(example, *command)
    wait_for(lambda: epochs_logged(example, "cancer", 0) >= 1)
    server.stop()
    assert process.wait(PATIENCE_S) == 0
    assert "not everything could be sent to MLflow" in (example / "output.txt").read_text()
    server.start()
    assert "is finished: 2 trials" in search(example, *command)
    _whole(server, trials=2, epochs=40)


def test_a_hanging_tracking_server_blocks_no_notification(tmp_path: Path, server: MlflowServer) -> None:
    said: list[str] = []
    folders = [tmp_path / "runs" / str(number) for number in range(3)]
    with Mirror(server.address) as mirror:
        mirror.connect("kd-hang", tmp_path / "artifacts", say=said.append)
        os.killpg(server.process.pid, signal.SIGSTOP)  # it takes connections, and answers nobody
        for folder in folders:
            with contextlib.closing(Spool(folder)) as spool:
                spool.begin(folder.name, tags={"kd.run_key": folder.name}, params={})
                spool.set_state("COMPLETE")
        for folder in folders:
            mirror.notify(folder)
        wait_for(lambda: not is_free(folders[0] / "mirror.lock"))
        for _ in range(2_000):  # more than a pipe holds
            for folder in folders:
                mirror.notify(folder)
        # The first attempt is not over yet: MLflow's client waits for 10 s, twice.
        assert said == []
        wait_for(lambda: any("MLflow does not answer" in text for text in said))
        os.killpg(server.process.pid, signal.SIGCONT)
        wait_for(lambda: any("MLflow answers again" in text for text in said))
    client = MlflowClient(server.address)
    experiment = client.get_experiment_by_name("kd-hang")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(run.data.tags["kd.run_key"] for run in runs) == ["0", "1", "2"]
    assert {run.info.status for run in runs} == {"FINISHED"}


def _whole(server: MlflowServer, *, trials: int, epochs: int) -> None:
    client = MlflowClient(server.address)
    experiment = client.get_experiment_by_name("kd-cancer")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.kd.role = 'trial'")
    assert sorted(int(run.data.tags["kd.trial"]) for run in runs) == list(range(trials))
    for run in runs:
        assert run.info.status == "FINISHED"
        steps = [point.step for point in client.get_metric_history(run.info.run_id, "train/loss")]
        assert steps == list(range(epochs))
        kept = {file.path for file in client.list_artifacts(run.info.run_id)}
        assert kept == {"student.safetensors", "answers.safetensors"}


def test_a_study_on_postgresql_is_killed_and_resumed(example: Path, postgres: Postgres) -> None:
    command = (
        "--space",
        "cancer.py",
        "--trials",
        "5",
        "--epochs",
        "30",
        "--storage",
        postgres.new_database(example.name),
    )
    process = start(example, *command)
    wait_for(lambda: epochs_logged(example, "cancer", 2) >= 3)
    process.kill()
    process.wait()
    output = search(example, *command)
    assert "trial 2 was interrupted; it resumes after epoch" in output and "5/5 done" in output
