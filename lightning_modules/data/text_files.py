"""Read texts from a table (CSV, TSV, JSON lines, Parquet), or from text files in a folder for each class."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lightning_modules.data.splits import NAMES
from lightning_modules.data.table_files import check_columns, read_table, rows

JSON_LINES = (".jsonl", ".ndjson")
TEXT_TABLES = {".csv": ",", ".tsv": "\t"}
TEXT, LABEL, ID, SPLIT = "text", "label", "id", "split"
"""Columns of the texts of a folder."""


def read_texts(source: Path, *, text: str, encoding: str) -> pd.DataFrame:
    """Return the rows of a table, or of the texts in a folder.

    Args:
        source: A table; or a folder of ``.txt`` files in a folder for each class, or of these in ``train``, ``val`` and
            ``test``.
        text: Column of the texts in a table.
        encoding: Of files that are no Parquet.

    Raises:
        ValueError: If it can't be read, has no texts, or one is empty.
    """
    if source.is_dir():
        return _read_folder(source, encoding)
    if not source.is_file():
        raise ValueError(f"texts must be a table or a folder, but there is none at {source}.")
    suffix = source.suffix.lower()
    if suffix in JSON_LINES:
        frame = _read_json_lines(source, encoding)
    elif suffix in TEXT_TABLES:
        frame = _read_separated(source, TEXT_TABLES[suffix], text, encoding)
    else:
        frame = read_table(source, separator=None)
    check_columns(frame, [text], "text", source)
    held = frame[text]
    odd = np.array([not isinstance(value, str) or not value.strip() for value in held])
    if odd.any():
        value = held[odd].iloc[0]
        is_missing = isinstance(value, str) or bool(pd.isna(value))
        found = "is empty" if is_missing else f"is {value!r} ({type(value).__name__})"
        raise ValueError(
            f"column {text!r} of {source} must hold a text in each row, but {found} in {rows(odd)}: fill these rows in "
            "or take them out."
        )
    return frame


def read_text(file: Path, encoding: str) -> str:
    """Return the text of a file.

    Raises:
        ValueError: If there is none, it is empty, or of another encoding.
    """
    if not file.is_file():
        raise ValueError(f"{file} must be a file of text, but there is none.")
    try:
        content = file.read_text(encoding=_utf8_sig(encoding))
    except UnicodeDecodeError as error:
        raise ValueError(_undecodable(file, encoding)) from error
    if not content.strip():
        raise ValueError(f"{file} must hold a text, but is empty: fill it or take it out.")
    return content


def _read_separated(file: Path, separator: str, text: str, encoding: str) -> pd.DataFrame:
    """Return a table of CSV or TSV, in whose texts "NA" and "null" are words."""
    how: dict[str, Any] = {"sep": separator, "encoding": _utf8_sig(encoding), "index_col": False}
    try:
        frame: pd.DataFrame = pd.read_csv(
            file, **how, dtype={text: str}, keep_default_na=False, na_values=[""], low_memory=False
        )
    except UnicodeDecodeError as error:
        raise ValueError(_undecodable(file, encoding)) from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} can't be read as a table: {str(error).strip().splitlines()[0]}.") from error
    return frame


def _read_json_lines(file: Path, encoding: str) -> pd.DataFrame:
    """Return a table of an object of JSON in each line.

    Raises:
        ValueError: If a line is none; the message has its number.
    """
    found = []
    try:
        lines = file.read_text(encoding=_utf8_sig(encoding)).split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(_undecodable(file, encoding)) from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            is_last = not any(rest.strip() for rest in lines[number:])
            cut = "; the file seems to be cut short" if is_last else ""
            raise ValueError(
                f"line {number:,} of {file} must be an object of JSON, but is not: {error}{cut}."
            ) from error
        if not isinstance(row, dict):
            raise ValueError(f"line {number:,} of {file} must be an object of JSON, but is a {type(row).__name__}.")
        found.append(row)
    if not found:
        raise ValueError(f"{file} must have rows, but is empty.")
    return pd.DataFrame(found)


def _utf8_sig(encoding: str) -> str:
    """Return an encoding that skips a byte order mark."""
    return "utf-8-sig" if encoding.lower().replace("-", "") == "utf8" else encoding


def _undecodable(file: Path, encoding: str) -> str:
    return f"{file} must be encoded in {encoding}, but is not: give encoding=, as encoding='latin-1'."


@dataclass(frozen=True)
class _Place:
    """A folder of one class, of one split if there are any."""

    folder: Path
    label: str
    split: str | None


def _read_folder(top: Path, encoding: str) -> pd.DataFrame:
    """Return the texts in a folder for each class."""
    splits: Sequence[str | None] = NAMES if all((top / name).is_dir() for name in NAMES) else (None,)
    places = [
        _Place(folder, folder.name, split)
        for split in splits
        for folder in sorted((top / (split or "")).iterdir())
        if folder.is_dir() and not folder.name.startswith(".")
    ]
    found = []
    for place in places:
        for file in sorted(place.folder.rglob("*.txt")):
            name = file.relative_to(top).as_posix()
            row = {TEXT: read_text(file, encoding), LABEL: place.label, ID: name}
            found.append(row if place.split is None else {**row, SPLIT: place.split})
    if not found:
        raise ValueError(f"{top} must have a folder of .txt files for each class, but has no such file.")
    return pd.DataFrame(found)
