"""Leases in PostgreSQL, for workers on any machine: each worker has a row with its work item and its last heartbeat.

A worker that is dead or silent loses its row, and with it the lease: another worker takes over. One that was only
stalled finds its row gone at the next heartbeat, and writes nothing more of that item.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from sqlalchemy.engine import Engine, Row
from sqlalchemy.exc import SQLAlchemyError

from harness.core.content import LeaseLock
from harness.core.errors import OWN_THREADS, LeaseLost, raise_if_interrupted
from harness.storage.database_locks import advisory_lock
from harness.storage.leases import GRACE_S, HEARTBEAT_S, Lease, Leases, VerifyLock, Worker, made_lock
from harness.storage.retry import run_with_timeout

_FORGET_AFTER_S = 3600.0  # without a heartbeat, a worker's row is deleted
_COURTESY_S = 0.7  # for a server to answer what it would find out by itself too
_STALLED_S = 120.0  # after which the server ends a lock that should have been held for a moment

_TABLES = sql.MetaData()
_WORKERS = sql.Table(
    "kd_workers",
    _TABLES,
    sql.Column("worker", sql.String(32), primary_key=True),
    sql.Column("study", sql.String(32), nullable=False),
    sql.Column("host", sql.Text, nullable=False),
    sql.Column("pid", sql.Integer, nullable=False),
    sql.Column("folder", sql.Text, nullable=False),  # its lock there tells on its own host whether it lives
    sql.Column("began_s", sql.Double, nullable=False),  # by the server's clock, as all times are
    sql.Column("beat_s", sql.Double, nullable=False),
    sql.Column("piece", sql.String(200)),
    sql.Column("epochs", sql.Integer),
    sql.UniqueConstraint("study", "piece"),
)
_NOW_S: sql.ColumnElement[float] = sql.func.extract("epoch", sql.func.clock_timestamp()).cast(sql.Double)


def leases_of(engine: Engine | None, study: str, folder: Path, check_not_moved: Callable[[], None]) -> Leases:
    """Return the leases of a study: in its server's database, or as locked files if ``engine`` is ``None``."""
    if engine is None:
        return Leases(folder, check_not_moved)
    return DatabaseLeases(engine, study, folder, check_not_moved)


