"""Read the labels of a table: one class a row, several labels, or numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lightning_modules.batch import UNLABELLED
from lightning_modules.data.encoding import Rows
from lightning_modules.data.table_files import kind_of, numbers, rows

KINDS = ("classification", "multilabel", "regression")
_SHOWN = 6  # classes that are named
_MANY_SHARE, _MANY = 0.2, 1000  # whole numbers with more different values than this are amounts


class Labels(NamedTuple):
    """Labels of all rows.

    Attributes:
        values: As the output kind wants them: (N,) or (N, L) int64, or (N, V) float32.
        class_names: Names of the classes or labels; none of numbers.
        known: Which rows have a label, shape (N,); the values of others are those that their output kind has for none.
    """

    values: Tensor
    class_names: tuple[str, ...]
    known: Rows


_NONE = {"classification": UNLABELLED, "multilabel": -1, "regression": math.nan}


def read_labels(frame: pd.DataFrame, names: Sequence[str], kind: str, *, unlabelled: bool = False) -> Labels:
    """Return the labels in some columns of a table.

    Args:
        frame: The table.
        names: The columns.
        kind: One of ``KINDS``.
        unlabelled: Whether rows may have none.

    Raises:
        ValueError: If a label is missing, or is not of this kind.
    """
    known: Rows = np.ones(len(frame), dtype=bool)
    if unlabelled:
        missing = frame[list(names)].isna().to_numpy()
        known = np.logical_not(missing).any(1)
        if not known.any():
            raise ValueError(f"label {names[0]!r} must be known in some rows, but is missing in all.")
        first = frame.iloc[int(known.argmax())]  # stands in for a label, so that rows keep their numbers in messages
        frame = frame[list(names)].copy()
        for name in names:
            frame.loc[~known, name] = first[name]
    values, class_names = _read(frame, names, kind)
    values[torch.from_numpy(~known)] = _NONE[kind]
    return Labels(values, class_names, known)


def _read(frame: pd.DataFrame, names: Sequence[str], kind: str) -> tuple[Tensor, tuple[str, ...]]:
    """Return labels, of which none is missing, and the names of the classes."""
    _check_known(frame, names)
    for name in names:
        if frame[name].nunique() < 2:
            raise ValueError(
                f"label {name!r} must have two values at least, but is {frame[name].iloc[0]!s} in each row."
            )
    if kind == "classification":
        return _classes(frame[names[0]])
    if kind == "multilabel":
        columns = [_presence(frame[name]) for name in names]
        return torch.from_numpy(np.stack(columns, 1)), tuple(names)
    return _amounts_of(frame, names), ()


def read_like(frame: pd.DataFrame, names: Sequence[str], kind: str, class_names: Sequence[str]) -> Tensor:
    """Return the labels of rows beside those whose labels ``read_labels`` read, in the same terms.

    Args:
        frame: The table; it need not have every class.
        names: The columns.
        kind: One of ``KINDS``.
        class_names: Names of the classes.

    Raises:
        ValueError: If a label is missing, is not of this kind, or is another class.
    """
    _check_known(frame, names)
    if kind == "regression":
        return _amounts_of(frame, names)
    if kind == "multilabel":
        return torch.from_numpy(np.stack([_presence(frame[name]) for name in names], 1))
    series = frame[names[0]]
    texts = [_class_text(value) for value in series.astype(object)]
    if odd := sorted({*texts} - {*class_names}):
        shown = ", ".join([*class_names[:_SHOWN], *([".."] if len(class_names) > _SHOWN else [])])
        raise ValueError(
            f"label {names[0]!r} must hold classes of the table that was searched ({shown}), but has {odd[0]!r} in "
            f"{rows([text == odd[0] for text in texts])}."
        )
    place = {name: number for number, name in enumerate(class_names)}
    return torch.tensor([place[text] for text in texts])


def _class_text(value: Any) -> str:
    """Return the name of a class: a whole number among floats is written as one."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _check_known(frame: pd.DataFrame, names: Sequence[str]) -> None:
    """Check that each label is known and of a kind that can be learnt."""
    for name in names:
        if (missing := frame[name].isna()).any():
            raise ValueError(
                f"label {name!r} must be known in each row, but is missing in {rows(missing)} (empty, or a word such "
                "as NA or None): fill these rows in, take them out, or leave them to the teacher, unlabelled=True."
            )
        if (held := kind_of(frame[name])) not in ("numbers", "categories"):
            raise ValueError(f"label {name!r} must hold classes or numbers, but holds {held}: convert it.")


def _amounts_of(frame: pd.DataFrame, names: Sequence[str]) -> Tensor:
    """Return numbers to predict, shape (N, V), float32."""
    for name in names:
        if kind_of(frame[name]) != "numbers":
            raise ValueError(
                f"label {name!r} must hold numbers for regression, but has {frame[name].iloc[0]!r} in row 1."
            )
    return torch.from_numpy(np.stack([numbers(frame[name]) for name in names], 1).astype(np.float32))


def _classes(series: pd.Series[Any]) -> tuple[Tensor, tuple[str, ...]]:
    """Return class indices, shape (N,), and names: of numbers in their order, of texts in that of the alphabet."""
    if kind_of(series) != "numbers":
        texts = series.astype(object).map(str).to_numpy(dtype=str)
        known, places = np.unique(texts, return_inverse=True)
        return torch.from_numpy(places.astype(np.int64)), tuple(map(str, known))
    values = numbers(series)
    known, places = np.unique(values, return_inverse=True)
    if len(parts := np.flatnonzero(values % 1)):
        raise _amounts(series, f"{values[parts[0]]:g} in row {parts[0] + 1}")
    if len(known) > min(_MANY, max(2, _MANY_SHARE * len(values))):
        raise _amounts(series, f"{len(known):,} different numbers in {len(values):,} rows")
    is_bool = all(isinstance(value, bool | np.bool_) for value in series.unique())
    names = [str(bool(value)) if is_bool else str(int(value)) for value in known]
    return torch.from_numpy(places.astype(np.int64)), tuple(names)


def _amounts(series: pd.Series[Any], found: str) -> ValueError:
    return ValueError(
        f"label {str(series.name)!r} must hold classes, but has {found}: amounts are learnt by kind='regression', with "
        "output = Regression() in the task."
    )


def _presence(series: pd.Series[Any]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return 0 or 1 for each row, shape (N,)."""
    known = [0, 1, False, True]
    odd = np.array([value not in known for value in series.astype(object)])
    if odd.any():
        place = int(odd.argmax())
        raise ValueError(
            f"label {str(series.name)!r} must be 0 or 1 in each row, for it is one of several, but is "
            f"{series.iloc[place]!s} in row {place + 1}."
        )
    return series.astype(object).map(int).to_numpy(dtype=np.int64)


def standardised(values: Tensor, train: Rows) -> tuple[Tensor, tuple[float, ...], tuple[float, ...]]:
    """Return numbers scaled to a mean of 0 and a deviation of 1 over the training rows, with both of each column."""
    held = values.double().numpy()
    means, deviations = [], []
    for column in held.T:
        given = column[train]
        mean = math.fsum(given) / len(given)
        means.append(mean)
        deviations.append(math.sqrt(math.fsum((given - mean) ** 2) / len(given)))
    if min(deviations) == 0:
        raise ValueError("a label must vary in the training rows, but has one value in all of them.")
    return torch.from_numpy(((held - means) / deviations).astype(np.float32)), tuple(means), tuple(deviations)
