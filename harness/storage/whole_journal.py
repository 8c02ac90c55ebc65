"""Optuna's journal file, which a full disk or a kill can't make unreadable."""

from __future__ import annotations

import errno
import json
import os
from typing import Any

from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import get_lock_file

from harness.content import end_of_last_line


class WholeJournal(JournalFileBackend):
    """A journal file that goes on after its last whole line.

    Optuna's own appends to whatever is there. Where the disk was full, or a process was killed in the middle of a line,
    the next one is written onto what is left of it, and the study can never be read again.
    """

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append lines: all, or none.

        Raises:
            OSError: If there is no room.
        """
        content = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        with get_lock_file(self._lock), open(self._file_path, "r+b", buffering=0) as file:
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
