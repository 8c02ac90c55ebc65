"""What is said of workers that a scheduler started, when they are over."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from conftest import claimed, metrics, opened, settings_in

from harness.errors import HarnessError
from harness.launchers import attend
from harness.placement import Placement
from harness.settings import Settings
from search_spaces.digits import SPACE


@dataclass
class Over:
    """Jobs that are over."""

    logs: str
    title: str = "job 7"
    queue_command: str = "squeue"
    cancel_command: str = "scancel"

    def over(self) -> bool:
        return True

    def cancel(self) -> None:
        raise AssertionError


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = replace(settings_in(tmp_path, trials=3), timeout_s=0.0)
    claim = claimed(opened(settings), SPACE)
    assert claim is not None
    claim.complete(metrics(0.5, 1.0))
    claim.hold.release()
    return settings


def test_workers_whose_time_is_up_are_no_failure(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reported = []
    monkeypatch.setattr("harness.reporting.report.report", lambda study, terminal: reported.append(study.finished()))
    attend.attend(Over(f"{tmp_path}/*.out"), settings, Placement(launcher="slurm"))
    assert "the time is up with 1 of 3 trials finished; the same command goes on." in capsys.readouterr().out
    assert reported == [1]


def test_what_ended_workers_is_said_though_the_others_time_is_up(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported = []
    monkeypatch.setattr("harness.reporting.report.report", lambda study, terminal: reported.append(study.finished()))
    (tmp_path / "0.out").write_text("study     s\nerror: the disk is full\n")
    with pytest.raises(HarnessError, match=r"^job 7 has ended with 1 of 3 trials finished: the disk is full \(logs"):
        attend.attend(Over(f"{tmp_path}/*.out"), settings, Placement(launcher="slurm"))
    assert reported == [1]


@pytest.mark.parametrize("timeout_s", [None, 3600.0])
def test_workers_that_leave_trials_undone_before_their_time_are_a_failure(
    settings: Settings, tmp_path: Path, timeout_s: float | None
) -> None:
    with pytest.raises(HarnessError, match=r"^job 7 has ended with 1 of 3 trials finished \(logs"):
        attend.attend(Over(f"{tmp_path}/*.out"), replace(settings, timeout_s=timeout_s), Placement(launcher="slurm"))
