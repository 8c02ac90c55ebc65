"""One at a time, on all machines: PostgreSQL's advisory locks, and a locked file where there is no server."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import sqlalchemy as sql
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from harness.core.content import exclusive
from harness.storage.leases import Check


@contextlib.contextmanager
def alone(engines: Sequence[Engine | None], what: str, file: Path) -> Iterator[Check]:
    """Keep everyone else out: who shares the file, and who shares a database.

    Args:
        engines: Of the databases that are shared; ``None`` for one that only this machine uses.
        what: Names what is done, across all machines.
        file: Stands for the same on this machine.

    Yields:
        What raises an error if they are kept out no more.
    """
    shared = [engine for engine in engines if engine is not None]
    with contextlib.ExitStack() as held:
        # In one order, or two who need the same two would wait for one another.
        checks = [held.enter_context(locked(engine, what)) for engine in sorted(shared, key=lambda one: str(one.url))]
        held.enter_context(exclusive(file))  # of those, too, who have a study of this name in another storage

        def check() -> None:
            for each in checks:
                each()

        yield check


@contextlib.contextmanager
def locked(
    engine: Engine, what: str, *, on_wait: Callable[[], None] = lambda: None, stalled_s: float = 0
) -> Iterator[Check]:
    """Keep everyone else out who shares the database. A lock ends with its connection, and so with its process.

    Args:
        engine: Of the database.
        what: Names what is done, across all machines.
        on_wait: Called if somebody must be waited for.
        stalled_s: Seconds without a sign after which the lock ends too; 0 is never.
    """
    with engine.connect() as connection:
        lock(connection, what, on_wait=on_wait, stalled_s=stalled_s)

        def check() -> None:
            connection.execute(sql.select(1))

        try:
            yield check
        finally:
            with contextlib.suppress(SQLAlchemyError):  # of a connection that is lost, and the lock with it
                connection.rollback()


def lock(
    connection: Connection, what: str, *, on_wait: Callable[[], None] = lambda: None, stalled_s: float = 0
) -> None:
    """Hold a name until the connection's transaction ends: PostgreSQL's advisory locks. Takes what ``locked`` does."""
    key = int.from_bytes(hashlib.sha256(f"kd {what}".encode()).digest()[:8], signed=True)
    ends = sql.func.set_config("idle_in_transaction_session_timeout", str(round(stalled_s * 1000)), True)
    if not connection.execute(sql.select(sql.func.pg_try_advisory_xact_lock(key), ends)).one()[0]:
        on_wait()
        connection.execute(sql.select(sql.func.pg_advisory_xact_lock(key)))
