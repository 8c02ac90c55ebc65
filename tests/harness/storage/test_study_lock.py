"""Whether anybody of this machine is at work on a study."""

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


def test_postgresql_knows_itself_who_is_at_what(tmp_path: Path) -> None:
    storage = "postgresql+psycopg://host/kd"
    assert SharedStudyLock(in_folder(tmp_path / "1", storage)).acquire()
    assert SharedStudyLock(in_folder(tmp_path / "2", storage)).acquire()


def test_a_folder_whose_name_is_no_utf_8_is_as_good_as_any(tmp_path: Path) -> None:
    latin = tmp_path / os.fsdecode(b"caf\xe9")
    settings = in_folder(latin, f"sqlite:///{tmp_path}/optuna.db")
    first, second = SharedStudyLock(settings), SharedStudyLock(settings)
    assert first.acquire() and second.acquire()
    with pytest.raises(HarnessError, match="is being worked on in"):
        SharedStudyLock(in_folder(tmp_path / "2", settings.storage)).acquire()
