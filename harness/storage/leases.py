"""Leases: each trial, or student that is retrained, is one living worker's at a time.

On one machine a lease is a locked file in the runs folder, which all workers share: the kernel frees the lock however
a worker ends. Studies in PostgreSQL, whose workers may be on many machines: ``harness.storage.database_leases``.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.core.content import LeaseLock, exclusive

HEARTBEAT_S = 10.0
"""Interval between a worker's heartbeats."""
GRACE_S = 40.0
"""Silence, while others listened, after which a worker that is stalled or cut off loses its lease to a takeover."""

VerifyLock = Callable[[], None]
"""Raises an error if a lock was lost while its holder was cut off or stalled: to be called before a write."""


class Lease:
    """A worker's exclusive right to a work item, as a locked file: nobody takes over from a process that lives.

    Attributes:
        item: Name of the work item, which is that of its folder within the study's.
        taken_ms: When the lease was acquired, by the one clock that all see who may acquire it.
    """

    def __init__(self, item: str, lock: LeaseLock, taken_ms: int) -> None:
        self.item = item
        self.taken_ms = taken_ms
        self._lock = lock

    def report_progress(self, epochs: int) -> None:
        """Note how many epochs are done, for the next heartbeat; check the lease as far as its state is known here.

        Raises:
            LeaseLost: If another worker has taken over.
        """

    def verify(self) -> None:
        """Check with the server that the lease is still this worker's: fencing, before a result is stored.

        Raises:
            LeaseLost: If another worker has taken over.
            SQLAlchemyError: If the server does not answer.
        """

    def is_valid(self) -> bool:
        """Return whether no other worker can have taken over yet."""
        return True

    def is_lost(self) -> bool:
        """Return whether another worker is known to have taken over."""
        return False

    def release(self) -> None:
        """Give the lease back."""
        self._lock.release()


class Leases:
    """The leases of one study, as locked files: for workers of one machine.

    Args:
        folder: The study's folder; a work item is a folder in it.
        check_not_moved: Raises an error if the study was moved to another storage.
    """

    def __init__(self, folder: Path, check_not_moved: Callable[[], None] = lambda: None) -> None:
        self._folder = folder
        self._check_not_moved = check_not_moved

    @contextlib.contextmanager
    def exclusive(
        self, what: str, *, on_wait: Callable[[], None] = lambda: None, briefly: bool = False
    ) -> Iterator[VerifyLock]:
        """Keep all other workers of the study out meanwhile.

        Args:
            what: Names the lock.
            on_wait: Called if another worker must be waited for.
            briefly: Whether the lock is held for a moment at most; a server ends the lock of a worker that stalls then.

        Yields:
            What raises an error if the lock was lost.
        """
        with exclusive(self._folder / f"{what}.lock", on_wait=on_wait, briefly=briefly):
            yield lambda: None

    def acquire(self, items: Sequence[str]) -> Lease | None:
        """Acquire a lease on the first of some work items that no living worker has. To be called in ``exclusive``.

        Raises:
            HarnessError: If the study was moved.
        """
        self._check_not_moved()
        for item in items:
            lock = made_lock(self._folder / item)
            if lock.acquire():
                return Lease(item, lock, time.time_ns() // 1_000_000)
        return None

    def live_workers(self, *, on_wait: Callable[[Worker], None]) -> list[Worker]:
        """Return the workers of other processes that are alive, and forget the others. To be called in ``exclusive``.

        Args:
            on_wait: Told of a silent worker whose next heartbeat is waited for.
        """
        return []  # on one machine, the study's lock tells

    def workers(self) -> list[Worker]:
        """Return the known workers."""
        return []

    def close(self) -> None:
        """Remove this process from the workers."""


@dataclass(frozen=True, kw_only=True)
class Worker:
    """A worker, as others see it.

    Attributes:
        host: Its machine.
        pid: Its process there.
        item: The work item that it has a lease on, or ``None``.
        epochs: How many epochs of the item are done.
        silent_s: Seconds since its last heartbeat.
    """

    host: str
    pid: int
    item: str | None
    epochs: int | None
    silent_s: float

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    @property
    def is_silent(self) -> bool:
        """Return whether its last heartbeat is so old that others may take over."""
        return self.silent_s > GRACE_S


def made_lock(folder: Path) -> LeaseLock:
    """Return the lock of a folder, which is made where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    return LeaseLock(folder)
