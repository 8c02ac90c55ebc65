"""Kill storms and stalled workers, in searches of one study in PostgreSQL."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
from conftest import EXAMPLE, PATIENCE_S, ROOT, environment, epochs_logged, search, untimed, wait_for
from forked import Forked
from mlflow import MlflowClient
from optuna.storages import RDBStorage
from servers import Postgres
from test_workers import workers_of

from harness.tracking.spool import read_events

pytestmark = [pytest.mark.slow, pytest.mark.service]

EPOCHS = 25
# Which trials are pruned depends on which ended before; without, the numbers are the same whoever is faster.
FLAGS = ("--space", "cancer.py", "--sampler", "random", "--pruner", "none", "--no-controls", "--epochs", str(EPOCHS))


def begin(folder: Path, name: str, *arguments: str) -> Forked:
    """Start ``search.py`` in ``folder``; its output is added to ``folder/<name>.txt``."""
    return Forked(ROOT / "search.py", *FLAGS, *arguments, output=folder / f"{name}.txt", env=environment(), append=True)


def reached(storage: str) -> dict[int, Any]:
    """Return state, parameters and metrics of each trial, without those measured with a clock."""
    opened = RDBStorage(storage)
    trials = optuna.load_study(study_name="cancer", storage=opened).trials
    opened.engine.dispose()
    return {
        trial.number: (
            trial.state.name,
            trial.params,
            untimed(trial.user_attrs.get("metrics", {})),
        )
        for trial in trials
    }


def check_curves(folder: Path, trials: int, tracking_uri: str = "") -> None:
    """Check that no curve has a gap or a repetition, in the spools and in MLflow."""
    client = MlflowClient(tracking_uri or f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("kd-cancer")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.`kd.role` = 'trial'", max_results=1000)
    assert sorted(int(run.data.tags["kd.trial"]) for run in runs) == list(range(trials))
    assert {(run.info.status, run.data.tags["kd.state"]) for run in runs} == {("FINISHED", "COMPLETE")}
    for run in runs:
        steps = [point.step for point in client.get_metric_history(run.info.run_id, "train/loss")]
        assert sorted(steps) == list(range(EPOCHS)), run.data.tags["kd.trial"]
    for number in range(trials):
        events = read_events(folder / "mlruns" / "trials" / "cancer" / str(number) / "spool.jsonl")
        steps = [event["step"] for event in events if event["event"] == "metrics"]
        assert steps == [None, *range(EPOCHS), None], number


def dies_where_it_died(folder: Path) -> bool:
    """Return whether a running trial has killed two workers since its last epoch: after a third it would fail."""
    for spool in (folder / "mlruns" / "trials" / "cancer").glob("*/spool.jsonl"):
        begun = 0
        for event in read_events(spool):
            if event["event"] == "state":
                begun = begun + 1 if event["state"] == "RUNNING" else 0
            elif event["event"] == "metrics" and event["step"] is not None:
                begun = 0
        if begun > 2:
            return True
    return False


def trials_told(output: Path) -> int:
    """Count how often a search has said that a trial is over, or resumed."""
    text = output.read_bytes()
    return text.count(b" done, ") + text.count(b"was interrupted; it resumes")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Any]:
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "cancer.py").write_text(EXAMPLE)
    search(folder, *FLAGS, "--trials", "60", "--workers", "2")
    return reached(f"sqlite:///{folder}/optuna.db")


def test_a_kill_storm_changes_no_result(example: Path, postgres: Postgres, undisturbed: dict[int, Any]) -> None:
    storage = postgres.new_database("storm")
    flags = ("--trials", "60", "--workers", "2", "--storage", storage)
    chance, kills = random.Random(0), 0
    heard = {"one": -1, "two": -1}
    searches = {name: begin(example, name, *flags) for name in ("one", "two")}
    ends_at = time.monotonic() + PATIENCE_S
    try:
        while any(process.poll() is None for process in searches.values()):
            assert time.monotonic() < ends_at, (example / "one.txt").read_text()
            time.sleep(chance.uniform(0.5, 1.5))
            name = chance.choice(list(searches))
            process = searches[name]
            told = trials_told(example / f"{name}.txt")
            if told == heard[name] or dies_where_it_died(example):
                continue  # it is slow, beside other work, and its trial would fail if killed again so soon
            crew = [] if process.poll() is not None else workers_of(process)
            if not crew:  # it prepares, or it is done
                continue
            heard[name] = told
            kills += 1
            if kills % 6 == 0:  # a whole machine, which comes back
                process.kill()
                process.wait()
                searches[name] = begin(example, name, *flags)
            else:
                with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
                    os.kill(chance.choice(crew), signal.SIGKILL)
        output = (example / "one.txt").read_text() + (example / "two.txt").read_text()
        assert all(process.returncode == 0 for process in searches.values()), output
    finally:
        for process in searches.values():
            process.kill()
            process.wait()
    assert kills >= 8 and "it resumes after epoch" in output
    assert reached(storage) == undisturbed
    check_curves(example, 60)


def test_a_stalled_worker_loses_its_lease_and_stops(
    example: Path, postgres: Postgres, undisturbed: dict[int, Any]
) -> None:
    storage = postgres.new_database("stalled")
    flags = ("--trials", "4", "--workers", "1", "--storage", storage)
    stalled = begin(example, "stalled", *flags)
    other = None
    try:
        wait_for(lambda: epochs_logged(example, "cancer", 0) >= 5)
        stalled.send_signal(signal.SIGSTOP)
        other = begin(example, "other", *flags)
        assert other.wait(PATIENCE_S) == 0, (example / "other.txt").read_text()
        assert "trial 0 was interrupted; it resumes after epoch" in (example / "other.txt").read_text()
        stalled.send_signal(signal.SIGCONT)
        assert stalled.wait(PATIENCE_S) == 0, (example / "stalled.txt").read_text()
    finally:
        for process in filter(None, (stalled, other)):
            process.kill()
            process.wait()
    assert (
        "trial 0 is interrupted: 0 was taken over while this worker was silent" in (example / "stalled.txt").read_text()
    )
    assert reached(storage) == {number: undisturbed[number] for number in range(4)}
    check_curves(example, 4)
