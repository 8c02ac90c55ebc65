"""MLflow's database: create it, replace it where it is half made and empty, never change it where it holds runs."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import mlflow
from alembic.script import ScriptDirectory
from mlflow import MlflowClient
from sqlalchemy import create_engine
from sqlalchemy.exc import DBAPIError

from harness.core.errors import HarnessError
from harness.storage.sqlite_file import make_if_missing, replace_if_empty

_MIGRATIONS = Path(mlflow.__file__).parent / "store" / "db_migrations"  # what `mlflow db upgrade` runs


def prepare_database(path: Path, say: Callable[[str], None]) -> None:
    """Give MLflow a SQLite database with the tables of its own version. The caller holds the lock of the address.

    MLflow itself would migrate an older one in place, which can't be undone after an interruption.

    Args:
        path: The database's file.
        say: Called with a line of text if a half made database is replaced.

    Raises:
        HarnessError: If a database is there that can't be used, and may hold runs.
    """
    make_if_missing(path, _make)
    if not path.exists() or _is_usable(path):
        return
    found = _revision(path)
    if not replace_if_empty(path, _make, is_usable=lambda: _is_usable(path)):
        raise HarnessError(_remedy(path, found))
    say(f"{path} was half made, and empty: it is made anew")


def check_answers(address: str) -> None:
    """Connect to a database once: MLflow retries one that refuses 15 times, for nearly two minutes, and in silence.

    A database that does not answer may be about to start, and is left to MLflow.

    Raises:
        SQLAlchemyError: If it answers and refuses, as for a wrong password.
    """
    engine = create_engine(address)
    try:
        engine.connect().close()
    except DBAPIError as error:
        from harness.storage.retry import server_is_away  # imports Optuna, which a good start does not need

        if not server_is_away(error):
            raise
    finally:
        engine.dispose()


def _make(path: Path) -> None:
    MlflowClient(f"sqlite:///{path}").search_experiments(max_results=1)


def _is_usable(path: Path) -> bool:
    return _revision(path) == _scripts().get_current_head()


def _revision(path: Path) -> str | None:
    """Return the Alembic revision of a database's tables; ``None`` if it names none."""
    with closing(sqlite3.connect(path)) as connection:
        try:
            row = connection.execute("select version_num from alembic_version").fetchone()
        except sqlite3.OperationalError as error:
            if "no such table" not in str(error):
                raise
            return None
    return None if row is None else str(row[0])


def _scripts() -> ScriptDirectory:
    return ScriptDirectory(str(_MIGRATIONS))


def _remedy(path: Path, found: str | None) -> str:
    known = {script.revision for script in _scripts().walk_revisions()}
    if found is not None and found not in known:
        return f"{path} has tables of a newer MLflow, or of another program; upgrade MLflow, or name another file"
    return (
        f"{path} holds data in tables of an older MLflow, or in some that are half made; take a copy of it, then: "
        f"mlflow db upgrade sqlite:///{path}"
    )
