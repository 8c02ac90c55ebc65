"""Locks across all machines: PostgreSQL's advisory locks, and a locked file where there is no server."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import sqlalchemy as sql
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from harness.core.content import exclusive
from harness.storage.leases import VerifyLock


@contextlib.contextmanager
def distributed_lock(engines: Sequence[Engine | None], what: str, file: Path) -> Iterator[VerifyLock]:
    """Keep out all processes that share the file or one of the databases.

    Args:
        engines: Of the databases that are shared; ``None`` for one that only this machine uses.
        what: Names the lock in each database.
        file: Is the lock on this machine.

    Yields:
        What raises an error if a lock was lost.
    """
    shared = [engine for engine in engines if engine is not None]
    with contextlib.ExitStack() as held:
        # In one order, or two processes that need the same two locks would wait for one another.
        in_order = sorted(shared, key=lambda engine: str(engine.url))
        checks = [held.enter_context(advisory_lock(engine, what)) for engine in in_order]
        held.enter_context(exclusive(file))  # also against processes with a study of this name in another storage

        def verify() -> None:
            for check in checks:
                check()

        yield verify


@contextlib.contextmanager
def advisory_lock(
    engine: Engine, what: str, *, on_wait: Callable[[], None] = lambda: None, stalled_s: float = 0
) -> Iterator[VerifyLock]:
    """Keep out all processes that share the database. The lock ends with its connection, and so with its process.

    Args:
        engine: Of the database.
        what: Names the lock.
        on_wait: Called if another process must be waited for.
        stalled_s: Seconds without a statement after which the server ends the lock too; 0 is never.

    Yields:
        What raises an error if the lock was lost.
    """
    with engine.connect() as connection:
        acquire_advisory_lock(connection, what, on_wait=on_wait, stalled_s=stalled_s)

        def verify() -> None:
            connection.execute(sql.select(1))

        try:
            yield verify
        finally:
            with contextlib.suppress(SQLAlchemyError):  # the connection is lost, and the lock with it
                connection.rollback()


def acquire_advisory_lock(
    connection: Connection, what: str, *, on_wait: Callable[[], None] = lambda: None, stalled_s: float = 0
) -> None:
    """Acquire an advisory lock until the connection's transaction ends; arguments as of ``advisory_lock``."""
    key = int.from_bytes(hashlib.sha256(f"kd {what}".encode()).digest()[:8], signed=True)
    ends = sql.func.set_config("idle_in_transaction_session_timeout", str(round(stalled_s * 1000)), True)
    if not connection.execute(sql.select(sql.func.pg_try_advisory_xact_lock(key), ends)).one()[0]:
        on_wait()
        connection.execute(sql.select(sql.func.pg_advisory_xact_lock(key)))
