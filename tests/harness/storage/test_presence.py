"""Whether anybody of this machine is at work on a study, where its storage is no file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from conftest import settings_in

from harness.errors import HarnessError
from harness.settings import Settings
from harness.storage.presence import Absence, Presence


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))


def in_folder(folder: Path, storage: str, study: str = "s") -> Settings:
    settings = replace(settings_in(folder, trials=1), storage=storage, study=study)
    settings.study_dir.mkdir(parents=True)
    return settings


@pytest.mark.parametrize("storage", ["mysql+pymysql://kd:secret@host/kd", "redis://host:6379/0"])
def test_a_study_on_a_server_of_one_machine_is_worked_on_in_one_runs_folder(tmp_path: Path, storage: str) -> None:
    here, elsewhere = in_folder(tmp_path / "1", storage), in_folder(tmp_path / "2", storage)
    first, second = Presence(here), Presence(here)
    assert first.acquire() and second.acquire()
    with pytest.raises(HarnessError, match=f"is being worked on in {here.study_dir}, so it can't be in"):
        Presence(elsewhere).acquire()
    absence = Absence(elsewhere)
    assert not absence.acquire()
    absence.release()
    assert Presence(in_folder(tmp_path / "3", storage, study="another")).acquire()
    first.release()
    second.release()
    other = Presence(elsewhere)
    assert other.acquire()
    other.release()
    assert "secret" not in "".join(file.name + file.read_text() for file in tmp_path.glob(".cache/kd-harness/*.lock"))


def test_postgresql_knows_itself_who_is_at_what(tmp_path: Path) -> None:
    storage = "postgresql+psycopg://host/kd"
    assert Presence(in_folder(tmp_path / "1", storage)).acquire()
    assert Presence(in_folder(tmp_path / "2", storage)).acquire()
