"""Who works on what, in PostgreSQL: workers may be anywhere, and each has a row that says what it is at, and beats.

One that is dead or silent loses its row, and what it worked on is free; if it was only stalled, it finds that out when
it comes back, and yields.
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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from sqlalchemy.engine import Engine, Row
from sqlalchemy.exc import SQLAlchemyError

from harness.core.content import FolderLock
from harness.core.errors import OWN_THREADS, LeaseLost, end_if_told
from harness.storage.database_locks import locked
from harness.storage.leases import BEAT_S, GRACE_S, Check, FolderLeases, Lease, Leases, Worker, lease_of
from harness.storage.retry import within

_FORGOTTEN_S = 3600.0  # after which nobody is told of a worker any more
_LAST_WORD_S = 0.7  # for a server to answer what is only a courtesy
_STALLED_S = 120.0  # in the middle of what takes a moment, after which others wait no more


_TABLES = sql.MetaData()
_WORKERS = sql.Table(
    "kd_workers",
    _TABLES,
    sql.Column("worker", sql.String(32), primary_key=True),
    sql.Column("study", sql.String(32), nullable=False),
    sql.Column("host", sql.Text, nullable=False),
    sql.Column("pid", sql.Integer, nullable=False),
    sql.Column("folder", sql.Text, nullable=False),  # where its lease says on its own host whether it lives
    sql.Column("began_s", sql.Double, nullable=False),  # by the server's clock, as all times are
    sql.Column("beat_s", sql.Double, nullable=False),
    sql.Column("piece", sql.String(200)),
    sql.Column("epochs", sql.Integer),
    sql.UniqueConstraint("study", "piece"),
)
_NOW_S: sql.ColumnElement[float] = sql.func.extract("epoch", sql.func.clock_timestamp()).cast(sql.Double)


def leases_of(engine: Engine | None, study: str, folder: Path, see_that_it_is_here: Callable[[], None]) -> Leases:
    """Return who works on what in a study.

    Args:
        engine: Of the server that the study is on; ``None`` if it is in a file.
        study: Its id.
        folder: Its folder.
        see_that_it_is_here: Raises an error if the study is here no more.
    """
    if engine is None:
        return FolderLeases(folder, see_that_it_is_here)
    return DatabaseLeases(engine, study, folder, see_that_it_is_here)


class DatabaseLeases:
    """Leases as rows of the study's database; the worker that this process is has one as soon as it looks for work.

    Args:
        engine: Of the database.
        study: The study's id.
        folder: Its folder.
        see_that_it_is_here: Raises an error if the study is here no more. Asked once for each row: a study is moved
            when nobody has one.
    """

    def __init__(
        self, engine: Engine, study: str, folder: Path, see_that_it_is_here: Callable[[], None] = lambda: None
    ) -> None:
        self._engine = engine
        self._study = study
        self._folder = folder
        self._see_that_it_is_here = see_that_it_is_here
        self._host = socket.gethostname()
        self._worker: str | None = None
        self._alive: FolderLock | None = None
        self._epochs: int | None = None
        self._lost = False  # the row is gone: another worker has what this one had
        self._mute = False  # the server did not answer when it was last told something
        self._confirmed_s = 0.0
        self._failed_s = -math.inf  # when the server last gave no answer to a beat
        self._silent: dict[str, tuple[float, float]] = {}  # each silent worker's last beat, and since when it is seen
        self._looked_s = 0.0
        self._row = threading.Lock()  # the heart must not beat for a row that is being written
        self._over = threading.Event()
        self._heart: threading.Thread | None = None

    def exclusive(
        self, what: str, *, on_wait: Callable[[], None] = lambda: None, briefly: bool = False
    ) -> contextlib.AbstractContextManager[Check]:
        return locked(self._engine, f"{self._study} {what}", on_wait=on_wait, stalled_s=_STALLED_S if briefly else 0)

    def take(self, pieces: Sequence[str]) -> tuple[str, Lease] | None:
        with self._row:
            self._enter()
            if not pieces:
                return None
            with self._engine.begin() as connection:
                holders = {
                    row.piece: row
                    for row in connection.execute(
                        sql.select(_WORKERS).where(_WORKERS.c.study == self._study, _WORKERS.c.piece.in_(pieces))
                    )
                }
                free = (piece for piece in pieces if piece not in holders or self._is_free(holders[piece]))
                piece = next(free, None)
                if piece is None:
                    return None
                holder = holders.get(piece)
                if holder is not None and holder.worker != self._worker:
                    connection.execute(sql.delete(_WORKERS).where(_WORKERS.c.worker == holder.worker))
                self._epochs = None
                mine = _WORKERS.c.worker == self._worker
                values = {"piece": piece, "epochs": None, "beat_s": _NOW_S}
                taken = sql.update(_WORKERS).where(mine).values(values).returning(_WORKERS.c.beat_s)
                at_s = connection.execute(taken).scalar_one_or_none()
                if at_s is None:
                    self._lost = True  # between its entry and now: it enters anew when it asks again
                    return None
            self._confirmed_s = _elapsed_s()
        if holder is not None and holder.worker != self._worker and self._is_of_this_host(holder):
            shutil.rmtree(self._folder_of(holder.worker), ignore_errors=True)
        return piece, _DatabaseLease(self, piece, lease_of(self._folder / piece), round(at_s * 1000))

    def _enter(self) -> None:
        """Get a row, unless there is one that is this worker's still."""
        if self._worker is not None and not self._lost:
            return
        self._leave()
        self._see_that_it_is_here()
        worker = uuid.uuid4().hex
        self._alive = lease_of(self._folder_of(worker))
        self._alive.acquire()
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
        self._over.clear()  # a heart that was asked to end, and has not yet, goes on
        if self._heart is None or not self._heart.is_alive():
            self._heart = threading.Thread(target=self._live, name=f"{OWN_THREADS}heartbeat", daemon=True)
            self._heart.start()

    def _leave(self) -> None:
        if self._alive is not None:
            self._alive.release()
            shutil.rmtree(self._folder_of(str(self._worker)), ignore_errors=True)
        self._worker = self._alive = None

    def _folder_of(self, worker: str) -> Path:
        return self._folder.resolve() / "workers" / worker

    def _is_of_this_host(self, row: Row[Any]) -> bool:
        """Return whether a worker's lease can be asked here. What the database says leads out of no folder."""
        named = re.fullmatch("[0-9a-f]{32}", row.worker) is not None
        return named and row.host == self._host and row.folder == str(self._folder_of(row.worker))

    def _is_free(self, row: Row[Any]) -> bool:
        """Return whether what a worker has is free: it is this one's own, or the worker is dead."""
        if row.worker == self._worker:
            return True  # taken before, but the answer was lost
        if self._is_of_this_host(row):
            lease = FolderLock(self._folder_of(row.worker))
            with contextlib.suppress(FileNotFoundError):  # it leaves just now
                free = lease.acquire()
                lease.release()
                if free:
                    return True
        # A clock alone would take all for dead after an outage, when nobody has had a chance to beat yet: silence
        # counts from when this worker itself heard nothing, though the server answered.
        beat, since_s = self._silent.get(row.worker, (None, 0.0))
        return bool(beat == row.beat_s and time.monotonic() - since_s > GRACE_S)

    def _live(self) -> None:
        while not self._over.wait(BEAT_S):
            with contextlib.suppress(SQLAlchemyError):  # away: this worker falls silent
                self._beat()
                self._look()

    def _beat(self) -> str | None:
        """Give a sign of life, and see whether this worker is still known; the piece that it has by the server."""
        with self._row:
            at_s = _elapsed_s()
            try:
                with self._engine.begin() as connection:
                    mine = _WORKERS.c.worker == self._worker
                    values = {"beat_s": _NOW_S, "epochs": self._epochs}
                    beat = sql.update(_WORKERS).where(mine).values(values).returning(_WORKERS.c.piece)
                    known = connection.execute(beat).one_or_none()
            except SQLAlchemyError:
                self._failed_s = _elapsed_s()
                raise
            self._mute = False
            if known is None:
                self._lost = True
                return None
            self._confirmed_s = at_s
            has: str | None = known.piece
            return has

    def _look(self) -> None:
        """Note which workers are silent, and since when. Seldom any are, so this asks for little."""
        now_s = time.monotonic()
        with self._engine.begin() as connection:
            here = _WORKERS.c.study == self._study
            connection.execute(sql.delete(_WORKERS).where(here, _WORKERS.c.beat_s < _NOW_S - _FORGOTTEN_S))
            rows = connection.execute(
                sql.select(_WORKERS.c.worker, _WORKERS.c.beat_s).where(here, _WORKERS.c.beat_s < _NOW_S - 1.5 * BEAT_S)
            ).all()
        # Whoever did not look for a while, asleep or cut off, can't tell what it missed.
        known = self._silent if now_s - self._looked_s < 3 * BEAT_S else {}
        self._silent = {
            worker: known[worker] if worker in known and known[worker][0] == beat_s else (beat_s, now_s)
            for worker, beat_s in rows
        }
        self._looked_s = now_s

    def confirm(self, piece: str, epochs: int) -> None:
        """Check that this worker still has a piece, as far as it is known.

        Raises:
            LeaseLost: If it has not.
        """
        self._epochs = epochs
        now_s = _elapsed_s()
        # Where the server gave no answer, the heart goes on to ask; what is trained on meanwhile is what anybody else
        # would train. Where it was not even asked for so long, this process was stalled: then it is asked first.
        stalled = now_s - self._confirmed_s > GRACE_S / 2 and now_s - self._failed_s > GRACE_S / 2
        if self._lost or stalled:
            with contextlib.suppress(SQLAlchemyError):
                self.verify(piece)

    def verify(self, piece: str) -> None:
        """As ``confirm``, but certain.

        Raises:
            LeaseLost: If this worker has it no more.
            SQLAlchemyError: If the server does not answer.
        """
        has = None
        if not self._lost:
            try:
                has = self._beat()
            except SQLAlchemyError:
                end_if_told()
                raise
        if has != piece:  # or no more: a word that gave it back may have been late
            raise LeaseLost(f"{piece} was taken over while this worker was silent")

    def is_lost(self) -> bool:
        """Return whether this worker is known to have lost what it had."""
        return self._lost

    def is_valid(self) -> bool:
        """Return whether nobody can have taken what this worker has: it was silent for a part of the grace only."""
        return not self._lost and _elapsed_s() - self._confirmed_s < GRACE_S / 2

    def release(self, piece: str) -> None:
        """Work on a piece no more."""
        mine = (_WORKERS.c.worker == self._worker, _WORKERS.c.piece == piece)
        self._say_in_time(sql.update(_WORKERS).where(*mine).values(piece=None, epochs=None))

    def _say_in_time(self, words: sql.Update | sql.Delete) -> None:
        """Tell the server what it finds out by itself too, if it does not answer: whoever was told to stop must end."""

        def say() -> None:
            with contextlib.suppress(SQLAlchemyError), self._row, self._engine.begin() as connection:
                connection.execute(words)

        if not self._mute:
            self._mute = within(_LAST_WORD_S, say) is None

    def living(self, *, on_wait: Callable[[Worker], None]) -> list[Worker]:
        told = False
        while True:
            self._look()
            rows = self._rows()
            free = {row.worker for row in rows if self._is_free(row)}
            if free:
                with self._engine.begin() as connection:
                    connection.execute(sql.delete(_WORKERS).where(_WORKERS.c.worker.in_(free)))
            left = [_worker(row) for row in rows if row.worker not in free]
            if any(worker.silent_s < 1.5 * BEAT_S for worker in left) or not left:
                return left
            if not told:
                told = True
                on_wait(left[0])
            time.sleep(BEAT_S / 10)

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
        if self._heart is not None:
            self._heart.join(0 if self._mute else _LAST_WORD_S)
        if self._worker is not None:
            self._say_in_time(sql.delete(_WORKERS).where(_WORKERS.c.worker == self._worker))
        self._leave()
        if self._heart is None or not self._heart.is_alive():
            self._heart = None
            self._over.clear()


