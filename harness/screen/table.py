"""A table in lines that fit the terminal: a cell is never cut, and what a row has no room for stands below it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rich.cells import cell_len

_INDENT = " " * 8  # of what stands below a row


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        title: What stands above it.
        is_text: Whether it begins on the left, as words do; numbers end on the right.
        dispensable: Above 0 where it can be left out if the terminal is too narrow: the highest goes first.
        folds: Whether it can stand below each row, by its title, where leaving others out is not enough.
    """

    title: str
    is_text: bool = False
    dispensable: int = 0
    folds: bool = False


@dataclass(frozen=True)
class Row:
    """A row.

    Attributes:
        cells: One for each column; an empty one says nothing.
        below: What stands below it, in any width.
        style: Of its line; ``None`` for the plain one.
        stands_apart: Whether a blank line is before it.
    """

    cells: Sequence[str]
    below: Sequence[str] = ()
    style: str | None = None
    stands_apart: bool = False


class Line(NamedTuple):
    """A line, and its style."""

    text: str
    style: str | None = None


def table_lines(columns: Sequence[Column], rows: Sequence[Row], width: int) -> tuple[list[Line], list[str]]:
    """Return the lines of a table, and the titles of the columns that were left out.

    Columns stand two blanks apart. Where that is too wide, dispensable ones are left out, one after the other; else all
    stand one blank apart; else those that fold stand below each row.

    Args:
        columns: All of them.
        rows: Of as many cells each.
        width: Of the terminal.
    """
    dispensable = sorted((c for c in columns if c.dispensable), key=lambda column: -column.dispensable)
    for folds, gap in ((False, 2), (False, 1), (True, 2), (True, 1)):
        for left_out in (dispensable[:count] for count in range(len(dispensable) + 1)):
            shown = [n for n, c in enumerate(columns) if c not in left_out and not (folds and c.folds)]
            sizes = [max(cell_len(columns[n].title), *(cell_len(row.cells[n]) for row in rows)) for n in shown]
            if 1 + sum(sizes) + gap * (len(sizes) - 1) <= width:
                break
        else:
            continue
        break
    folded = [n for n, column in enumerate(columns) if folds and column.folds]

    def line(cells: Sequence[str]) -> str:
        placed = (_placed(cells[n], size, columns[n].is_text) for n, size in zip(shown, sizes, strict=True))
        return f" {(' ' * gap).join(placed)}".rstrip()

    lines = [Line(line([column.title for column in columns])), Line("─" * (1 + sum(sizes) + gap * (len(sizes) - 1)))]
    for row in rows:
        if row.stands_apart:
            lines.append(Line(""))
        lines.append(Line(line(row.cells), row.style))
        below = [*row.below, *(f"{columns[n].title} {row.cells[n]}" for n in folded if row.cells[n])]
        lines += [Line(text, "dim") for text in _wrapped(below, width)]
    return lines, [column.title for column in left_out]


def _placed(cell: str, size: int, is_text: bool) -> str:
    """Return a cell in so many columns of the terminal, of which some characters take two."""
    blanks = " " * (size - cell_len(cell))
    return cell + blanks if is_text else blanks + cell


def _wrapped(items: Sequence[str], width: int) -> Iterator[str]:
    """Items joined by commas, in lines that break between them, and within one only where it is longer than a line."""
    line = ""
    for place, item in enumerate(items):
        told = item + ("," if place < len(items) - 1 else "")
        if line and len(_INDENT) + len(line) + 1 + len(told) > width:
            yield _INDENT + line
            line = ""
        line = f"{line} {told}" if line else told
        if len(_INDENT) + len(line) > width:
            *full, line = textwrap.wrap(line, max(width - len(_INDENT), 20), break_long_words=False)
            yield from (_INDENT + text for text in full)
    if line:
        yield _INDENT + line
