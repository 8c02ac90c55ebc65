"""What the terminal does beside showing."""

from __future__ import annotations

import gc
import io

import pytest
from rich.console import Console

from harness.screen.terminal import Terminal


@pytest.mark.parametrize("fails", [False, True])
def test_garbage_is_looked_for_again_after_loading_but_not_in_what_was_loaded(fails: bool) -> None:
    terminal = Terminal(Console(file=io.StringIO()))
    gc.unfreeze()
    try:
        with terminal.loading("libraries"):
            assert not gc.isenabled()
            if fails:
                raise ImportError
    except ImportError:
        assert fails
    assert gc.isenabled()
    frozen = gc.get_freeze_count()
    gc.unfreeze()
    assert frozen > 1000
