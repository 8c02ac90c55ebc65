"""A storage that is lost in the middle of a command ends it with one line, wherever that was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest
from conftest import settings_in
from optuna.exceptions import StorageInternalError

from harness import __main__ as commands
from harness.core.errors import HarnessError
from harness.session import run_search
from harness.settings import ConfirmSettings, Places, Settings
from harness.storage.access import open_storage

SPACE_FILE = Path(__file__).parents[3] / "search_spaces" / "digits.py"


def lost(*_: object, **__: object) -> NoReturn:
    raise StorageInternalError("the server closed the connection")


def named(settings: Settings) -> tuple[Places, str]:
    places = Places(storage=settings.storage, tracking_uri=settings.tracking_uri, runs_dir=settings.runs_dir)
    return places, settings.study


@pytest.mark.parametrize(
    ("command", "asks"),
    [
        (run_search, "harness.studies.opening.open_study"),
        (run_search, "harness.studies.study.Study.finished"),
        (lambda settings: commands.confirm(ConfirmSettings(places=settings)), "harness.studies.opening.reopen_study"),
        (lambda settings: commands.report(*named(settings)), "harness.studies.opening.find_study"),
        (lambda settings: commands.status(*named(settings)), "harness.studies.opening.find_study"),
    ],
    ids=["opening", "header", "confirm", "report", "status"],
)
def test_a_lost_storage_ends_any_command_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[[Settings], object], asks: str
) -> None:
    settings = settings_in(tmp_path, trials=1)
    settings = replace(settings, space_file=SPACE_FILE, tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    open_storage(settings)
    monkeypatch.setattr(asks, lost)
    with pytest.raises(HarnessError) as raised:
        command(settings)
    assert "can't be used any more: the server closed the connection; the same command goes on" in str(raised.value)