class DatabaseLeases(Leases):
    """Leases as rows of the study's database; this process registers as a worker when it first looks for work.

    Args:
        engine: Of the database.
        study: The study's id.
        folder: Its folder.
        check_not_moved: Raises an error if the study was moved. Called once for each row: a study is moved when it
            has no row.
    """

    def __init__(
        self, engine: Engine, study: str, folder: Path, check_not_moved: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__(folder, check_not_moved)
        self._engine = engine
        self._study = study
        self._host = socket.gethostname()
        self._worker: str | None = None
        self._liveness: LeaseLock | None = None  # held while this worker lives: on its host, no clock is needed
        self._epochs: int | None = None
        self._lost = False  # the row is gone: another worker took over
        self._unanswered = False  # the server did not answer the last courtesy
        self._confirmed_s = 0.0
        self._failed_s = -math.inf  # when the server last left a heartbeat unanswered
        self._silent: dict[str, tuple[float, float]] = {}  # each silent worker's last heartbeat, and when it was noted
        self._looked_s = 0.0
        self._row = threading.Lock()  # no heartbeat for a row that is being written
        self._over = threading.Event()
        self._heartbeat: threading.Thread | None = None

    @contextlib.contextmanager
    def exclusive(
        self, what: str, *, on_wait: Callable[[], None] = lambda: None, briefly: bool = False
    ) -> Iterator[VerifyLock]:
        stalled_s = _STALLED_S if briefly else 0
        with advisory_lock(self._engine, f"{self._study} {what}", on_wait=on_wait, stalled_s=stalled_s) as verify:
            yield verify

    def acquire(self, items: Sequence[str]) -> Lease | None:
        with self._row:
            self._register()
            if not items:
                return None
            with self._engine.begin() as connection:
                # Its own row is none of the others': it may have the item already, where the answer was lost.
                others = (_WORKERS.c.study == self._study, _WORKERS.c.worker != self._worker)
                held = sql.select(_WORKERS).where(*others, _WORKERS.c.piece.in_(items))
                holders = {row.piece: row for row in connection.execute(held)}
                item = next((item for item in items if item not in holders or self._is_dead(holders[item])), None)
                if item is None:
                    return None
                dead = holders.get(item)
                if dead is not None:
                    connection.execute(sql.delete(_WORKERS).where(_WORKERS.c.worker == dead.worker))
                self._epochs = None
                acquire = self._update(piece=item, epochs=None, beat_s=_NOW_S).returning(_WORKERS.c.beat_s)
                at_s = connection.execute(acquire).scalar_one_or_none()
                if at_s is None:
                    self._lost = True  # since it registered: it registers again with its next call
                    return None
            self._confirmed_s = _elapsed_s()
        if dead is not None and self._is_of_this_host(dead):
            shutil.rmtree(self._folder_of(dead.worker), ignore_errors=True)
        return _DatabaseLease(self, item, made_lock(self._folder / item), round(at_s * 1000))

    def _update(self, **values: Any) -> sql.Update:
        return sql.update(_WORKERS).where(_WORKERS.c.worker == self._worker).values(values)

    def _register(self) -> None:
        """Insert a row for this worker, unless it still has one, and start its heartbeat."""
        if self._worker is not None and not self._lost:
            return
        self._unregister()
        self._check_not_moved()
        worker = uuid.uuid4().hex
        self._liveness = made_lock(self._folder_of(worker))
        self._liveness.acquire()
        self._worker, self._lost = worker, True  # until there is a row
        with self._engine.begin() as connection:
            connection.execute(
                sql.insert(_WORKERS).values(
                    worker=worker,
                    study=self._study,
                    host=self._host,
                    pid=os.getpid(),
                    folder=str(self._folder_of(worker)),
                    began_s=_NOW_S,
                    beat_s=_NOW_S,
                )
            )
        self._lost, self._confirmed_s = False, _elapsed_s()
        self._over = threading.Event()
        beat = partial(self._keep_beating, self._over)
        self._heartbeat = threading.Thread(target=beat, name=f"{OWN_THREADS}heartbeat", daemon=True)
        self._heartbeat.start()

    def _unregister(self) -> None:
        self._over.set()
        if self._liveness is not None:
            self._liveness.release()
            shutil.rmtree(self._folder_of(str(self._worker)), ignore_errors=True)
        self._worker = self._liveness = None

    def _folder_of(self, worker: str) -> Path:
        return self._folder.resolve() / "workers" / worker

    def _is_of_this_host(self, row: Row[Any]) -> bool:
        """Return whether a worker's lock can be tried here. What the database says leads to no other folder."""
        named = re.fullmatch("[0-9a-f]{32}", row.worker) is not None
        return named and row.host == self._host and row.folder == str(self._folder_of(row.worker))

    def _is_dead(self, row: Row[Any]) -> bool:
        """Return whether a worker is dead: by its lock on this host, by its missed heartbeats on others."""
        if self._is_of_this_host(row):
            with contextlib.suppress(FileNotFoundError):  # it unregisters just now
                if LeaseLock(self._folder_of(row.worker)).is_free():
                    return True
        # A clock alone would take all for dead after an outage, when nobody has had a chance to beat yet: silence
        # counts from when this worker itself heard nothing, though the server answered.
        beat, since_s = self._silent.get(row.worker, (None, 0.0))
        return bool(beat == row.beat_s and time.monotonic() - since_s > GRACE_S)

    def _keep_beating(self, over: threading.Event) -> None:
        while not over.wait(HEARTBEAT_S):
            with contextlib.suppress(SQLAlchemyError):  # away: this worker falls silent
                self._beat()
                self._look()

    def _beat(self) -> str | None:
        """Send a heartbeat; return the item that this worker has by the server, ``None`` also if its row is gone."""
        with self._row:
            at_s = _elapsed_s()
            try:
                with self._engine.begin() as connection:
                    beat = self._update(beat_s=_NOW_S, epochs=self._epochs).returning(_WORKERS.c.piece)
                    known = connection.execute(beat).one_or_none()
            except SQLAlchemyError:
                self._failed_s = _elapsed_s()
                raise
            self._unanswered = False
            if known is None:
                self._lost = True
                return None
            self._confirmed_s = at_s
            item: str | None = known.piece
            return item

    def _look(self) -> None:
        """Note which workers are silent, and since when. There seldom are any, so the query returns little."""
        now_s = time.monotonic()
        with self._engine.begin() as connection:
            of_study = _WORKERS.c.study == self._study
            connection.execute(sql.delete(_WORKERS).where(of_study, _WORKERS.c.beat_s < _NOW_S - _FORGET_AFTER_S))
            late = _WORKERS.c.beat_s < _NOW_S - 1.5 * HEARTBEAT_S
            rows = connection.execute(sql.select(_WORKERS.c.worker, _WORKERS.c.beat_s).where(of_study, late)).all()
        # A worker that did not look for a while, asleep or cut off, can't tell which heartbeats it missed.
        known = self._silent if now_s - self._looked_s < 3 * HEARTBEAT_S else {}
        self._silent = {
            worker: known[worker] if worker in known and known[worker][0] == beat_s else (beat_s, now_s)
            for worker, beat_s in rows
        }
        self._looked_s = now_s

    def report_progress(self, item: str, epochs: int) -> None:
        """Note how many epochs of an item are done; check the lease if it may be lost, and the server answers.

        Raises:
            LeaseLost: If another worker has taken over.
        """
        self._epochs = epochs
        now_s = _elapsed_s()
        # Where the server gave no answer, the heartbeat goes on to ask; what is trained on meanwhile is what anybody
        # else would train. Where it was not even asked for so long, this process was stalled: then it is asked first.
        stalled = now_s - self._confirmed_s > GRACE_S / 2 and now_s - self._failed_s > GRACE_S / 2
        if self._lost or stalled:
            with contextlib.suppress(SQLAlchemyError):
                self.verify(item)

    def verify(self, item: str) -> None:
        """Check with the server that this worker still has an item.

        Raises:
            LeaseLost: If another worker has taken over.
            SQLAlchemyError: If the server does not answer.
        """
        has = None
        if not self._lost:
            try:
                has = self._beat()
            except SQLAlchemyError:
                raise_if_interrupted()
                raise
        if has != item:  # or it has none: an earlier release may have reached the server late
            raise LeaseLost(f"{item} was taken over while this worker was silent")

    def is_lost(self) -> bool:
        """Return whether this worker's row is known to be gone, and its lease with it."""
        return self._lost

    def is_valid(self) -> bool:
        """Return whether no other worker can have taken over: this one was silent for a part of the grace only."""
        return not self._lost and _elapsed_s() - self._confirmed_s < GRACE_S / 2

    def release(self, item: str) -> None:
        """Give the lease on an item back."""
        self._tell(self._update(piece=None, epochs=None).where(_WORKERS.c.piece == item))

    def _tell(self, statement: sql.Update | sql.Delete) -> None:
        """Tell the server what it would find out by itself too, and wait for no answer: a stopped process must end."""

        def tell() -> None:
            with contextlib.suppress(SQLAlchemyError), self._row, self._engine.begin() as connection:
                connection.execute(statement)

        if not self._unanswered:
            self._unanswered = not run_with_timeout(tell, timeout_s=_COURTESY_S).done()

    def live_workers(self, *, on_wait: Callable[[Worker], None]) -> list[Worker]:
        told = False
        while True:
            self._look()
            rows = self._rows()
            dead = {row.worker for row in rows if self._is_dead(row)}
            if dead:
                with self._engine.begin() as connection:
                    connection.execute(sql.delete(_WORKERS).where(_WORKERS.c.worker.in_(dead)))
            left = [_worker(row) for row in rows if row.worker not in dead]
            if any(worker.silent_s < 1.5 * HEARTBEAT_S for worker in left) or not left:
                return left
            if not told:
                told = True
                on_wait(left[0])
            time.sleep(HEARTBEAT_S / 10)

    def workers(self) -> list[Worker]:
        return [_worker(row) for row in self._rows()]

    def _rows(self) -> Sequence[Row[Any]]:
        with self._engine.connect() as connection:
            return connection.execute(
                sql.select(_WORKERS, (_NOW_S - _WORKERS.c.beat_s).label("silent_s"))
                .where(_WORKERS.c.study == self._study)
                .order_by(_WORKERS.c.began_s)
            ).all()

    def close(self) -> None:
        self._over.set()
        if self._heartbeat is not None:
            self._heartbeat.join(0 if self._unanswered else _COURTESY_S)
        if self._worker is not None:
            self._tell(sql.delete(_WORKERS).where(_WORKERS.c.worker == self._worker))
        self._unregister()


class _DatabaseLease(Lease):
    """A lease as a worker's row, and beside it the lock of the item's folder, for processes of this machine alone.

    The folder's lock may be another's: a process that was stalled, and lost the lease, holds it until it comes back.
    """

    def __init__(self, leases: DatabaseLeases, item: str, lock: LeaseLock, taken_ms: int) -> None:
        super().__init__(item, lock, taken_ms)
        self._leases = leases
        lock.acquire()

    def report_progress(self, epochs: int) -> None:
        self._leases.report_progress(self.item, epochs)

    def verify(self) -> None:
        self._leases.verify(self.item)

    def is_lost(self) -> bool:
        return self._leases.is_lost()

    def is_valid(self) -> bool:
        return self._leases.is_valid()

    def release(self) -> None:
        self._leases.release(self.item)
        super().release()


def _elapsed_s() -> float:
    """Return seconds on a clock that goes on while this machine sleeps, where it has one: the others did not sleep."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def _worker(row: Row[Any]) -> Worker:
    return Worker(host=row.host, pid=row.pid, item=row.piece, epochs=row.epochs, silent_s=row.silent_s)


def make_tables(engine: Engine) -> None:
    """Make the workers' table in a database that lacks it."""
    with engine.begin() as connection:
        _TABLES.create_all(connection)
