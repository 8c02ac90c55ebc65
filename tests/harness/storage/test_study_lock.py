"""Locks of a study on this machine."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import settings_in

from harness.core.errors import HarnessError
from harness.settings import Settings
from harness.storage.study_lock import SharedStudyLock


def in_folder(folder: Path, storage: str, study: str = "s") -> Settings:
    settings = replace(settings_in(folder, trials=1), storage=storage, study=study)
    settings.study_dir.mkdir(parents=True)
    return settings


def test_a_study_in_postgresql_may_be_worked_on_in_several_runs_folders(tmp_path: Path) -> None:
    storage = "postgresql+psycopg://host/kd"
    assert SharedStudyLock(in_folder(tmp_path / "1", storage)).acquire()
    assert SharedStudyLock(in_folder(tmp_path / "2", storage)).acquire()


def test_a_runs_folder_may_have_a_name_that_is_no_utf_8(tmp_path: Path) -> None:
    latin = tmp_path / os.fsdecode(b"caf\xe9")
    settings = in_folder(latin, f"sqlite:///{tmp_path}/optuna.db")
    first, second = SharedStudyLock(settings), SharedStudyLock(settings)
    assert first.acquire() and second.acquire()
    with pytest.raises(HarnessError, match="is being worked on in"):
        SharedStudyLock(in_folder(tmp_path / "2", settings.storage)).acquire()
