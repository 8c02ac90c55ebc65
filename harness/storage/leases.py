"""Who works on what: each trial, or student that is trained anew, is one living worker's at a time.

A locked file in the runs folder says so, which all share, on one machine: the kernel frees it however the worker ends.
Where the study is in PostgreSQL, and workers may be anywhere, see ``harness.storage.database_leases``.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from harness.core.content import FolderLock, exclusive

BEAT_S = 10.0
GRACE_S = 40.0
"""Silence, listened for, after which a worker on another machine, or one that is stalled, loses what it works on."""

Check = Callable[[], None]


class Lease(Protocol):
    """A piece that is this worker's alone.

    Attributes:
        taken_ms: Since when, by the one clock that all see who may take it.
    """

    taken_ms: int

    def confirm(self, epochs: int) -> None:
        """Check that it still is, after so many epochs.

        Raises:
            LeaseLost: If another worker has it now.
        """

    def is_lost(self) -> bool:
        """Return whether it is known to be another worker's."""

    def is_valid(self) -> bool:
        """Return whether it can't be another worker's yet."""

    def verify(self) -> None:
        """Check that it still is, for certain.

        Raises:
            LeaseLost: If another worker has it now.
            SQLAlchemyError: If nobody can tell.
        """

    def release(self) -> None:
        """Give it back."""


class Leases(Protocol):
    """What the workers of one study work on."""

    def exclusive(
        self, what: str, *, on_wait: Callable[[], None] = lambda: None, briefly: bool = False
    ) -> contextlib.AbstractContextManager[Check]:
        """Keep all other workers of the study out meanwhile; ``on_wait`` is called if one must be waited for.

        What it gives raises an error if they are kept out no more, for the server was away; or, where it was to be
        ``briefly``, for this worker was stalled.
        """

    def take(self, pieces: Sequence[str]) -> tuple[str, Lease] | None:
        """Take the first of some pieces, known by their folders' names, that no living worker has. In ``exclusive``.

        Raises:
            HarnessError: If the study is here no more.
        """

    def living(self, *, on_wait: Callable[[Worker], None]) -> list[Worker]:
        """Return those that are at work, once it is known of each; the others are forgotten. In ``exclusive``.

        Args:
            on_wait: Told of one that is silent and is listened for.
        """

    def workers(self) -> list[Worker]:
        """Return those that are at work, as far as it is known."""

    def close(self) -> None:
        """Work no more."""


@dataclass(frozen=True, kw_only=True)
class Worker:
    """A worker, as others see it.

    Attributes:
        host: Its machine.
        pid: Its process there.
        piece: What it works on, or ``None``.
        epochs: How many epochs of it are done.
        silent_s: Seconds since it gave a sign of life.
    """

    host: str
    pid: int
    piece: str | None
    epochs: int | None
    silent_s: float

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    @property
    def is_silent(self) -> bool:
        """Return whether it has not given a sign of life for so long that others may take over."""
        return self.silent_s > GRACE_S


class FolderLeases:
    """Leases as leases of folders.

    Args:
        folder: The study's folder; a piece is a folder in it.
        see_that_it_is_here: Raises an error if the study is here no more.
    """

    def __init__(self, folder: Path, see_that_it_is_here: Callable[[], None] = lambda: None) -> None:
        self._folder = folder
        self._see_that_it_is_here = see_that_it_is_here

    @contextlib.contextmanager
    def exclusive(
        self, what: str, *, on_wait: Callable[[], None] = lambda: None, briefly: bool = False
    ) -> Iterator[Check]:
        with exclusive(self._folder / f"{what}.lock", on_wait=on_wait, briefly=briefly):
            yield lambda: None

    def take(self, pieces: Sequence[str]) -> tuple[str, Lease] | None:
        self._see_that_it_is_here()
        for piece in pieces:
            lease = lease_of(self._folder / piece)
            if lease.acquire():
                return piece, _FolderLease(lease)
        return None

    def living(self, *, on_wait: Callable[[Worker], None]) -> list[Worker]:
        return []  # a lease says it

    def workers(self) -> list[Worker]:
        return []

    def close(self) -> None:
        pass


class _FolderLease:
    def __init__(self, lease: FolderLock) -> None:
        self.taken_ms = time.time_ns() // 1_000_000
        self._lease = lease

    def confirm(self, epochs: int) -> None:
        pass  # nobody takes over from a process that holds a lease

    def verify(self) -> None:
        pass

    def is_lost(self) -> bool:
        return False

    def is_valid(self) -> bool:
        return True

    def release(self) -> None:
        self._lease.release()


def lease_of(folder: Path) -> FolderLock:
    """Return the lease of a folder, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    return FolderLock(folder)
