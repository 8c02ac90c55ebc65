"""What a search says when it is told to stop before it has begun."""

from __future__ import annotations

import io
import signal

import pytest
from rich.console import Console

from harness.core.errors import Interrupted
from harness.screen.terminal import Terminal
from harness.session import _saying_if_stopped


def test_a_search_that_is_stopped_while_it_loads_says_so() -> None:
    text = io.StringIO()
    with pytest.raises(Interrupted), _saying_if_stopped(Terminal(Console(file=text, width=120))):
        raise Interrupted(signal.SIGINT)
    assert text.getvalue() == "stopped before the search began; nothing is lost, and the same command goes on.\n"
