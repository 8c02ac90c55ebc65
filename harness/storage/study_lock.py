"""Locks of a study on this machine, which the kernel frees: in its folder, and beside its SQLite file."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from harness.core.addresses import sqlite_path
from harness.core.content import FolderLock
from harness.core.errors import HarnessError
from harness.settings import StudyPlaces


class SharedStudyLock(FolderLock):
    """Shows that a process works on a study, and in which runs folder.

    Searches of several runs folders may use one SQLite file, but leases are locked files of one runs folder. So a
    second lock, beside the SQLite file, allows one folder at a time. In PostgreSQL leases need no folder.

    Args:
        settings: Name the study, its storage and the runs folder.
    """

    def __init__(self, settings: StudyPlaces) -> None:
        super().__init__(settings.study_dir, shared=True)
        self._settings = settings
        self._storage_lock: int | None = None

    def acquire(self) -> bool:
        """Take the lock, unless another process has the exclusive one; return whether it is held now.

        Raises:
            HarnessError: If the study is worked on in another runs folder.
        """
        if not super().acquire():
            return False
        path = _storage_lock_path(self._settings)
        if path is None or self._storage_lock is not None:
            return True
        folder = str(self._settings.study_dir.resolve())
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            owner = _lock_for_folder(descriptor, folder)
            if owner == folder:
                self._storage_lock = descriptor
                return True
        finally:
            if self._storage_lock is None:
                os.close(descriptor)
                self.release()
        if owner is None:
            return False
        raise HarnessError(
            f"study {self._settings.study!r} is being worked on in {owner}, so it can't be in {folder} at the same "
            "time; use the same --runs-dir, or another --study."
        )

    def release(self) -> None:
        super().release()
        if self._storage_lock is not None:
            os.close(self._storage_lock)
            self._storage_lock = None


class ExclusiveStudyLock:
    """Keeps all processes of this machine out of a study on which none works.

    Args:
        settings: Name the study, its storage and the runs folder.
    """

    def __init__(self, settings: StudyPlaces) -> None:
        path = _storage_lock_path(settings)
        self._locks = [FolderLock(settings.study_dir)]
        if path is not None:
            self._locks.append(FolderLock(path.parent, name=path.name))

    def acquire(self) -> bool:
        """Keep all processes out; return whether none is at work."""
        return all(lock.acquire() for lock in self._locks)

    def release(self) -> None:
        """Let them in again."""
        for lock in self._locks:
            lock.release()


def _lock_for_folder(descriptor: int, folder: str) -> str | None:
    """Lock a storage's file for a runs folder, and return the folder that has it; ``None`` if that just changes."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pass
    else:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, os.fsencode(folder), 0)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # another may be quicker, and write its own folder
    except BlockingIOError:
        return None
    owner = os.fsdecode(os.pread(descriptor, 1 << 16, 0))
    if owner != folder:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return None  # the owner has released it meanwhile
    return owner


def _storage_lock_path(settings: StudyPlaces) -> Path | None:
    file = sqlite_path(settings.storage)
    return None if file is None else file.resolve().with_name(f".{file.name}.{settings.study}.lock")
