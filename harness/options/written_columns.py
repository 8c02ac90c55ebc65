"""Read the columns that options of ``--data TABLE`` name. Imports nothing heavy."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from harness.core.errors import did_you_mean
from harness.options.given import Given, InvalidOption


def read_column(given: Given, option: str, file: Path) -> str:
    """Return the column that an option names.

    Args:
        given: The options.
        option: The option.
        file: The table.

    Raises:
        InvalidOption: If there is none of that name, as far as the first line of the file tells.
    """
    found = given.read_required(option, _column)
    if (columns := _columns(file)) is not None and found not in columns:
        raise InvalidOption(
            f"{given.spell(option)} must name a column of {file}, but it has no {found!r}{did_you_mean(found, columns)}"
        )
    return found


def _column(value: object) -> str:
    if not str(value).strip():
        raise ValueError(f"must name a column, but got {value!r}")
    return str(value)


def _columns(file: Path) -> list[str] | None:
    """Return the columns of a text table, by its first line; ``None`` where only a library can tell."""
    suffix = file.suffix.lower()
    if suffix == ".parquet":
        return None
    with file.open(encoding="utf-8-sig", newline="", errors="replace") as lines:
        if suffix == ".jsonl":
            return _keys(next(lines, ""))
        return next(csv.reader(lines, delimiter="\t" if suffix == ".tsv" else ","), [])


def _keys(line: str) -> list[str] | None:
    """Return the keys of a line of JSON; ``None`` where it is no object, which is said when it is read."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return list(row) if isinstance(row, dict) else None
