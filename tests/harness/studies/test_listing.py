"""Which studies a storage holds, for whoever names none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from conftest import opened, settings_in

from harness.core.errors import HarnessError
from harness.storage.access import open_storage
from harness.studies.listing import with_study


def test_the_only_study_needs_no_name_and_of_several_a_list_is_shown(tmp_path: Path) -> None:
    settings, said = settings_in(tmp_path, trials=3), list[str]()
    opened(settings)
    optuna.create_study(study_name="of another program", storage=open_storage(settings).optuna)
    assert with_study(replace(settings, study=""), said.append) == settings and said == []
    opened(replace(settings, study="wider"))
    assert with_study(replace(settings, study=""), said.append) is None
    assert said[:2] == ["s      0 trials of digits finished", "wider  0 trials of digits finished"]
    assert said[2].startswith("2 studies in ") and said[2].endswith("; --study names one")
    assert with_study(settings, said.append) == settings


def test_a_storage_without_a_study_is_reported(tmp_path: Path) -> None:
    settings = replace(settings_in(tmp_path, trials=3), study="", storage=f"sqlite:///{tmp_path}/new.db")
    with pytest.raises(HarnessError, match="there is no file"):
        with_study(settings, print)
    optuna.create_study(study_name="of another program", storage=open_storage(settings).optuna)
    with pytest.raises(HarnessError, match="holds none of this program"):
        with_study(settings, print)
