"""The study's own run: begun when a search is prepared, and never left RUNNING by one that is over."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import Silent, claimed, settings_in
from optuna.storages import BaseStorage
from sqlalchemy.exc import OperationalError

from harness.core.errors import HarnessError
from harness.reporting.parent import ParentRun, _git_commit, user_name
from harness.storage.access import STORAGE_ERRORS, open_storage
from harness.storage.retry import RetryPolicy
from harness.studies.opening import open_study
from harness.studies.study import Study
from harness.tracking.spool import SPOOL, read_events
from search_spaces.digits import SPACE


def states(study: Study) -> list[str]:
    return [event["state"] for event in read_events(study.folder / SPOOL) if event["event"] == "state"]


def opened(folder: Path, trials: int = 2) -> Study:
    settings = settings_in(folder, trials=trials)
    return open_study(settings, SPACE, open_storage(settings))


def finish_one(study: Study) -> None:
    claim = claimed(study, SPACE)
    assert claim is not None
    claim.complete({"accuracy": 0.9, "latency_p50_ms": 1.0, "parameters": 10.0})
    claim.lease.release()


def refused(study: Study) -> None:
    with pytest.raises(ZeroDivisionError), ParentRun(study, study.settings, Silent()):
        raise ZeroDivisionError  # whatever preparation may raise


def test_a_first_start_that_is_refused_makes_no_run(tmp_path: Path) -> None:
    study = opened(tmp_path)
    refused(study)
    assert read_events(study.folder / SPOOL) == []


def test_a_later_start_that_is_refused_leaves_the_run_waiting(tmp_path: Path) -> None:
    study = opened(tmp_path)
    finish_one(study)
    refused(study)
    assert states(study) == ["WAITING"]


def test_a_finished_study_that_is_looked_at_from_another_folder_has_a_run_that_is_complete(tmp_path: Path) -> None:
    study = opened(tmp_path, trials=1)
    finish_one(study)
    study.store_retrained("controls/0", {"metrics": {"accuracy": 0.5}})
    with ParentRun(study, study.settings, Silent()):
        pass
    assert states(study) == ["COMPLETE"]


def test_a_study_whose_controls_are_not_trained_has_a_run_that_waits_for_them(tmp_path: Path) -> None:
    study = opened(tmp_path, trials=1)
    finish_one(study)
    with ParentRun(study, study.settings, Silent(), lambda: True):
        pass
    assert states(study) == ["WAITING"]
    with ParentRun(study, study.settings, Silent()):
        pass
    assert states(study) == ["WAITING", "COMPLETE"]


def test_a_storage_that_is_lost_leaves_the_run_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = opened(tmp_path)
    finish_one(study)

    def lost(*_: Any, **__: Any) -> Any:
        raise STORAGE_ERRORS[0]("away")

    with ParentRun(study, study.settings, Silent()):
        storage: BaseStorage = study.storage.optuna
        monkeypatch.setattr(storage, "get_all_trials", lost)
    assert states(study) == ["WAITING"]


def test_a_storage_that_was_waited_for_in_vain_is_not_waited_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = opened(tmp_path)
    finish_one(study)
    asked: list[int] = []

    def lost(*_: Any, **__: Any) -> Any:
        asked.append(1)
        raise OperationalError("select", {}, Exception("connection refused"))

    study.retry = RetryPolicy(lambda text: None)
    with pytest.raises(HarnessError), ParentRun(study, study.settings, Silent()):
        monkeypatch.setattr(study.storage.optuna, "get_all_trials", lost)
        raise HarnessError("the storage can't be used any more")  # what a worker says of it
    assert len(asked) == 1 and states(study) == ["WAITING"]


def test_a_user_without_a_name_is_called_by_the_number(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)  # as where no passwd has the user
    assert user_name() == str(os.getuid())


def test_the_commit_of_a_repository_that_only_holds_the_installation_is_not_the_programs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git = ("git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "theirs"], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    for root, found in ((tmp_path, commit), (tmp_path / ".venv/lib/python3/site-packages", None)):
        file = root / "harness" / "reporting" / "parent.py"
        file.parent.mkdir(parents=True)
        monkeypatch.setattr("harness.reporting.parent.__file__", str(file))
        assert _git_commit() == found
