"""A table in lines: which columns give way, and what stands below a row."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from harness.screen.table import Column, Row, build_table
from harness.screen.terminal import Terminal

COLUMNS = [
    Column("trial"),
    Column("accuracy"),
    Column("faster", omit_rank=2),
    Column("agrees", omit_rank=1),
    Column("width", folds=True),
    Column("pick", is_text=True),
]
ROWS = [
    Row(["3", "0.9861", "2.0x", "0.98", "12", "small"]),
    Row(["teacher", "0.99", "", "", "", ""], stands_apart=True),
]


def printed(columns: list[Column], rows: list[Row], width: int) -> tuple[list[str], list[str]]:
    """The lines of a table on a terminal of a width, and the columns that it omits."""
    written = StringIO()
    table, omitted = build_table(columns, rows, width)
    Terminal(Console(file=written, width=width)).show(table)
    return written.getvalue().splitlines(), omitted


def test_where_there_is_room_all_columns_stand_two_blanks_apart() -> None:
    lines, omitted = printed(COLUMNS, ROWS, 80)
    assert omitted == []
    assert lines == [
        "   trial  accuracy  faster  agrees  width  pick",
        "─" * 48,
        "       3    0.9861    2.0x    0.98     12  small",
        "",
        " teacher      0.99",
    ]


@pytest.mark.parametrize(
    ("width", "heading", "omitted"),
    [
        (48, "   trial  accuracy  faster  agrees  width  pick", []),
        (47, "   trial  accuracy  agrees  width  pick", ["faster"]),
        (39, "   trial  accuracy  width  pick", ["faster", "agrees"]),
        (31, "  trial accuracy width pick", ["faster", "agrees"]),
        (27, "   trial  accuracy  pick", ["faster", "agrees"]),
        (24, "  trial accuracy pick", ["faster", "agrees"]),
    ],
)
def test_columns_give_way_in_their_order_then_blanks_and_at_last_some_fold(
    width: int, heading: str, omitted: list[str]
) -> None:
    lines, missing = printed(COLUMNS, ROWS, width)
    assert (lines[0], missing) == (heading, omitted)
    assert max(map(len, lines)) <= width
    assert ("        width 12" in lines) == ("width" not in heading)


def test_where_nothing_fits_lines_are_longer_than_the_terminal_and_no_cell_is_cut() -> None:
    lines, _ = printed(COLUMNS, ROWS, 10)
    assert lines[0] == "  trial accuracy pick" and lines[2] == "      3   0.9861 small"


def test_what_stands_below_a_row_is_broken_between_its_items() -> None:
    rows = [Row(["1"], below=["method hint", "hint_weight 11.3", "a_word_longer_than_the_line 0.5"])]
    lines, _ = printed([Column("trial")], rows, 30)
    assert lines[2:] == [
        "     1",
        "        method hint,",
        "        hint_weight 11.3,",
        "        a_word_longer_than_the_line",
        "        0.5",
    ]


def test_rows_have_their_style_and_what_stands_below_them_is_dim() -> None:
    written = StringIO()
    console = Console(file=written, width=80, force_terminal=True, color_system="standard")
    table, _ = build_table([Column("trial")], [Row(["1"], below=["method hint"], style="bold")], 80)
    Terminal(console).show(table)
    row, below = written.getvalue().splitlines()[2:]
    assert "\x1b[1m" in row and "\x1b[2m" in below
