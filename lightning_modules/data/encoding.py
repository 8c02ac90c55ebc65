"""Encode the columns of a table as tensors, by what the training rows say alone."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_modules.batch import Inputs
from lightning_modules.data.table_files import CategoryColumn, Column, Floats, NumberColumn

Rows = NDArray[np.bool_]
"""Which rows of a table train, shape (N,)."""

_NAMES_SHARE, _NAMES_ROWS = 0.9, 20  # a column with so many different texts names its rows
_SHOWN = 3  # columns that are named


@dataclass(frozen=True)
class FittedNumbers:
    """A column of numbers, filled and standardised: (value - mean) / deviation, of the training rows.

    Attributes:
        name: Its name.
        fill: What stands for a missing value: the median or the mean of the training rows.
        mean: Mean of the training rows, once they are filled.
        deviation: Their standard deviation (of all of them: divided by N); 0 of a constant column, which is left out.
        has_indicator: Whether a column of 0 and 1 says which values were missing: where training rows have such.
    """

    name: str
    fill: float
    mean: float
    deviation: float
    has_indicator: bool

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Return names of the columns that it gives."""
        return (*([self.name] if self.deviation else []), *([f"{self.name} is missing"] if self.has_indicator else []))

    def encode(self, column: NumberColumn) -> Floats:
        """Return the rows, shape (N, D)."""
        missing = np.isnan(column.values)
        scaled = [(np.where(missing, self.fill, column.values) - self.mean) / self.deviation] if self.deviation else []
        return np.stack([*scaled, *([missing.astype(np.float64)] if self.has_indicator else [])], 1)


def fit_numbers(column: NumberColumn, train: Rows, missing: str, known: Rows | None = None) -> FittedNumbers:
    """Fit a column of numbers to the training rows.

    Sums are rounded once (``math.fsum``), so that all machines give the same bits.

    Args:
        column: The column.
        train: Which rows train.
        missing: ``"median"`` or ``"mean"``: what stands for a missing value.
        known: Which rows say what columns it gives; ``None`` takes ``train``.

    Raises:
        ValueError: If the numbers are too large to be squared.
    """
    given = column.values[train]
    present = given[~np.isnan(given)]
    if not len(present):
        if known is not None and not np.isnan(column.values[known]).all():
            raise ValueError(
                f"column {column.name!r} must have a number in the training rows of each fold, but has none in one of "
                "them: take fewer folds, or leave it out by drop=."
            )
        return FittedNumbers(column.name, 0.0, 0.0, 0.0, False)
    fill = float(np.median(present)) if missing == "median" else math.fsum(present) / len(present)
    filled = np.where(np.isnan(given), fill, given)
    every = given if known is None else column.values[known]
    has_indicator = bool(np.isnan(every).any())
    if filled.min() == filled.max():
        varies = np.nanmin(every) < np.nanmax(every)  # where other folds need the column
        return FittedNumbers(column.name, fill, fill, float(varies), has_indicator)
    with np.errstate(over="ignore"):
        mean = math.fsum(filled) / len(filled)
        deviation = math.sqrt(math.fsum((filled - mean) ** 2) / len(filled))
    if not 0 < deviation < math.inf:
        raise ValueError(
            f"column {column.name!r} can't be standardised, for its numbers go from {filled.min():g} to "
            f"{filled.max():g}: take their logarithms, or leave it out by drop=."
        )
    return FittedNumbers(column.name, fill, mean, deviation, has_indicator)


