"""Moves of an unfinished study with the real commands, to a real PostgreSQL, killed in between."""

from __future__ import annotations

import signal
import sqlite3
from pathlib import Path

import optuna
import pytest
from conftest import EXAMPLE, ended, environment, epochs_logged, numbers, search, start, wait_for
from forked import Forked
from mlflow import MlflowClient
from optuna.trial import TrialState, create_trial
from servers import Postgres

pytestmark = pytest.mark.slow

FLAGS = ("--space", "cancer.py", "--trials", "6", "--epochs", "40", "--objectives", "accuracy,parameters")
"""No clock has a part in these objectives: the same seed gives the same suggestions."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "cancer.py").write_text(EXAMPLE)
    search(folder, *FLAGS)
    return folder


def moving(folder: Path, *arguments: str) -> Forked:
    command = ("harness", "move", "--study", "cancer", *arguments)
    return Forked(*command, output=folder / "moved.txt", env=environment())


def moved(folder: Path, *arguments: str, expect: int = 0) -> str:
    return ended(moving(folder, *arguments), folder / "moved.txt", expect=expect)


@pytest.mark.service
def test_a_study_moved_from_sqlite_to_postgresql_gives_the_same_results(
    example: Path, undisturbed: Path, postgres: Postgres
) -> None:
    storage = postgres.new_database("moved")
    process = start(example, *FLAGS)
    wait_for(lambda: epochs_logged(example, "cancer", 2) >= 5)
    process.send_signal(signal.SIGSTOP)  # or it is over before the other command has begun
    assert "is being worked on" in moved(example, "--to", storage, expect=2)
    process.kill()
    process.wait()
    assert "is in postgresql+psycopg://" in moved(example, "--to", storage)
    output = search(example, *FLAGS, expect=2)
    assert f"study 'cancer' was moved to {storage}" in output
    output = search(example, *FLAGS, "--storage", storage)
    assert "trial 2 was interrupted; it resumes after epoch" in output and "6/6 done" in output
    assert "was moved to" in moved(example, "--to", storage, expect=2)
    assert "was moved to" in moved(example, "--to", "sqlite:///third.db", expect=2)
    back = moved(example, "--storage", storage, "--to", "sqlite:///optuna.db")
    assert "is in sqlite:///optuna.db now, with 6 trials" in back
    assert numbers(example, "cancer") == numbers(undisturbed, "cancer")
    client = MlflowClient(f"sqlite:///{example}/mlflow.db")
    runs = client.search_runs(["1"], "tags.kd.role = 'trial'")
    assert sorted(int(run.data.tags["kd.trial"]) for run in runs) == list(range(6))
    assert len(client.search_runs(["1"], "tags.kd.role = 'study'")) == 1
    for run in runs:
        steps = [point.step for point in client.get_metric_history(run.info.run_id, "train/loss")]
        assert steps == list(range(len(steps))) and (run.info.status != "FINISHED" or len(steps) == 40)


def test_a_killed_move_leaves_the_study_usable_and_can_be_repeated(example: Path) -> None:
    command = ("--space", "cancer.py", "--epochs", "1", "--storage", "sqlite:///study.db")
    search(example, *command, "--trials", "2")
    study = optuna.load_study(study_name="cancer", storage=f"sqlite:///{example}/study.db")
    like = study.trials[0]
    for _ in range(400):
        study.add_trial(
            create_trial(
                state=TrialState.FAIL,
                params=like.params,
                distributions=like.distributions,
                user_attrs={"reason": "none"},
            )
        )
    places = ("--storage", "sqlite:///study.db", "--to", "sqlite:///moved.db")

    def copied() -> int:
        try:
            with sqlite3.connect(f"file:{example}/moved.db?mode=ro", uri=True) as database:
                return int(database.execute("select count(*) from trials").fetchone()[0])
        except sqlite3.OperationalError:
            return 0

    process = moving(example, *places)
    wait_for(lambda: copied() >= 20)
    process.kill()
    process.wait()
    assert 20 <= copied() < 402
    output = search(example, *command[:4], "--storage", "sqlite:///moved.db", "--trials", "403", expect=2)
    assert "its move there is in progress or was cut" in output
    assert "403/403 done" in search(example, *command, "--trials", "403")  # it is whole where it was
    assert "with 403 trials" in moved(example, *places)
    arrived = optuna.load_study(study_name="cancer", storage=f"sqlite:///{example}/moved.db").trials
    assert [trial.number for trial in arrived] == list(range(403))
    assert [trial.state.name for trial in arrived[2:402]] == ["FAIL"] * 400 and arrived[402].params
