"""Tables that fit the terminal: no cell is cut; columns give way, and what a row has no room for stands below it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rich.box import Box
from rich.cells import cell_len
from rich.console import Group, JustifyMethod, RenderableType
from rich.table import Table
from rich.text import Text

_INDENT = " " * 8  # of the text below a row
_RULE_BELOW_HEADINGS = Box("    \n    \n────\n    \n    \n    \n    \n    \n")


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        title: Its heading.
        is_text: Whether it is aligned to the left, as words are; numbers are aligned to the right.
        omit_rank: Above 0 if it can be omitted on a narrow terminal; the highest rank is omitted first.
        folds: Whether its cells can go below the rows, if omitting columns is not enough.
    """

    title: str
    is_text: bool = False
    omit_rank: int = 0
    folds: bool = False


@dataclass(frozen=True)
class Row:
    """A row.

    Attributes:
        cells: One for each column; an empty one is left out below the row.
        below: Items that stand below it, joined by commas.
        style: Style of the row, as rich names it.
        stands_apart: Whether a blank line comes before it.
    """

    cells: Sequence[str]
    below: Sequence[str] = ()
    style: str | None = None
    stands_apart: bool = False


class _Layout(NamedTuple):
    """Which columns are shown, go below the rows, and are omitted, by position; sizes and gap in characters."""

    shown: list[int]
    folded: list[int]
    omitted: list[int]
    sizes: list[int]
    gap: int

    @property
    def width(self) -> int:
        return sum(self.sizes) + self.gap * len(self.sizes) - 1


def build_table(columns: Sequence[Column], rows: Sequence[Row], width: int) -> tuple[Group, list[str]]:
    """Return a table, and the titles of the columns that were omitted.

    Columns stand two blanks apart. If that is too wide, columns are omitted by their rank; then all others stand one
    blank apart; then those that fold go below each row.

    Args:
        columns: All columns.
        rows: Rows of as many cells each.
        width: Width of the terminal, in characters.
    """
    layout = _choose_layout(columns, rows, width)
    parts: list[RenderableType] = []
    table = _empty_table(columns, layout, show_header=True)
    for row in rows:
        if row.stands_apart:
            parts += [table, Text()]
            table = _empty_table(columns, layout)
        table.add_row(*(Text(row.cells[n]) for n in layout.shown), style=row.style)
        below = [*row.below, *(f"{columns[n].title} {row.cells[n]}" for n in layout.folded if row.cells[n])]
        if below:
            parts += [
                table,
                *(Text(line, style="dim", no_wrap=True, overflow="ignore") for line in _wrapped(below, width)),
            ]
            table = _empty_table(columns, layout)
    return Group(*parts, table), [columns[n].title for n in layout.omitted]


def _choose_layout(columns: Sequence[Column], rows: Sequence[Row], width: int) -> _Layout:
    """Return the first layout that fits; the narrowest one if none does."""
    by_rank = sorted((n for n, column in enumerate(columns) if column.omit_rank), key=lambda n: -columns[n].omit_rank)
    sizes = [max(cell_len(column.title), *(cell_len(row.cells[n]) for row in rows)) for n, column in enumerate(columns)]
    for folds, gap in ((False, 2), (False, 1), (True, 2), (True, 1)):
        for count in range(len(by_rank) + 1):
            omitted = by_rank[:count]
            folded = [n for n, column in enumerate(columns) if folds and column.folds]
            shown = [n for n in range(len(columns)) if n not in (*omitted, *folded)]
            layout = _Layout(shown, folded, omitted, [sizes[n] for n in shown], gap)
            if layout.width <= width:
                return layout
    return layout


def _empty_table(columns: Sequence[Column], layout: _Layout, *, show_header: bool = False) -> Table:
    table = Table(
        box=_RULE_BELOW_HEADINGS,
        show_edge=False,
        show_header=show_header,
        header_style="",
        padding=(0, 0, 0, layout.gap - 1),  # the box puts a blank between columns
        width=layout.width,
    )
    for n, size in zip(layout.shown, layout.sizes, strict=True):
        justify: JustifyMethod = "left" if columns[n].is_text else "right"
        table.add_column(Text(columns[n].title), width=size, justify=justify, no_wrap=True)
    return table


def _wrapped(items: Sequence[str], width: int) -> Iterator[str]:
    """Return items joined by commas, in lines that break between items, and within one only if it is too long."""
    size = max(width - len(_INDENT), 20)
    unbroken = ", ".join(item.replace(" ", "\xa0") for item in items)  # textwrap does not break there
    for line in _lines(unbroken, size):
        yield from (_INDENT + part for part in _lines(line.replace("\xa0", " "), size))


def _lines(text: str, size: int) -> list[str]:
    return textwrap.wrap(text, size, break_long_words=False, break_on_hyphens=False)