def _elapsed_s() -> float:
    """Return seconds on a clock that goes on while this machine sleeps, where it has one: the others did not sleep."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def _worker(row: Row[Any]) -> Worker:
    return Worker(host=row.host, pid=row.pid, piece=row.piece, epochs=row.epochs, silent_s=row.silent_s)


class _DatabaseLease:
    """A piece, and beside its row a lease of its folder, for whoever asks on this machine alone.

    The lease may be another's: a process that was stalled, and lost the piece, holds it until it comes back.
    """

    def __init__(self, claims: DatabaseLeases, piece: str, lease: FolderLock, taken_ms: int) -> None:
        self.taken_ms = taken_ms
        self._claims = claims
        self._piece = piece
        self._lease = lease
        self._lease.acquire()

    def confirm(self, epochs: int) -> None:
        self._claims.confirm(self._piece, epochs)

    def verify(self) -> None:
        self._claims.verify(self._piece)

    def is_lost(self) -> bool:
        return self._claims.is_lost()

    def is_valid(self) -> bool:
        return self._claims.is_valid()

    def release(self) -> None:
        self._claims.release(self._piece)
        self._lease.release()


def make_tables(engine: Engine) -> None:
    """Make what claims need in a database; what is there stays."""
    with engine.begin() as connection:
        _TABLES.create_all(connection)
