"""A disk that is really full: what was kept stays whole, a trial fails with the reason, the search goes on later."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import PATIENCE_S, epochs_logged, load, search, start, wait_for
from safetensors.torch import load_file
from test_trial import a_session, example_space

from harness.core.errors import HarnessError
from harness.tracking.spool import SPOOL, Spool, read_events
from harness.training.checkpoint import Checkpoints
from harness.training.tensor_file import save_tensors
from harness.trials.worker import run_trials

FULL = "[Errno 28] No space left on device"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 40 MB, as the runs folder of ``tmp_path``."""
    folder = tmp_path / "mlruns"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", folder], capture_output=True).returncode:
        if os.environ.get("CI"):
            raise AssertionError("a disk of its own needs root: mount -t tmpfs")
        pytest.skip("a disk of its own needs root: mount -t tmpfs")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(disk: Path) -> Path:
    """A file that takes all the room that is left."""
    filler = disk / "filler"
    with open(filler, "ab", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(bytes(4096))
    return filler


def test_a_full_disk_leaves_the_previous_checkpoint_intact(disk: Path) -> None:
    checkpoints = Checkpoints(disk)
    checkpoints.save({"epoch": 6, "weight": torch.ones(1000)})
    filler = fill(disk)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save({"epoch": 7, "weight": torch.ones(5000)})
    with pytest.warns(UserWarning, match="is skipped"):
        checkpoints = Checkpoints(disk)
    assert checkpoints.newest is not None and checkpoints.newest["epoch"] == 6
    filler.unlink()
    checkpoints.save({"epoch": 9, "weight": torch.ones(5000)})
    newest = Checkpoints(disk).newest
    assert newest is not None
    assert newest["epoch"] == 9 and len(newest["weight"]) == 5000


def test_a_full_disk_leaves_the_spool_intact(disk: Path) -> None:
    spool = Spool(disk / "0")
    filler = fill(disk)
    with pytest.raises(OSError, match="No space left"):
        for epoch in range(1000):
            spool.metrics({"loss": 1 / 3}, step=epoch)
    logged = len(read_events(disk / "0" / SPOOL))
    assert (disk / "0" / SPOOL).read_bytes().endswith(b"\n" if logged else b"")
    filler.unlink()
    spool.metrics({"loss": 0.5}, step=logged)
    assert [event["step"] for event in read_events(disk / "0" / SPOOL)] == list(range(logged + 1))
    spool.close()


def test_a_full_disk_leaves_the_existing_tensor_file_intact(disk: Path) -> None:
    file = disk / "student.safetensors"
    save_tensors({"weight": torch.ones(10)}, file, {"a": "b"})
    fill(disk)
    with pytest.raises(OSError, match="No space left") as raised:
        save_tensors({"weight": torch.ones(100_000)}, file, {})
    assert raised.value.errno == errno.ENOSPC and str(file) in str(raised.value)
    assert torch.equal(load_file(file)["weight"], torch.ones(10))
    assert sorted(path.name for path in disk.iterdir()) == ["filler", "student.safetensors"]


@dataclass
class Filling:
    """A display at whose word of an epoch the disk becomes full."""

    disk: Path
    at: int
    reasons: dict[int, str] = field(default_factory=dict)
    filler: Path | None = None

    def started(self, number: int, params: dict[str, Any], resumed_after: int | None) -> None: ...

    def epoch(self, number: int, epoch: int) -> None:
        if epoch == self.at and self.filler is None:
            self.filler = fill(self.disk)

    def finished(self, number: int, metrics: dict[str, float]) -> None: ...

    def pruned(self, number: int, reason: str) -> None: ...

    def failed(self, number: int, reason: str) -> None:
        self.reasons[number] = reason
        assert self.filler is not None
        self.filler.unlink()

    def cut(self, number: int, reason: str) -> None: ...

    def waiting(self, running: int) -> None: ...

    def message(self, text: str) -> None: ...


@pytest.mark.slow
@pytest.mark.usefixtures("kept_each_epoch")
@pytest.mark.parametrize(("at", "what"), [(0, "checkpoint-0.safetensors"), (2, "student.safetensors")])
def test_a_full_disk_fails_one_trial_with_the_reason_and_no_other(
    disk: Path, tmp_path: Path, at: int, what: str
) -> None:
    with a_session(tmp_path, example_space(tmp_path), trials=1, epochs=3) as session:
        session.study.settings = settings = replace(session.settings, trials=3)
        display = Filling(disk, at)
        with pytest.raises(HarnessError, match="the disk must have room"):
            run_trials(replace(session.context, settings=settings), display)
        assert [trial.state.name for trial in session.study.trials()] == ["COMPLETE", "FAIL"]
        run_trials(replace(session.context, settings=settings), display)
        trials = session.study.trials()
    assert [trial.state.name for trial in trials] == ["COMPLETE", "FAIL", "COMPLETE"]
    reason = trials[1].user_attrs["reason"]
    assert reason.startswith("disk full: [Errno 28]") and what in reason and display.reasons == {1: reason}
    folder = session.study.trial_folder(1)
    assert {"event": "state", "state": "FAIL"}.items() <= read_events(folder / SPOOL)[-1].items()
    assert not list(folder.glob("*.safetensors")) and not list(folder.glob(".*"))


@pytest.mark.slow
def test_a_search_on_a_full_disk_ends_with_one_line_and_resumes_when_there_is_room(disk: Path, example: Path) -> None:
    command = ("--space", "cancer.py", "--trials", "3", "--epochs", "150", "--pruner", "none", "--no-controls")
    process = start(example, *command)
    wait_for(lambda: epochs_logged(example, "cancer", 1) >= 3)
    filler = fill(disk)
    assert process.wait(PATIENCE_S) == 2
    output = (example / "output.txt").read_text()
    assert "Traceback" not in output
    (error,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert error.startswith("error: the disk must have room") and FULL in error and "the same command" in error
    before = load(example, "cancer").trials
    assert [trial.state.name for trial in before] == ["COMPLETE", "FAIL"]
    assert before[1].user_attrs["reason"].startswith(f"disk full: {FULL}")
    filler.unlink()
    output = search(example, *command)
    after = load(example, "cancer").trials
    assert [trial.state.name for trial in after] == ["COMPLETE", "FAIL", "COMPLETE"] and after[:2] == before[:2]
    from mlflow import MlflowClient

    runs = MlflowClient(f"sqlite:///{example}/mlflow.db").search_runs(["1"], "tags.kd.role = 'trial'")
    assert {run.data.tags["kd.trial"]: run.info.status for run in runs} == {
        "0": "FINISHED",
        "1": "FAILED",
        "2": "FINISHED",
    }
    failed = next(run for run in runs if run.info.status == "FAILED")
    assert failed.data.tags["kd.reason"].startswith("disk full")
