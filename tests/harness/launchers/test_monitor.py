"""What is said of workers that a scheduler started, when they are over."""

from __future__ import annotations

import signal
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from conftest import claimed, metrics, opened, settings_in

from harness.core.errors import HarnessError, Interrupted
from harness.launchers.monitor import monitor
from harness.launchers.placement import Placement
from harness.settings import Settings
from search_spaces.digits import SPACE


@dataclass
class Over:
    """Jobs that are over."""

    folder: Path
    logs: str = "*.out"
    title: str = "job 7"
    queue_command: str = "squeue"
    cancel_command: str = "scancel"

    def over(self) -> bool:
        return True

    def cancel(self) -> bool:
        raise AssertionError


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = replace(settings_in(tmp_path, trials=3), timeout_s=0.0)
    claim = claimed(opened(settings), SPACE)
    assert claim is not None
    claim.complete(metrics(0.5, 1.0))
    claim.lease.release()
    return settings


def test_workers_whose_time_is_up_are_no_failure(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reported = []
    monkeypatch.setattr("harness.reporting.report.report", lambda study, terminal: reported.append(study.finished()))
    monitor(Over(tmp_path), settings, Placement(launcher="slurm"))
    assert "the time is up with 1 of 3 trials finished; the same command goes on." in capsys.readouterr().out
    assert reported == [1]


def test_what_ended_workers_is_said_though_the_others_time_is_up(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported = []
    monkeypatch.setattr("harness.reporting.report.report", lambda study, terminal: reported.append(study.finished()))
    (tmp_path / "0.out").write_text("study     s\nerror: the disk is full\n")
    with pytest.raises(HarnessError, match=r"^job 7 has ended with 1 of 3 trials finished: the disk is full \(logs"):
        monitor(Over(tmp_path), settings, Placement(launcher="slurm"))
    assert reported == [1]


@pytest.mark.parametrize("timeout_s", [None, 3600.0])
def test_workers_that_leave_trials_undone_before_their_time_are_a_failure(
    settings: Settings, tmp_path: Path, timeout_s: float | None
) -> None:
    with pytest.raises(HarnessError, match=r"^job 7 has ended with 1 of 3 trials finished \(logs"):
        monitor(Over(tmp_path), replace(settings, timeout_s=timeout_s), Placement(launcher="slurm"))


def test_logs_are_found_in_a_folder_whose_name_is_a_pattern(settings: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "[kd]"
    folder.mkdir()
    (folder / "0.out").write_text("error: the disk is full\n")
    with pytest.raises(HarnessError, match=r"1 of 3 trials finished: the disk is full \(logs: .*/\[kd\]/\*\.out\)"):
        monitor(Over(folder), replace(settings, timeout_s=None), Placement(launcher="slurm"))


@pytest.mark.parametrize(
    ("heard", "words"),
    [
        (True, "cancelled job 7; nothing is lost, and the same command goes on."),
        (False, "job 7 may still run, for it could not be cancelled; to end it: scancel"),
    ],
)
def test_what_was_cancelled_is_told_from_what_may_still_run(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str], heard: bool, words: str
) -> None:
    class Stopped(Over):
        def over(self) -> bool:
            raise Interrupted(signal.SIGINT)

        def cancel(self) -> bool:
            return heard

    with pytest.raises(Interrupted):
        monitor(Stopped(tmp_path), settings, Placement(launcher="slurm"))
    assert words in capsys.readouterr().out
