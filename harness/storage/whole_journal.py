"""Optuna's journal file, which a full disk or a kill can't make unreadable."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.storages.journal._file import LOCK_FILE_SUFFIX, get_lock_file

from harness.content import end_of_last_line, exclusive


class WholeJournal(JournalFileBackend):
    """A journal file that goes on after its last whole line, and whose lock goes with the process that held it.

    Optuna's own appends to whatever is there. Where the disk was full, or a process was killed in the middle of a line,
    the next one is written onto what is left of it, and the study can never be read again.

    Optuna's own lock is a link, which a process that is killed leaves behind: it is waited for half a minute, and for
    ever where the journal's path is relative. Here a file that the kernel unlocks comes first. The link is made beside
    it, for Optuna's own processes heed it, and points to that file: one that is there already was left by the dead.

    Args:
        file_path: The file.
    """

    def __init__(self, file_path: str) -> None:
        path = Path(file_path).absolute()
        self._alone = path.with_name(f".{path.name}.append.lock")
        self._link = Path(f"{path}{LOCK_FILE_SUFFIX}")
        link = JournalFileSymlinkLock(str(path))
        link._lock_target_file = str(self._alone)
        super().__init__(file_path, link)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append lines: all, or none.

        Raises:
            OSError: If there is no room.
        """
        content = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        with exclusive(self._alone):
            if self._link.is_symlink() and os.readlink(self._link) == str(self._alone):
                self._link.unlink(missing_ok=True)
            with get_lock_file(self._lock):
                self._append(content)

    def _append(self, content: bytes) -> None:
        with open(self._file_path, "r+b", buffering=0) as file:
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