@dataclass(frozen=True)
class FittedCategories:
    """A column of categories, by the categories of the training rows.

    Attributes:
        name: Its name.
        known: Categories of training rows, sorted: the most frequent ones, if there are too many.
        has_missing: Whether the category is missing in training rows, which is a category of its own then.
        others: Number of training rows whose category is not among ``known``.
    """

    name: str
    known: tuple[str, ...]
    has_missing: bool
    others: int

    @property
    def cardinality(self) -> int:
        """Return the number of indices: 0 for other categories, then those of ``known``, then the missing one."""
        return 1 + len(self.known) + self.has_missing

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Return names of the columns that ``one_hot`` gives."""
        names = [f"{self.name}={value}" for value in self.known]
        missing, other = ([f"{self.name} is {what}"] for what in ("missing", "other"))
        return (*names, *(missing if self.has_missing else []), *(other if self.others else []))

    def indices(self, column: CategoryColumn) -> NDArray[np.int64]:
        """Return the index of each row's category, shape (N,)."""
        places = {value: place for place, value in enumerate(self.known, 1)}
        missing = len(self.known) + 1 if self.has_missing else 0
        found = np.array([*(places.get(value, 0) for value in column.categories), missing], dtype=np.int64)
        return found[column.codes]  # -1, of a missing one, is the last

    def one_hot(self, column: CategoryColumn) -> Floats:
        """Return a column of 0 and 1 for each category, shape (N, D).

        A category that no training row has is zero in all, or ``other`` where training rows have some of that kind.
        """
        columns = np.array([*range(1, self.cardinality), *([0] if self.others else [])])
        shown: Floats = np.equal.outer(self.indices(column), columns).astype(np.float64)
        return shown


def fit_categories(column: CategoryColumn, train: Rows, most: int) -> FittedCategories:
    """Fit a column of categories to the training rows.

    Args:
        column: The column.
        train: Which rows train.
        most: Most categories that are told apart: the most frequent ones, of equally frequent ones the first by name.

    Raises:
        ValueError: If nearly each training row has a category of its own.
    """
    given = column.codes[train]
    every = np.bincount(given[given >= 0], minlength=len(column.categories)).tolist()
    counts = {value: count for value, count in zip(column.categories, every, strict=True) if count}
    present = sum(counts.values())
    if present >= _NAMES_ROWS and len(counts) > _NAMES_SHARE * present:
        raise ValueError(
            f"column {column.name!r} must hold categories, but has {len(counts):,} different texts in {present:,} "
            "training rows: take it as id=, leave it out by drop=, or make numbers of it."
        )
    kept = sorted(counts, key=lambda value: (-counts[value], value))[:most]
    others = present - sum(counts[value] for value in kept)
    return FittedCategories(column.name, tuple(sorted(kept)), present < len(given), others)


def row_digests(columns: Sequence[Column]) -> list[str]:
    """Return a hash of what each row holds in some columns, whatever their order."""
    ordered = sorted(columns, key=lambda column: column.name)
    size = len(columns[0].values if isinstance(columns[0], NumberColumn) else columns[0].codes)
    held = [column.values for column in ordered if isinstance(column, NumberColumn)]
    numbers = np.stack(held, 1) if held else np.zeros((size, 0))
    numbers = np.ascontiguousarray(np.where(np.isnan(numbers), np.nan, numbers))  # NaN has many bit patterns
    texts = []
    for column in ordered:
        if isinstance(column, CategoryColumn):
            names = [f"{len(value)}:{value}".encode() for value in column.categories] + [b"-"]
            texts.append([names[code] for code in column.codes])
    rows = zip((row.tobytes() for row in numbers), *texts, strict=True)
    return [hashlib.sha256(b"".join(row)).hexdigest()[:32] for row in rows]


