"""A word about what lasts: at once, and then once a minute."""

from __future__ import annotations

import time
from collections.abc import Callable

_EVERY_S = 60.0


class RateLimitedNotifier:
    """Says what lasts at once, and then once a minute, whatever reason stands behind it in brackets.

    Args:
        say: Called with a line of text.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self._said_s: dict[str, float] = {}

    def __call__(self, text: str) -> None:
        """Say it, unless it was said within the minute."""
        what, now_s = text.partition(" (")[0], time.monotonic()
        if now_s - self._said_s.get(what, -_EVERY_S) >= _EVERY_S:
            self._said_s[what] = now_s
            self.say(text)

    def end(self, text: str) -> None:
        """Say that it is over; what comes next is new."""
        self._said_s.clear()
        self.say(text)
