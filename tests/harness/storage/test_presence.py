"""Whether anybody of this machine is at work on a study, where its storage is no file."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

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


def test_a_folder_whose_name_is_no_utf_8_is_as_good_as_any(tmp_path: Path) -> None:
    latin = tmp_path / os.fsdecode(b"caf\xe9")
    settings = in_folder(latin, str(tmp_path / "journal"))
    first, second = Presence(settings), Presence(settings)
    assert first.acquire() and second.acquire()
    with pytest.raises(HarnessError, match="is being worked on in"):
        Presence(in_folder(tmp_path / "2", settings.storage)).acquire()


@pytest.mark.parametrize("why", ["unknown", "unwritable"])
def test_a_user_without_a_home_has_leases_beside_temporary_files(
    why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown() -> NoReturn:
        raise RuntimeError("Could not determine home directory.")

    if why == "unknown":
        monkeypatch.setattr("pathlib.Path.home", unknown)
    else:
        monkeypatch.setenv("HOME", "/proc")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    presence = Presence(in_folder(tmp_path / "1", "redis://host:6379/0"))
    assert presence.acquire()
    presence.release()
    assert list(tmp_path.glob("kd-harness-*/*.lock"))
