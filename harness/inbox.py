"""What the mirror's process hears from its search: lines of JSON on its standard input."""

from __future__ import annotations

import json
import os
import selectors
import sys
import time
from pathlib import Path
from typing import Any

_GRACE_WHEN_ABANDONED_S = 60.0


class Inbox:
    """The search's words: folders with news, the wish to close, or silence for good when it is gone."""

    def __init__(self) -> None:
        self.folders: dict[Path, None] = {}  # in the order of their first news
        self.requests: list[dict[str, Any]] = []  # each of them is waited for
        self.closing = False
        self.abandoned = False
        self.grace_s = _GRACE_WHEN_ABANDONED_S
        self._rest = b""
        self._selector = selectors.DefaultSelector()
        os.set_blocking(sys.stdin.fileno(), False)
        self._selector.register(sys.stdin.fileno(), selectors.EVENT_READ)

    @property
    def over(self) -> bool:
        """Whether there will be no more to hear."""
        return self.closing or self.abandoned

    def listen(self, timeout_s: float | None) -> None:
        """Take in what has been said, waiting for it up to ``timeout_s``."""
        if self.abandoned:
            time.sleep(timeout_s or 0)
            return
        if not self._selector.select(timeout_s):
            return
        content = os.read(sys.stdin.fileno(), 1 << 20)
        self.abandoned = not content
        *lines, self._rest = (self._rest + content).split(b"\n")
        for line in lines:
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
