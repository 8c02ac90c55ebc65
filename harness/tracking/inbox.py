"""What the mirror's process hears from its search: lines of JSON on its standard input."""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from pathlib import Path
from typing import Any

_GRACE_WHEN_ABANDONED_S = 60.0


class Inbox:
    """The search's words: folders with news, the wish to close, or silence for good when it is gone.

    They are read as they come, by a thread: a search whose words nobody takes would stand still when the pipe is full,
    and a store that does not answer keeps this process waiting for as long as it likes.
    """

    def __init__(self) -> None:
        self.folders: dict[Path, None] = {}  # in the order of their first news
        self.requests: list[dict[str, Any]] = []  # each of them is waited for
        self.closing = False
        self.abandoned = False
        self.grace_s = _GRACE_WHEN_ABANDONED_S
        self.ended_at = 0.0  # when the last word came, however late it is taken in
        self._heard: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        rest = b""
        try:
            while content := os.read(sys.stdin.fileno(), 1 << 16):
                *lines, rest = (rest + content).split(b"\n")
                for line in lines:
                    self.ended_at = time.monotonic()
                    self._heard.put(line)
        finally:
            self.ended_at = time.monotonic()
            self._heard.put(b"")  # the end

    @property
    def over(self) -> bool:
        """Return whether there will be no more to hear."""
        return self.closing or self.abandoned

    def listen(self, timeout_s: float | None) -> None:
        """Take in what has been said, waiting for it up to ``timeout_s``; ``None`` waits for as long as it takes."""
        try:
            self._take_in(self._heard.get(timeout=timeout_s))
            while True:
                self._take_in(self._heard.get_nowait())
        except queue.Empty:
            return

    def _take_in(self, line: bytes) -> None:
        if not line:
            self.abandoned = True
            return
        message = json.loads(line)
        if "request" in message:
            self.requests.append(message)
        elif "folder" in message:
            self.folders[Path(message["folder"])] = None
        if "close" in message:
            self.closing, self.grace_s = True, message["grace_s"]

    def gather(self, duration_s: float) -> None:
        """Listen for ``duration_s``, or until something is waited for, or there will be no more to hear."""
        ends_at = time.monotonic() + duration_s
        while not self.over and not self.requests and (left_s := ends_at - time.monotonic()) > 0:
            self.listen(left_s)
