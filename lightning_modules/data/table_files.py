"""Read tables (CSV, TSV, Parquet) and the kind of each column: numbers, or categories."""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api import types

_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_PARQUET = (".parquet", ".pq")
_SHOWN = 3  # rows or columns that are named
_DATE = re.compile(r"(\d{4}-\d{1,2}-\d{1,2}([T ].*)?|\d{1,2}[/.]\d{1,2}[/.]\d{2,4})")

_KINDS_OF_PANDAS = {
    **dict.fromkeys(("boolean", "integer", "floating", "mixed-integer-float", "decimal"), "numbers"),
    **dict.fromkeys(("datetime64", "datetime", "date", "time", "timedelta64", "timedelta", "period"), "dates"),
}
"""What ``infer_dtype`` calls values that are taken as numbers, or refused as dates."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class NumberColumn:
    """A column of numbers; booleans are 0 and 1.

    Attributes:
        name: Its name.
        values: Shape (N,), NaN where a value is missing.
    """

    name: str
    values: Floats


@dataclass(frozen=True)
class CategoryColumn:
    """A column of categories.

    Attributes:
        name: Its name.
        codes: Position in ``categories`` of each row's category, shape (N,), or -1 where it is missing.
        categories: Names of the categories.
    """

    name: str
    codes: NDArray[np.int64]
    categories: tuple[str, ...]


Column = NumberColumn | CategoryColumn


def read_table(file: Path, *, separator: str | None, text: Iterable[str] = ()) -> pd.DataFrame:
    """Read a table.

    Args:
        file: A file of CSV or TSV, also with ``.gz``, in UTF-8 and with a header, or of Parquet.
        separator: Of the columns of a text file; ``None`` goes by its name.
        text: Columns of names, which are read from a text file as whole numbers if all are, and else as they stand.

    Raises:
        ValueError: If it can't be read, has no rows, or a column has no name of its own.
    """
    if not file.is_file():
        raise ValueError(f"a table must be a file, but there is none at {file}.")
    suffix = file.with_suffix("").suffix.lower() if file.suffix == ".gz" else file.suffix.lower()
    if suffix not in (*_SEPARATORS, *_PARQUET):
        raise ValueError(f"a table must be a file .csv, .tsv (or with .gz) or .parquet, but got {file.name}.")
    try:
        if suffix in _PARQUET:
            frame = pd.read_parquet(file)
            frame = frame.reset_index() if any(name is not None for name in frame.index.names) else frame
            names = list(map(str, frame.columns))
        else:
            names, frame = _read_text(file, separator or _SEPARATORS[suffix], list(text))
    except (OSError, ValueError, Warning) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0].removesuffix(".")
        raise ValueError(f"{file} can't be read as a table: {said}.") from error
    if "" in names:
        raise ValueError(
            f"each column of {file} must have a name, but column {names.index('') + 1} has none: name it, or write the "
            "table without its index (index=False)."
        )
    if doubled := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise ValueError(
            f"columns of {file} must have names of their own, but {names.count(doubled[0])} are called "
            f"{doubled[0]!r}: rename them."
        )
    if frame.empty:
        raise ValueError(f"{file} must have rows, but has a header alone.")
    return frame


def _read_text(file: Path, separator: str, text: list[str]) -> tuple[list[str], pd.DataFrame]:
    """Return the names in the header, as they stand there, and the table."""
    how: dict[str, Any] = {"sep": separator, "encoding": "utf-8-sig", "index_col": False}
    header = pd.read_csv(file, **how, header=None, nrows=1, dtype=str, keep_default_na=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # of rows with more values than the header has names
        frame = pd.read_csv(file, **how, low_memory=False, dtype=dict.fromkeys(text, str))
    for name in text:
        if name in frame and (names := _whole_numbers(frame[name])) is not None:
            frame[name] = names
    return [str(name) for name in header.iloc[0]], frame


def _whole_numbers(series: pd.Series[Any]) -> list[int] | None:
    """Return texts as whole numbers, if that loses nothing: "007" is a text, and so are the others then."""
    values = series.tolist()
    if not all(isinstance(value, str) and value.isascii() and value.isdecimal() for value in values):
        return None
    found = [int(value) for value in values]
    return found if [str(value) for value in found] == values else None


def check_columns(frame: pd.DataFrame, named: Sequence[str], option: str, file: Path) -> None:
    """Check that a table has the columns that an option names.

    Raises:
        ValueError: If one is not there; the message says which may be meant.
    """
    known = list(map(str, frame.columns))
    for name in named:
        if name not in known:
            near = difflib.get_close_matches(str(name).lower(), [each.lower() for each in known], n=1)
            meant = next((each for each in known if near and each.lower() == near[0]), "")
            more = f", .. ({len(known):,})" if len(known) > 2 * _SHOWN else ""
            hint = f"did you mean {meant!r}?" if meant else f"its columns are {', '.join(known[: 2 * _SHOWN])}{more}"
            if len(known) == 1 and (other := next((one for one in ";\t|" if one in known[0]), "")):
                hint = f"its columns seem to be separated by {other!r}: give separator={other!r}"
            raise ValueError(f"{option} must name a column of {file}, but there is no {name!r}; {hint}.")


def rows(where: Any) -> str:
    """Describe rows of a table, counted from 1 below the header."""
    found = [str(row + 1) for row in np.flatnonzero(np.asarray(where))]
    more = f" and {len(found) - _SHOWN:,} more" if len(found) > _SHOWN else ""
    return f"row{'' if len(found) == 1 else 's'} {', '.join(found[:_SHOWN])}{more}"


def as_column(series: pd.Series[Any], *, is_category: bool) -> Column:
    """Return a column of a table as numbers or as categories.

    Booleans are numbers, texts and pandas' categories are categories.

    Args:
        series: The column.
        is_category: Whether numbers are names of categories, too.

    Raises:
        ValueError: If it holds dates, infinity, or values of another kind.
    """
    name, kind = str(series.name), kind_of(series)
    if kind == "dates":
        raise ValueError(
            f"column {name!r} holds dates: make numbers of them first (as days since a date, or the month), or leave "
            "it out by drop=."
        )
    if kind == "categories" or (is_category and kind == "numbers"):
        codes, found = pd.factorize(series.astype(object))
        names = [_text(value) for value in found]
        known, places = np.unique(np.array(names, dtype=str), return_inverse=True)  # 1 and "1" are one category
        return CategoryColumn(name, np.append(places, -1)[codes], tuple(map(str, known)))
    if kind != "numbers":
        raise ValueError(
            f"column {name!r} must hold numbers, booleans or texts, but holds {kind}: convert it, or leave it out by "
            "drop=."
        )
    return NumberColumn(name, numbers(series))


def numbers(series: pd.Series[Any]) -> Floats:
    """Return a column of numbers or booleans as floats, NaN where one is missing.

    Raises:
        ValueError: If one is infinite.
    """
    values = series.to_numpy(dtype=np.float64, na_value=np.nan)
    if (endless := np.isinf(values)).any():
        raise ValueError(f"column {str(series.name)!r} must hold finite numbers, but has infinity in {rows(endless)}.")
    return values + 0.0  # no -0, which is another number to a hash


def kind_of(series: pd.Series[Any]) -> str:
    """Return ``"numbers"``, ``"categories"``, ``"dates"`` (or times, also as texts), or what else a column holds."""
    if isinstance(series.dtype, pd.CategoricalDtype):
        return "categories"
    found = types.infer_dtype(series, skipna=True)
    if found in _KINDS_OF_PANDAS:
        return _KINDS_OF_PANDAS[found]
    if found not in ("string", "empty"):
        return f"values of type {found}"
    present = pd.unique(series.dropna().astype(object))
    return "dates" if len(present) and all(map(_DATE.fullmatch, present)) else "categories"


def _text(value: Any) -> str:
    """Return a category's name; a whole number among floats, which missing values make, is written as one."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
