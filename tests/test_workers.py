"""Concurrent workers: exact budgets, killed workers, signals."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import EXAMPLE, PATIENCE_S, ROOT, environment, epochs_logged, load, numbers, search, start, wait_for
from forked import Forked

from harness.tracking.spool import read_events

pytestmark = pytest.mark.slow

# Which trials are pruned depends on which ended before; without, the numbers are the same whoever is faster.
FLAGS = ("--space", "cancer.py", "--sampler", "random", "--pruner", "none", "--trials", "12", "--epochs", "6")


def workers_of(process: Forked) -> list[int]:
    """Return the process's children, without the one that logs to MLflow."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    found = []
    for child in children:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            if b"harness.tracking.mirror_process" not in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(int(child))
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search with one worker and the random sampler, whose draws depend on nothing but the trial's number."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "cancer.py").write_text(EXAMPLE)
    search(folder, *FLAGS)
    return folder


def test_two_workers_finish_exactly_the_trials_asked_for_with_the_results_of_one(
    example: Path, undisturbed: Path
) -> None:
    output = search(example, *FLAGS, "--workers", "2")
    assert "12/12 done" in output
    assert numbers(example, "cancer") == numbers(undisturbed, "cancer")
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{example}/mlflow.db")
    experiment = client.get_experiment_by_name("kd-cancer")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.`kd.role` = 'trial'")
    assert sorted(int(run.data.tags["kd.trial"]) for run in runs) == list(range(12))
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert all(len(client.get_metric_history(run.info.run_id, "val/loss")) == 6 for run in runs)


def test_a_killed_worker_is_replaced_and_its_trial_resumed(example: Path, undisturbed: Path) -> None:
    process = start(example, *FLAGS, "--workers", "2")
    try:
        for number in (2, 6):
            wait_for(lambda number=number: epochs_logged(example, "cancer", number) >= 2)  # type: ignore[misc]
            wait_for(lambda: len(workers_of(process)) == 2 or process.poll() is not None)
            for victim in workers_of(process):
                os.kill(victim, signal.SIGKILL)
        assert process.wait(PATIENCE_S) == 0, (example / "output.txt").read_text()
    finally:
        process.kill()
        process.wait()
    assert "was interrupted; it resumes after epoch" in (example / "output.txt").read_text()
    assert numbers(example, "cancer") == numbers(undisturbed, "cancer")
    for number in range(12):  # no gap and no repeat in any curve, between the costs and the scores
        events = read_events(example / "mlruns" / "trials" / "cancer" / str(number) / "spool.jsonl")
        assert [event["step"] for event in events if event["event"] == "metrics"] == [None, 0, 1, 2, 3, 4, 5, None]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_every_worker_and_the_same_command_resumes(
    example: Path, undisturbed: Path, how: signal.Signals
) -> None:
    process = start(example, *FLAGS, "--workers", "2")
    try:
        wait_for(lambda: epochs_logged(example, "cancer", 1) >= 1)
        crew = workers_of(process)
        assert len(crew) == 2
        process.send_signal(how)
        process.wait(PATIENCE_S)
        wait_for(lambda: not any(alive(pid) for pid in crew))
    finally:
        process.kill()
        process.wait()
    states = [trial.state.name for trial in load(example, "cancer").trials]
    assert set(states) <= {"COMPLETE", "RUNNING", "WAITING"} and states.count("COMPLETE") < 12  # nobody went on
    search(example, *FLAGS, "--workers", "2")
    assert numbers(example, "cancer") == numbers(undisturbed, "cancer")


def test_a_trial_that_kills_its_workers_repeatedly_fails_and_the_search_continues(example: Path) -> None:
    text = (example / "cancer.py").read_text()
    dying = "import multiprocessing as m, os\n        if width > 4 and m.parent_process(): os._exit(7)\n        "
    student = "def student(self, *, width):\n        "
    assert student in text
    (example / "cancer.py").write_text(text.replace(student, student + dying))
    output = search(example, *FLAGS, "--workers", "2")
    for trial in load(example, "cancer").trials:
        reason = trial.user_attrs.get("reason")
        if trial.params["width"] > 4:
            assert (trial.state.name, reason) == ("FAIL", "its worker died 3 times after 0 epochs")
        else:
            assert (trial.state.name, reason) == ("COMPLETE", None)
    assert "trials failed" in output


def test_a_worker_with_several_threads_is_spawned_and_finishes_its_trials(example: Path) -> None:
    text = (example / "cancer.py").read_text()
    # What is sent to a spawned worker may be of the space's own classes.
    own = "class Data(TensorDataModule):\n    pass\n\n\nclass BreastCancer"
    text = text.replace("class BreastCancer", own).replace("return TensorDataModule(", "return Data(")
    (example / "cancer.py").write_text(text)
    done = subprocess.run(
        [sys.executable, str(ROOT / "search.py"), *FLAGS[:6], "--trials", "3", "--epochs", "2", "--workers", "2"],
        cwd=example,
        env={**environment(), "OMP_NUM_THREADS": "4"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    log = "".join(path.read_text() for path in example.glob("mlruns/trials/cancer/worker-*.log"))
    assert done.returncode == 0, done.stdout + done.stderr + log
    assert [trial.state.name for trial in load(example, "cancer").trials][:3] == ["COMPLETE"] * 3
    assert "3/3 done" in done.stdout
