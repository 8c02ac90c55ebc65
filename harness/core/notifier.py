"""Messages about a lasting condition, limited to one a minute."""

from __future__ import annotations

import time
from collections.abc import Callable

_EVERY_S = 60.0


class RateLimitedNotifier:
    """Says a message at once, and repeats it at most once a minute; messages that differ in brackets are the same.

    Args:
        say: Called with a line of text.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self._said_s: dict[str, float] = {}

    def __call__(self, text: str) -> None:
        """Say a message, unless it was said within the last minute."""
        what, now_s = text.partition(" (")[0], time.monotonic()
        if now_s - self._said_s.get(what, -_EVERY_S) >= _EVERY_S:
            self._said_s[what] = now_s
            self.say(text)

    def end(self, text: str) -> None:
        """Say that all conditions are over; the next message is said at once."""
        self._said_s.clear()
        self.say(text)
