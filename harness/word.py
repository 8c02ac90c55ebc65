"""A word about what lasts: at once, and then once a minute."""

from __future__ import annotations

import time
from collections.abc import Callable

_EVERY_S = 60.0


class Word:
    """A word about what lasts: said at once, and then once a minute.

    Args:
        say: Called with a line of text.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self._last_s = -_EVERY_S

    def __call__(self, text: str) -> None:
        """Say it, unless it was said within the minute."""
        if time.monotonic() - self._last_s >= _EVERY_S:
            self._last_s = time.monotonic()
            self.say(text)

    def end(self, text: str) -> None:
        """Say that it is over; what comes next is new."""
        self._last_s = -_EVERY_S
        self.say(text)
