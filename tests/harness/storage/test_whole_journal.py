"""A journal file that was torn in the middle of a line, or locked by a process that is dead or by Optuna's own."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
from conftest import environment
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileSymlinkLock

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


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("name", ["kept/optuna.journal", "optuna.journal"])
def test_the_lock_of_a_process_that_was_killed_keeps_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, moved: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("kept").mkdir()
    study = optuna.create_study(study_name="s", storage=JournalStorage(WholeJournal(name)))
    code = (
        "import os, signal, sys, optuna\nfrom optuna.storages import JournalStorage\n"
        "from harness.storage.whole_journal import WholeJournal\n"
        "study = optuna.load_study(study_name='s', storage=JournalStorage(WholeJournal(sys.argv[1])))\n"
        "os.fsync = lambda file: os.kill(os.getpid(), signal.SIGKILL)\n"
        "study.set_user_attr('first', 1)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, name], env=environment()).returncode == -signal.SIGKILL
    assert Path(f"{name}.lock").is_symlink()
    if moved:
        tmp_path.rename(tmp_path.with_name(f"{tmp_path.name}-moved"))
        monkeypatch.chdir(tmp_path.with_name(f"{tmp_path.name}-moved"))
        study = optuna.load_study(study_name="s", storage=JournalStorage(WholeJournal(name)))
    ended = threading.Event()
    threading.Thread(target=lambda: (study.set_user_attr("second", 2), ended.set()), daemon=True).start()
    assert ended.wait(20)  # Optuna's own would wait for 30 s, or for ever
    assert found_in(Path(name)) == {"first": 1, "second": 2}
    assert not Path(f"{name}.lock").is_symlink()


def test_processes_of_optunas_own_are_waited_for(tmp_path: Path) -> None:
    file = tmp_path / "optuna.journal"
    study = optuna.create_study(study_name="s", storage=JournalStorage(WholeJournal(str(file))))
    theirs = JournalFileSymlinkLock(str(file))
    theirs.acquire()
    thread = threading.Thread(target=study.set_user_attr, args=("first", 1))
    thread.start()
    thread.join(0.3)
    assert thread.is_alive() and found_in(file) == {}
    theirs.release()
    thread.join()
    assert found_in(file) == {"first": 1}


def test_a_process_of_optunas_own_sees_that_the_lock_is_in_use(tmp_path: Path) -> None:
    file = tmp_path / "optuna.journal"
    study = optuna.create_study(study_name="s", storage=JournalStorage(WholeJournal(str(file))))
    link, before_s = tmp_path / "optuna.journal.lock", file.stat().st_mtime
    seen: list[float] = []
    append = WholeJournal._append

    def watched(self: WholeJournal, *arguments: Any) -> None:
        append(self, *arguments)
        seen.append(link.stat().st_mtime)  # what it waits for a change of

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WholeJournal, "_append", watched)
        for value in range(3):
            time.sleep(0.01)
            study.set_user_attr("first", value)
    assert len({before_s, *seen}) == 4
