"""SQLite databases that have all of their tables or don't exist: written to a temporary file, and renamed.

MLflow and Optuna make dozens of tables, statement by statement. A process that is killed meanwhile leaves a file that
neither can use, nor repair.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from harness.core.errors import HarnessError

_MAGIC = b"SQLite format 3\0"
_SIDECARS = ("-journal", "-wal", "-shm")
_QUIET_S = 3.0  # another program may still be making the tables of a file that was written to within it
_HALF_MADE = "_alembic_tmp_"  # begins the name of a table that a migration copies into


def make_if_missing(path: Path, make: Callable[[Path], None]) -> None:
    """Make a database, unless it exists. To be called under a lock that all processes share.

    Args:
        path: Its file; an empty file is none.
        make: Makes all tables in a new file, and closes it.

    Raises:
        HarnessError: If the path is no SQLite database that can be written to, or its folder is missing.
    """
    if not path.parent.is_dir():
        raise HarnessError(f"its folder {path.parent} is not there; make it first: mkdir -p {path.parent}")
    if path.is_dir():
        raise HarnessError(f"{path} must be a database file, but is a folder; name another, or move it away")
    if not path.exists() or not path.stat().st_size:
        _rename(_make_temporary(path, make), path)
        return
    with open(path, "rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise HarnessError(f"{path} must be a SQLite database, but is none; name another, or move it away")
    if not os.access(path, os.W_OK):
        raise HarnessError(f"{path} must be writable, but is read-only; chmod u+w {path}")


def replace_if_empty(path: Path, make: Callable[[Path], None], *, is_usable: Callable[[], bool]) -> bool:
    """Replace a database that can't be used by a new one, if it has no rows. To be called under the same lock.

    Args:
        path: Its file.
        make: As of ``make_if_missing``.
        is_usable: Returns whether it can be used by now; another program may have been making it.

    Returns:
        Whether it can be used now.
    """
    if time.time() - path.stat().st_mtime < _QUIET_S:
        time.sleep(_QUIET_S)
        if is_usable():
            return True
    made = _make_temporary(path, make)
    if _has_more_rows(path, made):
        made.unlink()
        return False
    _rename(made, path)
    return True


def _make_temporary(path: Path, make: Callable[[Path], None]) -> Path:
    made = path.with_name(f".{path.name}.new")
    try:
        _remove(made)  # left by a process that was killed
        make(made)
    except BaseException:
        _remove(made)
        raise
    _flush(made)
    return made


def _rename(made: Path, path: Path) -> None:
    _remove_sidecars(path)  # or SQLite would replay them into the new file
    os.replace(made, path)
    _flush(path.parent)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    _remove_sidecars(path)


def _remove_sidecars(path: Path) -> None:
    for suffix in _SIDECARS:
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _has_more_rows(path: Path, new: Path) -> bool:
    """Return whether a table has more rows than in a new database, where a few tables have one."""
    try:
        found = _rows(path)
    except sqlite3.Error:
        return True  # what can't be read may hold anything
    expected = _rows(new)
    return any(count > expected.get(name.removeprefix(_HALF_MADE), 0) for name, count in found.items())


def _rows(path: Path) -> dict[str, int]:
    with closing(sqlite3.connect(path)) as connection:
        names = [name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")]
        found = {}
        for name in names:
            asked = f'select count(*) from "{name}"'  # nosec B608 # a name that the database itself has given
            found[name] = int(connection.execute(asked).fetchone()[0])
        return found
