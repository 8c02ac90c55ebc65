"""A journal file that was torn in the middle of a line."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage

from harness.storage.whole_journal import WholeJournal


def found_in(file: Path) -> dict[str, int]:
    """What a new process reads of the study."""
    return optuna.load_study(study_name="s", storage=JournalStorage(WholeJournal(str(file)))).user_attrs


@pytest.mark.parametrize("left", [1, 20])
def test_what_was_torn_is_dropped_and_the_study_goes_on(tmp_path: Path, left: int) -> None:
    file = tmp_path / "optuna.journal"
    study = optuna.create_study(study_name="s", storage=JournalStorage(WholeJournal(str(file))))
    study.set_user_attr("first", 1)
    whole = file.read_bytes()
    study.set_user_attr("torn", 2)
    file.write_bytes(file.read_bytes()[: len(whole) + left])  # its process was killed here
    assert found_in(file) == {"first": 1}
    again = optuna.load_study(study_name="s", storage=JournalStorage(WholeJournal(str(file))))
    again.set_user_attr("second", 3)
    assert found_in(file) == {"first": 1, "second": 3} and file.read_bytes().startswith(whole)


def test_processes_that_know_the_journal_read_on_where_it_was_mended(tmp_path: Path) -> None:
    file = tmp_path / "optuna.journal"
    study = optuna.create_study(study_name="s", storage=JournalStorage(WholeJournal(str(file))))
    other = optuna.load_study(study_name="s", storage=JournalStorage(WholeJournal(str(file))))
    with open(file, "ab") as torn:
        torn.write(b'{"op_code":2,"worker')
    assert other.user_attrs == {}
    study.set_user_attr("first", 1)
    assert other.user_attrs == {"first": 1}
