"""SQLite databases that have all of their tables or don't exist."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from conftest import environment, settings_in
from forked import Forked
from optuna.storages import RDBStorage

from harness.core.errors import HarnessError
from harness.settings import Settings
from harness.storage.access import open_storage
from harness.storage.sqlite_file import make_if_missing, replace_if_empty


def run(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def rows(path: Path, table: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(f"select * from {table}").fetchall()


def make(path: Path) -> None:
    """Two tables, one of which says of which version they are."""
    run(path, "create table trials (number)", "create table version (number)", "insert into version values (7)")


def aged(path: Path) -> Path:
    """A file that no other program is at work on."""
    os.utime(path, (0, 0))
    return path


@pytest.mark.parametrize("before", [None, b""])
def test_a_missing_database_is_made_as_a_temporary_file_and_renamed(tmp_path: Path, before: bytes | None) -> None:
    path = tmp_path / "kept.db"
    seen: list[bool] = []
    if before is not None:
        path.write_bytes(before)

    def watched(made: Path) -> None:
        make(made)
        seen.append(path.exists() and path.stat().st_size > 0)

    make_if_missing(path, watched)
    assert seen == [False] and rows(path, "version") == [(7,)] and os.listdir(tmp_path) == ["kept.db"]


def test_an_existing_database_is_left_alone(tmp_path: Path) -> None:
    make(tmp_path / "kept.db")
    make_if_missing(tmp_path / "kept.db", lambda path: pytest.fail("it is there"))


def test_files_that_a_killed_process_left_are_removed_and_not_replayed_into_a_new_database(tmp_path: Path) -> None:
    for name in (".kept.db.new", ".kept.db.new-journal", ".kept.db.new-wal", "kept.db-journal", "kept.db-wal"):
        (tmp_path / name).write_bytes(b"half of it")
    make_if_missing(tmp_path / "kept.db", make)
    assert rows(tmp_path / "kept.db", "version") == [(7,)] and os.listdir(tmp_path) == ["kept.db"]


def test_a_database_that_could_not_be_made_leaves_no_file(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        make(path)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        make_if_missing(tmp_path / "kept.db", fail)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("put", "says"),
    [
        (lambda path: path.mkdir(), "must be a database file, but is a folder"),
        (lambda path: path.write_text("number,accuracy\n"), "must be a SQLite database, but is none"),
    ],
)
def test_what_is_no_database_is_refused_and_left_alone(tmp_path: Path, put: Callable[[Path], None], says: str) -> None:
    put(tmp_path / "kept.db")
    with pytest.raises(HarnessError, match=says):
        make_if_missing(tmp_path / "kept.db", make)
    assert os.listdir(tmp_path) == ["kept.db"]


def never() -> bool:
    return False


def test_a_half_made_database_without_rows_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "kept.db"
    run(path, "create table version (number)", "create table _alembic_tmp_version (number)")
    run(path, "insert into _alembic_tmp_version values (6)")
    (tmp_path / "kept.db-journal").write_bytes(b"half of it")
    assert replace_if_empty(aged(path), make, is_usable=never)
    assert rows(path, "version") == [(7,)] and rows(path, "trials") == [] and os.listdir(tmp_path) == ["kept.db"]


@pytest.mark.parametrize("table", ["trials", "elsewhere"])
def test_a_database_with_a_single_row_of_data_is_never_replaced(tmp_path: Path, table: str) -> None:
    path = tmp_path / "kept.db"
    run(path, f"create table {table} (number)", f"insert into {table} values (3)")
    before = path.read_bytes()
    assert not replace_if_empty(aged(path), make, is_usable=never)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["kept.db"]


def test_a_database_that_can_not_be_read_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "kept.db"
    make(path)
    damaged = path.read_bytes()[:4096] + b"\xff" * 4096
    path.write_bytes(damaged[:16] + b"\xff" * 84 + damaged[100:])
    assert not replace_if_empty(aged(path), make, is_usable=never)


def test_a_database_that_another_program_is_making_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.storage.sqlite_file.time.sleep", lambda seconds: None)
    make(tmp_path / "kept.db")
    assert replace_if_empty(tmp_path / "kept.db", lambda path: pytest.fail("it is whole"), is_usable=lambda: True)


def half_made(settings: Settings, *studies: str) -> Path:
    """Optuna's database as a process leaves it that is killed in the migration of its tables."""
    storage = RDBStorage(settings.storage)
    for name in studies:
        optuna.create_study(study_name=name, storage=storage)
    storage.remove_session()
    storage.engine.dispose()
    path = Path(settings.storage.removeprefix("sqlite:///"))
    run(path, "update alembic_version set version_num = 'v0.9.0.a'")
    return aged(path)


def test_optuna_s_half_made_database_without_rows_is_replaced_with_a_message(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, trials=1)
    path = half_made(settings)
    said: list[str] = []
    assert optuna.get_all_study_names(open_storage(settings, say=said.append).optuna) == []
    assert len(said) == 1 and f"{path} was half made, and empty: it is made anew" in said[0]


def test_optuna_s_database_of_an_older_version_with_a_study_is_left_alone(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, trials=1)
    path = half_made(settings, "mine")
    with pytest.raises(HarnessError, match="optuna storage upgrade"):
        open_storage(settings)
    assert rows(path, "studies") == [(1, "mine")]


def test_simultaneous_first_starts_make_one_database(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, trials=1)
    script = tmp_path / "first.py"
    script.write_text(
        "from harness.storage.access import open_storage\n"
        "from harness.settings import Settings\n"
        "import optuna, sys\n"
        "from pathlib import Path\n"
        f"settings = Settings(space_name='s', study='s', storage={settings.storage!r}, "
        f"runs_dir=Path({str(settings.runs_dir)!r}))\n"
        "optuna.create_study(study_name=sys.argv[1], storage=open_storage(settings).optuna)\n"
    )
    outputs = [tmp_path / f"{number}.txt" for number in range(2)]
    started = [Forked(script, output.stem, output=output, env=environment()) for output in outputs]
    assert [process.wait(120) for process in started] == [0] * 2, [output.read_text() for output in outputs]
    assert sorted(optuna.get_all_study_names(open_storage(settings).optuna)) == ["0", "1"]


def test_a_database_in_a_missing_folder_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "nowhere" / "o.db"
    with pytest.raises(HarnessError) as refused:
        open_storage(replace(settings_in(tmp_path, trials=1), storage=f"sqlite:///{file}"))
    assert str(refused.value) == (
        f"--storage sqlite:///{file} can't be used: its folder {file.parent} is not there; make it first: "
        f"mkdir -p {file.parent}"
    )
    assert not file.parent.exists()
