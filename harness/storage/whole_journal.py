"""Optuna's journal file, which a full disk or a kill can't make unreadable."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from io import FileIO
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.storages.journal._file import get_lock_file

from harness.content import end_of_last_line


class WholeJournal(JournalFileBackend):
    """A journal file that goes on after its last whole line, and whose lock goes with the process that held it.

    Optuna's own appends to whatever is there. Where the disk was full, or a process was killed in the middle of a line,
    the next one is written onto what is left of it, and the study can never be read again.

    Optuna's own lock is a link, which a process that is killed leaves behind: it is waited for half a minute, and for
    ever where it leads nowhere. Here the journal itself is locked first, which the kernel undoes. The link is made all
    the same, for Optuna's own processes heed it; one of this kind that is there already was left by the dead.

    Args:
        file_path: The file.
    """

    def __init__(self, file_path: str) -> None:
        path = Path(file_path).absolute()
        link = JournalFileSymlinkLock(str(path))
        # To the journal, whose changes tell who waits that the lock is in use; from its own folder, wherever that goes.
        self._target = link._lock_target_file = f".//{path.name}"
        self._link = Path(link._lock_file)
        super().__init__(file_path, link)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append lines: all, or none.

        Raises:
            OSError: If there is no room.
        """
        content = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        with open(self._file_path, "r+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if self._link.is_symlink() and os.readlink(self._link) == self._target:
                self._link.unlink(missing_ok=True)
            with get_lock_file(self._lock):
                self._append(file, content)

    def _append(self, file: FileIO, content: bytes) -> None:
        end = end_of_last_line(file.fileno())
        try:
            file.truncate(end)
            file.seek(end)
            if file.write(content) < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
        except OSError as error:
            file.truncate(end)
            raise OSError(error.errno, error.strerror, self._file_path) from error
