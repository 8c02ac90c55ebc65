"""Open Optuna's storage (SQLite for one machine, PostgreSQL for many); report in one line when it is unreachable."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import Study
from optuna.trial import FrozenTrial
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine, ExceptionContext
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from harness.core.addresses import is_server, lock_of, redact, sqlite_path
from harness.core.content import exclusive
from harness.core.errors import HarnessError, LeaseLost, one_line
from harness.settings import Places
from harness.storage.database_leases import make_tables
from harness.storage.database_locks import acquire_advisory_lock
from harness.storage.retry import RetryPolicy
from harness.storage.sqlite_file import make_if_missing, replace_if_empty

STORAGE_ERRORS = (StorageInternalError, SQLAlchemyError)
"""Errors of an open storage whose database can't be reached any more."""

_CONNECT_ARGS = {
    "connect_timeout": 10,  # seconds, as the others
    # Without these, a client waits for hours for a server that vanished with its machine.
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,  # ms
}


@dataclass(frozen=True)
class Storage:
    """An open storage.

    Attributes:
        optuna: The storage as Optuna's functions take it.
        database: The connections under it.
    """

    optuna: BaseStorage
    database: RDBStorage

    @property
    def server(self) -> Engine | None:
        """Return the engine of a PostgreSQL server, which many machines share; ``None`` for SQLite."""
        return None if self.database.engine.dialect.name == "sqlite" else self.database.engine

    def create_trial(
        self, study_id: int, trial: FrozenTrial, before_commit: Callable[[], None] = lambda: None
    ) -> FrozenTrial:
        """Store a trial in one transaction, and return it as it is stored, with its number.

        RDBStorage's own ``create_new_trial`` tries a failed insert again, up to five times with pauses of up to two
        seconds. The lock under which the trial was chosen may be lost meanwhile, and the trial would then be stored
        beside others that it was not chosen against. Here the first failure is raised.

        Args:
            study_id: Optuna's id of the study.
            trial: The trial.
            before_commit: On a server, called when the trial has been inserted; the trial is rolled back if it raises.

        Raises:
            SQLAlchemyError: If the storage can't be reached. The trial may be stored or not.
        """
        _inserting.before_commit = before_commit
        try:
            trial_id = self.optuna.create_new_trial(study_id, trial)
        except _FirstFailure as failure:
            raise failure.error from None
        finally:
            _inserting.before_commit = None
        return self.optuna.get_trial(trial_id)

    def load_study(self, name: str) -> Study | None:
        """Return the study of a name; ``None`` if there is none."""
        known = name in optuna.get_all_study_names(self.optuna)
        return optuna.load_study(study_name=name, storage=self.optuna) if known else None

    def retry_policy(self) -> RetryPolicy:
        """Return a policy that retries calls while a server is away."""
        return RetryPolicy(of_server=self.server is not None)

    def close_connections(self) -> None:
        """Close idle connections; the storage opens new ones when it needs them."""
        self.database.remove_session()
        self.database.engine.dispose()


_inserting = threading.local()
"""What is called before this thread's insert of a trial is committed (``before_commit``); ``None`` without one."""


