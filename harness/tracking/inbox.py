"""Messages from the search to the mirror's process: lines of JSON on its standard input."""

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
    """The messages of the search: folders with new events, requests, and the order to close.

    A thread reads them as they come: the search would block as soon as the pipe is full, and a store that does not
    answer can keep this process waiting for as long as it likes.

    Attributes:
        folders: Folders with new events, in the order of their first notice.
        requests: Requests that the search waits for.
        closing: Whether the search has ordered to close.
        abandoned: Whether the search ended without that order.
        grace_s: How long to retry a store that is away before giving up, at the end.
        last_message_at: When the latest message came (monotonic), however late it is handled.
    """

    def __init__(self) -> None:
        self.folders: dict[Path, None] = {}
        self.requests: list[dict[str, Any]] = []
        self.closing = False
        self.abandoned = False
        self.grace_s = _GRACE_WHEN_ABANDONED_S
        self.last_message_at = 0.0
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        rest = b""
        try:
            while content := os.read(sys.stdin.fileno(), 1 << 16):
                *lines, rest = (rest + content).split(b"\n")
                for line in lines:
                    self.last_message_at = time.monotonic()
                    self._lines.put(line)
        finally:
            self.last_message_at = time.monotonic()
            self._lines.put(b"")  # the end

    @property
    def over(self) -> bool:
        """Return whether no more messages will come."""
        return self.closing or self.abandoned

    def receive(self, timeout_s: float | None) -> None:
        """Handle the messages that have come; wait for the first up to ``timeout_s``, or for ever if it is ``None``."""
        try:
            self._handle(self._lines.get(timeout=timeout_s))
            while True:
                self._handle(self._lines.get_nowait())
        except queue.Empty:
            return

    def _handle(self, line: bytes) -> None:
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

    def receive_during(self, duration_s: float) -> None:
        """Handle messages for ``duration_s``; less if a request comes, or no more messages will."""
        ends_at = time.monotonic() + duration_s
        while not self.over and not self.requests and (left_s := ends_at - time.monotonic()) > 0:
            self.receive(left_s)