@dataclass(frozen=True)
class Encoder:
    """What encodes the columns of a table, fitted to training rows.

    Attributes:
        fitted: The columns that are inputs, each as it was fitted.
        one_hot: Whether categories are columns of 0 and 1 beside the numbers, or indices.
    """

    fitted: tuple[FittedNumbers | FittedCategories, ...]
    one_hot: bool

    @property
    def names(self) -> tuple[str, ...]:
        """Return names of the columns that it gives; of indices last."""
        as_numbers = [one for one in self.fitted if self.one_hot or isinstance(one, FittedNumbers)]
        indexed = () if self.one_hot else tuple(one.name for one in self._categories)
        return (*(name for one in as_numbers for name in one.feature_names), *indexed)

    @property
    def cardinalities(self) -> tuple[int, ...]:
        """Return the number of indices of each column of ``categories``."""
        return () if self.one_hot else tuple(one.cardinality for one in self._categories)

    @property
    def _categories(self) -> list[FittedCategories]:
        return [one for one in self.fitted if isinstance(one, FittedCategories)]

    def encode(self, columns: Sequence[Column]) -> Inputs:
        """Return rows as inputs, of the rows that it was fitted to or of others.

        Args:
            columns: The fitted columns, in any order; others are left out.

        Raises:
            ValueError: If a column is missing, is of another kind, or has a number far from those of training rows.
        """
        given = {column.name: column for column in columns}
        parts: list[Floats] = []
        indices: list[NDArray[np.int64]] = []
        for one in self.fitted:
            column = given.get(one.name)
            if isinstance(one, FittedNumbers):
                if not isinstance(column, NumberColumn):
                    raise ValueError(f"column {one.name!r} must hold numbers, as in the rows that were trained on.")
                parts.append(_finite(one.encode(column), one.name))
            elif not isinstance(column, CategoryColumn):
                raise ValueError(f"column {one.name!r} must hold categories, as in the rows that were trained on.")
            elif self.one_hot:
                parts.append(one.one_hot(column))
            else:
                indices.append(one.indices(column))
        inputs: dict[str, Tensor] = {}
        if parts:
            inputs["numbers"] = torch.from_numpy(np.concatenate(parts, 1).astype(np.float32))
        if indices:
            inputs["categories"] = torch.from_numpy(np.stack(indices, 1))
        return inputs["numbers"] if self.one_hot else inputs


class Encoded(NamedTuple):
    """The inputs of a table.

    Attributes:
        inputs: A tensor (N, D), float32, or a dict of ``numbers`` (N, D) and ``categories`` (N, C), int64.
        encoder: What encodes them, and other rows alike.
        notes: What was left out or joined, a phrase each.
    """

    inputs: Inputs
    encoder: Encoder
    notes: tuple[str, ...]


def encode(
    columns: Sequence[Column], train: Rows, *, one_hot: bool, missing: str, most: int, known: Rows | None = None
) -> Encoded:
    """Encode columns by the training rows.

    Args:
        columns: The columns, in the order of the file.
        train: Which rows train.
        known: Which rows say what columns and categories there are; ``None`` takes ``train``. Networks of all folds
            have the same inputs, and so the folds' training rows together say it, and each fold's own say the rest.
        one_hot: As of ``Encoder``.
        missing: As of ``fit_numbers``.
        most: As of ``fit_categories``.

    Raises:
        ValueError: If a column can't be encoded, or none varies.
    """
    fitted: list[FittedNumbers | FittedCategories] = []
    constant, notes = [], []
    for column in columns:
        if isinstance(column, NumberColumn):
            of_numbers = fit_numbers(column, train, missing, known)
            if of_numbers.feature_names:
                fitted.append(of_numbers)
            else:
                constant.append(column.name)
            continue
        rows = train if known is None else known
        categories = fit_categories(column, rows, most)
        if len(categories.feature_names) < 2:
            constant.append(column.name)
            continue
        notes += _notes(categories, column, rows)
        fitted.append(categories)
    if not fitted:
        raise ValueError("a column must vary in the training rows, but none does: there is nothing to learn from.")
    if constant:
        more = f" and {len(constant) - _SHOWN:,} more" if len(constant) > _SHOWN else ""
        shown = ", ".join(map(repr, constant[:_SHOWN]))
        notes.append(f"left out, for no training row differs from another there: {shown}{more}")
    encoder = Encoder(tuple(fitted), one_hot)
    return Encoded(encoder.encode(columns), encoder, tuple(notes))


def _finite(values: Floats, name: str) -> Floats:
    """Check that rows outside of the training rows are of a like scale."""
    if np.abs(values).max() > np.finfo(np.float32).max:
        raise ValueError(
            f"column {name!r} has a number that is far from those of all training rows: leave that row out."
        )
    return values


def _notes(fitted: FittedCategories, column: CategoryColumn, train: Rows) -> list[str]:
    """Describe what of a column's categories is not told apart."""
    found = []
    if fitted.others:
        found.append(
            f"of column {column.name!r} the {len(fitted.known):,} most frequent categories are told apart; "
            f"{fitted.others:,} training rows have others (max_categories)"
        )
    elif unseen := int((fitted.indices(column)[~train] == 0).sum()):
        found.append(
            f"of column {column.name!r} {unseen:,} rows of val and test have a category that no training row has"
        )
    return found