class _FirstFailure(Exception):
    """A driver's error, wrapped so that Optuna does not take it for one of the database and retries."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def _bypass_retries(context: ExceptionContext) -> None:
    found = context.sqlalchemy_exception
    is_inserting = getattr(_inserting, "before_commit", None) is not None
    if is_inserting and isinstance(found, DBAPIError) and not context.is_pre_ping:
        raise _FirstFailure(found)


def _check_before_commit(connection: Connection) -> None:
    check = getattr(_inserting, "before_commit", None)
    if check is None:
        return
    try:
        check()
    except _FirstFailure:  # of the check's own statement
        raise
    except Exception as error:
        raise _FirstFailure(error) from error


@contextlib.contextmanager
def storage_in_reach(places: Places, to: str = "") -> Iterator[None]:
    """Run a block that uses an open storage, and name the storage in one line if it is lost.

    Args:
        places: Name the storage.
        to: Address of another storage that the block uses.

    Raises:
        HarnessError: If the storage is lost.
    """
    try:
        yield
    except STORAGE_ERRORS as error:
        lost = f"--storage {redact(places.storage)}" + (f" or --to {redact(to)}" if to else "")
        raise HarnessError(
            f"{lost} can't be used any more: {one_line(error.__cause__ or error)}; the same command goes on."
        ) from error


@contextlib.contextmanager
def asking_storage() -> Iterator[None]:
    """Run storage calls from within a trial, and raise their errors as the storage's, not as the trial's.

    Raises:
        StorageInternalError: If the storage can't be reached, or the study was deleted from it meanwhile.
    """
    try:
        yield
    except (LeaseLost, UpdateFinishedTrialError, *STORAGE_ERRORS):
        raise
    except Exception as error:  # Optuna raises a KeyError where the study's rows are gone
        raise StorageInternalError(one_line(error)) from error


def open_storage(
    settings: Places, *, flag: str = "--storage", say: Callable[[str], None] = lambda text: None
) -> Storage:
    """Open the storage that the settings name.

    Args:
        settings: Name the storage.
        flag: The flag that gave the address, for messages.
        say: Called with a line of text when an empty, half-made database is replaced.

    Raises:
        HarnessError: If the address is of another kind, or the storage can't be reached or used.
    """
    address, shown = settings.storage, redact(settings.storage)
    path = sqlite_path(address)
    if path is None and not is_server(address):
        raise HarnessError(
            f"{flag} must be sqlite:///FILE (for one machine) or postgresql+psycopg://USER@HOST/DATABASE (for many), "
            f"but got {shown!r}."
        )
    wait = partial(say, "storage   waiting for another process that opens it")
    # Otherwise two first starts would both make the tables.
    with exclusive(lock_of(address, settings.runs_dir), on_wait=wait):
        try:
            database = _open_server(address) if path is None else _open_file(path, address, say)
            storage = Storage(optuna.storages.get_storage(database), database)
            optuna.get_all_study_names(storage.optuna)
        except ImportError as error:
            raise HarnessError(
                f"{flag} {shown} needs a driver that is not installed ({one_line(error)}): "
                "pip install 'psycopg[binary]', address postgresql+psycopg://..."
            ) from error
        except ArgumentError as error:
            raise HarnessError(f"{flag} must be a database's address, but got {shown!r}: {one_line(error)}") from error
        except Exception as error:  # whatever a driver raises: its message says why the address can't be used
            raise HarnessError(f"{flag} {shown} can't be used: {one_line(error.__cause__ or error)}") from error
    return storage


def await_storage(settings: Places, say: Callable[[str], None]) -> None:
    """Wait until the storage answers, if it is a server that is away.

    Raises:
        HarnessError: If the server stays away, or can't be used for another reason.
    """
    if is_server(settings.storage):
        RetryPolicy(say).call(lambda: open_storage(settings))


def _open_server(address: str) -> RDBStorage:
    engine_kwargs: dict[str, Any] = {"connect_args": _CONNECT_ARGS, "pool_pre_ping": True}
    engine = sqlalchemy.create_engine(address, **engine_kwargs)
    try:
        with engine.begin() as connection:
            acquire_advisory_lock(connection, "tables")  # as above, on all machines
            database = RDBStorage(address, engine_kwargs=engine_kwargs)
            event.listen(database.engine, "connect", _set_server_keepalives)
            event.listen(database.engine, "handle_error", _bypass_retries)
            event.listen(database.engine, "commit", _check_before_commit)
            database.engine.dispose()
            make_tables(database.engine)
    finally:
        engine.dispose()
    return database


def _open_file(path: Path, address: str, say: Callable[[str], None]) -> RDBStorage:
    make_if_missing(path, _make_database)
    try:
        database = _open_sqlite(address)
    except Exception as error:
        if not replace_if_empty(path, _make_database, is_usable=lambda: _can_be_opened(address)):
            raise
        say(f"storage   {path} was half made, and empty: it is made anew ({one_line(error)})")
        database = _open_sqlite(address)
    # A write-ahead log outlives kill -9 without waiting for the disk at each of a trial's commits.
    event.listen(database.engine, "connect", _write_ahead)
    database.engine.dispose()
    return database


def _open_sqlite(address: str) -> RDBStorage:
    return RDBStorage(address, engine_kwargs={"connect_args": {"timeout": 60}})


def _make_database(path: Path) -> None:
    _open_sqlite(f"sqlite:///{path}").engine.dispose()


def _can_be_opened(address: str) -> bool:
    try:
        _open_sqlite(address).engine.dispose()
    except Exception:  # of any kind, as where it is opened
        return False
    return True


def _set_server_keepalives(connection: Any, record: Any) -> None:
    """Let the server notice within minutes if this machine vanishes: until then it keeps this machine's locks."""
    names = ("tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count", "tcp_user_timeout")
    with connection.cursor() as cursor:
        for name, value in zip(names, ("30", "10", "3", "60000"), strict=True):
            cursor.execute("select set_config(%s, %s, false)", (name, value))
    connection.commit()


def _write_ahead(connection: Any, record: Any) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
