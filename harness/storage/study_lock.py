"""Whether anybody on this machine works on a study: leases that the kernel frees, in its folder and by its storage."""

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
    """Says that a process works on a study, and in which runs folder.

    Searches of several runs folders may reach one storage, but each sees in its own alone who is at what. So a second
    lease beside the SQLite file keeps to one folder at a time. PostgreSQL knows itself who is at what.

    Args:
        settings: Name the study, its storage and the runs folder.
    """

    def __init__(self, settings: StudyPlaces) -> None:
        super().__init__(settings.study_dir, shared=True)
        self._settings = settings
        self._beside: int | None = None

    def acquire(self) -> bool:
        """Take the lease, unless someone keeps all others out; whether it is held now.

        Raises:
            HarnessError: If the study is worked on in another runs folder.
        """
        if not super().acquire():
            return False
        path = _path_beside(self._settings)
        if path is None or self._beside is not None:
            return True
        here = str(self._settings.study_dir.resolve())
        beside = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            there = _settled(beside, here)
        except BaseException:
            os.close(beside)
            self.release()
            raise
        if there == here:
            self._beside = beside
            return True
        os.close(beside)
        self.release()
        if there is None:
            return False
        raise HarnessError(
            f"study {self._settings.study!r} is being worked on in {there}, so it can't be in {here} at the same time; "
            "use the same --runs-dir, or another --study."
        )

    def release(self) -> None:
        super().release()
        if self._beside is not None:
            os.close(self._beside)
            self._beside = None


class ExclusiveStudyLock:
    """Keeps all of this machine out of a study while it is held, if nobody is at work on it.

    Args:
        settings: Name the study, its storage and the runs folder.
    """

    def __init__(self, settings: StudyPlaces) -> None:
        path = _path_beside(settings)
        self._leases = [FolderLock(settings.study_dir)]
        if path is not None:
            self._leases.append(FolderLock(path.parent, name=path.name))

    def acquire(self) -> bool:
        """Keep all out; whether nobody is at work."""
        return all(lease.acquire() for lease in self._leases)

    def release(self) -> None:
        """Let them in again."""
        for lease in self._leases:
            lease.release()


def _settled(descriptor: int, here: str) -> str | None:
    """The folder that a study is worked on in, this one if nobody was before; ``None`` if that is not settled now."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pass
    else:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, os.fsencode(here), 0)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # another may be quicker, and say what its folder is
    except BlockingIOError:
        return None
    there = os.fsdecode(os.pread(descriptor, 1 << 16, 0))
    if there != here:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return None  # whoever was there has gone meanwhile
    return there


def _path_beside(settings: StudyPlaces) -> Path | None:
    file = sqlite_path(settings.storage)
    return None if file is None else file.resolve().with_name(f".{file.name}.{settings.study}.lock")
