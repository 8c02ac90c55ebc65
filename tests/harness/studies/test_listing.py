"""Which studies a storage holds, for whoever names none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from conftest import opened, places_of, settings_in

from harness.core.errors import HarnessError
from harness.settings import Places
from harness.storage.access import open_storage
from harness.studies.listing import choose_study


def test_the_only_study_needs_no_name_and_of_several_a_list_is_shown(tmp_path: Path) -> None:
    settings, said = settings_in(tmp_path, trials=3), list[str]()
    opened(settings)
    optuna.create_study(study_name="of another program", storage=open_storage(settings).optuna)
    places = Places(storage=settings.storage, runs_dir=settings.runs_dir)
    assert choose_study(places, None, said.append) == places_of(settings) and said == []
    opened(replace(settings, study="wider"))
    assert choose_study(places, None, said.append) is None
    assert said[:2] == ["s      0 trials of digits finished", "wider  0 trials of digits finished"]
    assert said[2].startswith("2 studies in ") and said[2].endswith("; --study names one")
    assert choose_study(places, "s", said.append) == places_of(settings)


def test_a_storage_without_a_study_is_reported(tmp_path: Path) -> None:
    places = Places(storage=f"sqlite:///{tmp_path}/new.db", runs_dir=tmp_path / "mlruns")
    with pytest.raises(HarnessError, match="there is no file"):
        choose_study(places, None, print)
    optuna.create_study(study_name="of another program", storage=open_storage(places).optuna)
    with pytest.raises(HarnessError, match="holds none of this program"):
        choose_study(places, None, print)
