"""Texts of durations."""

from __future__ import annotations

import pytest

from harness.screen.formatting import duration_text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (59.4, "0:59"), (59.6, "1:00"), (3599, "59:59"), (3600, "1:00:00"), (90061, "25:01:01")],
)
def test_a_duration_has_hours_only_where_there_are_some(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text
