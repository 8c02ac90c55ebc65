"""A few that stand for many."""

from __future__ import annotations

import pytest

from harness.sampling.subsampling import evenly_spaced


@pytest.mark.parametrize(
    ("most", "expected"),
    [(0, []), (1, [0]), (2, [0, 9]), (4, [0, 3, 6, 9]), (10, list(range(10))), (99, list(range(10)))],
)
def test_the_items_are_evenly_spaced(most: int, expected: list[int]) -> None:
    assert evenly_spaced(range(10), most) == expected
    assert evenly_spaced([], most) == []
