"""Optuna's storage: opening what an address means, and saying in one line when it can't be reached."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalRedisBackend
from sqlalchemy import event
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from harness.addresses import is_database_server, is_server, lock_of, redact, sqlite_path
from harness.content import exclusive
from harness.errors import HarnessError, PieceTaken, one_line
from harness.settings import Settings
from harness.storage.database_claims import make_tables
from harness.storage.database_locks import lock
from harness.storage.lean_storage import LeanStorage
from harness.storage.patience import Patience, never, server_is_away
from harness.storage.sqlite_file import make_if_missing, replace_if_empty
from harness.storage.whole_journal import WholeJournal

STORAGE_ERRORS = (StorageInternalError, SQLAlchemyError)
"""What is raised where a storage that was open can't be reached any more."""

_PATIENT_CONNECTION = {
    "connect_timeout": 10,  # seconds, as the others
    # A server that vanished with its machine says nothing: without these, whoever waits for its answer waits for hours.
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,  # ms
}
_PATIENT_MYSQL = {"connect_timeout": 10, "read_timeout": 60, "write_timeout": 60}  # more than it waits for a lock, 50 s


class _UnpickledRedis(JournalRedisBackend):
    """Redis without Optuna's snapshots: they are pickles, by which whoever can write there could run code here."""

    def load_snapshot(self) -> bytes | None:
        return None

    def save_snapshot(self, snapshot: bytes) -> None:
        pass


@contextlib.contextmanager
def storage_in_reach(settings: Settings) -> Iterator[None]:
    """Work on an open storage; a storage that is lost meanwhile ends it.

    Raises:
        HarnessError: If it is lost.
    """
    try:
        yield
    except STORAGE_ERRORS as error:
        places = f"--storage {redact(settings.storage)}" + (f" or --to {redact(settings.to)}" if settings.to else "")
        raise HarnessError(
            f"{places} can't be used any more: {one_line(error.__cause__ or error)}; the same command goes on."
        ) from error


@contextlib.contextmanager
def asking_storage() -> Iterator[None]:
    """Ask a storage from within a trial: whatever its driver raises is no fault of the trial's.

    Raises:
        StorageInternalError: If it can't be reached.
    """
    try:
        yield
    except (PieceTaken, UpdateFinishedTrialError, *STORAGE_ERRORS):
        raise
    except Exception as error:  # Redis and files raise errors of their own
        raise StorageInternalError(one_line(error)) from error


def open_storage(
    settings: Settings, *, flag: str = "--storage", say: Callable[[str], None] = lambda text: None
) -> BaseStorage:
    """The settings' storage: a database's URL, ``redis://…``, or the path of a journal file.

    Args:
        settings: Name it.
        flag: How the person named it.
        say: Called with a line of text where a database was half made, and is made anew.

    Raises:
        HarnessError: If it can't be reached or used.
    """
    address, shown = settings.storage, redact(settings.storage)
    wait = partial(say, "storage   another process opens the same one; waiting for it")
    # Or two first starts would both make the tables.
    with exclusive(lock_of(address, settings.runs_dir), on_wait=wait):
        return _open_storage(address, shown, flag, say)


def _open_storage(address: str, shown: str, flag: str, say: Callable[[str], None]) -> BaseStorage:
    try:
        if re.match("rediss?://", address):
            storage: BaseStorage = JournalStorage(_UnpickledRedis(address))
        elif "://" not in address:
            storage = JournalStorage(WholeJournal(address))
        else:
            storage = optuna.storages.get_storage(_open_database(address, say))
        optuna.get_all_study_names(storage)
    except ImportError as error:
        raise HarnessError(
            f"{flag} {shown} needs a driver that is not installed ({one_line(error)}); for PostgreSQL: "
            "pip install -e '.[postgres]', address postgresql+psycopg://..."
        ) from error
    except ArgumentError as error:
        raise HarnessError(f"{flag} must be an Optuna storage address, but got {shown!r}: {one_line(error)}") from error
    except UnicodeDecodeError as error:
        raise HarnessError(
            f"{flag} {shown} must be a journal file, but is none; a SQLite database is named sqlite:///{shown}"
        ) from error
    except Exception as error:  # whatever a driver raises: the address can't be used, and its words say why
        raise HarnessError(f"{flag} {shown} can't be used: {one_line(error.__cause__ or error)}") from error
    return storage


