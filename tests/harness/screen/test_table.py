"""A table in lines: which columns give way, and what stands below a row."""

from __future__ import annotations

import pytest

from harness.screen.table import Column, Row, table_lines

COLUMNS = [
    Column("trial"),
    Column("accuracy"),
    Column("faster", dispensable=2),
    Column("agrees", dispensable=1),
    Column("width", folds=True),
    Column("pick", is_text=True),
]
ROWS = [
    Row(["3", "0.9861", "2.0x", "0.98", "12", "small"]),
    Row(["teacher", "0.99", "", "", "", ""], stands_apart=True),
]


def table(width: int) -> tuple[list[str], list[str]]:
    lines, left_out = table_lines(COLUMNS, ROWS, width)
    return [line.text for line in lines], left_out


def test_where_there_is_room_all_columns_stand_two_blanks_apart() -> None:
    lines, left_out = table(80)
    assert left_out == []
    assert lines == [
        "   trial  accuracy  faster  agrees  width  pick",
        "─" * 48,
        "       3    0.9861    2.0x    0.98     12  small",
        "",
        " teacher      0.99",
    ]


@pytest.mark.parametrize(
    ("width", "heading", "left_out"),
    [
        (48, "   trial  accuracy  faster  agrees  width  pick", []),
        (47, "   trial  accuracy  agrees  width  pick", ["faster"]),
        (39, "   trial  accuracy  width  pick", ["faster", "agrees"]),
        (31, "   trial accuracy width pick", ["faster", "agrees"]),
        (28, "   trial  accuracy  pick", ["faster", "agrees"]),
    ],
)
def test_columns_give_way_in_their_order_then_blanks_and_at_last_some_fold(
    width: int, heading: str, left_out: list[str]
) -> None:
    lines, missing = table(width)
    assert (lines[0], missing) == (heading, left_out)
    assert max(map(len, lines)) <= width
    assert ("        width 12" in lines) == ("width" not in heading)


def test_what_stands_below_a_row_is_broken_between_its_items() -> None:
    rows = [Row(["1"], below=["method hint", "hint_weight 11.3", "a_word_longer_than_the_line 0.5"], style="bold")]
    lines, _ = table_lines([Column("trial")], rows, 30)
    assert [line.text for line in lines][2:] == [
        "     1",
        "        method hint,",
        "        hint_weight 11.3,",
        "        a_word_longer_than_the_line",
        "        0.5",
    ]
    assert [line.style for line in lines][2:] == ["bold", "dim", "dim", "dim", "dim"]