def await_storage(settings: Settings, say: Callable[[str], None]) -> None:
    """Wait until the settings' storage answers, if it is a server that is away.

    Args:
        settings: Name it.
        say: Called with a line of text.

    Raises:
        HarnessError: If it stays away, or can't be used for another reason.
    """
    if is_database_server(settings.storage):
        Patience(server_is_away, say).ask(lambda: open_storage(settings))


def patience_with(storage: BaseStorage) -> Patience:
    """How a storage that is away is met: a database's server is waited for."""
    backend = getattr(storage, "_backend", storage)
    is_served = isinstance(backend, RDBStorage) and backend.engine.dialect.name != "sqlite"
    return Patience(server_is_away if is_served else never)


def close_connections(study: optuna.Study) -> None:
    """Close what connections a study's storage keeps open; it opens new ones when it needs them."""
    backend = getattr(study._storage, "_backend", study._storage)
    if isinstance(backend, RDBStorage):
        backend.remove_session()
        backend.engine.dispose()


def _open_database(address: str, say: Callable[[str], None]) -> LeanStorage:
    path = sqlite_path(address)
    if path is None:
        if not is_server(address):
            driver = sqlalchemy.make_url(address).get_driver_name()
            known = _PATIENT_MYSQL if driver in ("pymysql", "mysqldb") else {}
            return LeanStorage(address, engine_kwargs={"connect_args": known, "pool_pre_ping": True})
        engine_kwargs: dict[str, Any] = {"connect_args": _PATIENT_CONNECTION, "pool_pre_ping": True}
        engine = sqlalchemy.create_engine(address, **engine_kwargs)
        try:
            with engine.begin() as connection:  # two first starts at once would both make the tables
                lock(connection, "tables")
                storage = LeanStorage(address, engine_kwargs=engine_kwargs)
                event.listen(storage.engine, "connect", _mortal)
                storage.engine.dispose()
                make_tables(storage.engine)
        finally:
            engine.dispose()
        return storage
    make_if_missing(path, _make_database)
    try:
        storage = _open_sqlite(address)
    except Exception as error:
        if not replace_if_empty(path, _make_database, is_usable=lambda: _can_be_opened(address)):
            raise
        say(f"storage   {path} was half made, and empty: it is made anew ({one_line(error)})")
        storage = _open_sqlite(address)
    # A write-ahead log outlives kill -9 without waiting for the disk at each of a trial's commits.
    event.listen(storage.engine, "connect", _write_ahead)
    storage.engine.dispose()
    return storage


def _open_sqlite(address: str) -> LeanStorage:
    return LeanStorage(address, engine_kwargs={"connect_args": {"timeout": 60}})


def _make_database(path: Path) -> None:
    _open_sqlite(f"sqlite:///{path}").engine.dispose()


def _can_be_opened(address: str) -> bool:
    try:
        _open_sqlite(address).engine.dispose()
    except Exception:  # of any kind, as where it is opened
        return False
    return True


def _mortal(connection: Any, record: Any) -> None:
    """Let the server notice within minutes, not hours, that this machine vanished; its locks are held until then."""
    names = ("tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count", "tcp_user_timeout")
    with connection.cursor() as cursor:
        for name, value in zip(names, ("30", "10", "3", "60000"), strict=True):
            cursor.execute("select set_config(%s, %s, false)", (name, value))
    connection.commit()


def _write_ahead(connection: Any, record: Any) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
