"""Serve tables (CSV, TSV, Parquet): columns of numbers and categories, encoded by the training rows alone."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from lightning_modules.batch import select
from lightning_modules.data.encoding import Encoded, Encoder, FittedCategories, encode, row_digests
from lightning_modules.data.folds import check_folds
from lightning_modules.data.splits import NAMES, folds_by_content, split_by_content
from lightning_modules.data.table_files import Column, as_column, check_columns, read_table, rows
from lightning_modules.data.table_labels import KINDS, Labels, read_labels, read_like, standardised
from lightning_modules.data.tensors import Split, TensorDataModule, sample_ids
from lightning_modules.data.views import Views

_NOWHERE = ""  # in place of the split of a row that is left out
_SHOWN = 3  # columns that are named
_LARGE = 100.0  # deviation of labels above which, or below whose inverse, networks learn them slowly


class Tables(TensorDataModule):
    """Data module of a table, held in memory.

    Numbers and booleans are filled and standardised; texts are categories. What is needed for that, the medians, means,
    deviations and categories, is taken from the training rows alone. A value that is missing in training rows gets a
    column of 0 and 1 (numbers), or is a category of its own. Dates are refused.

    Rows are split 60, 20 and 20 % of each class by a hash of their inputs, so always alike, and rows with the same
    inputs are in one split; or as a column says, or by groups.

    Args:
        file: A file of CSV or TSV (also ``.gz``, UTF-8, with a header) or Parquet.
        label: The column to predict; several for ``multilabel`` and ``regression``.
        kind: ``"classification"``, ``"multilabel"`` (columns of 0 and 1) or ``"regression"``, as the task's output; by
            default classification for one label, and multilabel for several.
        split: Column that says ``train``, ``val`` or ``test``; it is no input.
        group: Column whose groups (a patient, a page) stay together when rows are split; it is no input.
        id: Column that names the rows, for teachers whose outputs come from a file; it is no input.
        drop: Columns to leave out.
        categorical: Columns of numbers that are names of categories, as postal codes.
        categories: ``"one-hot"``: inputs are a tensor (N, D), float32, whose columns ``feature_names`` names.
            ``"indices"``: inputs are a dict of ``numbers`` (N, D), float32, and ``categories`` (N, C), int64, for
            embeddings of ``cardinalities``; either is absent where there are no such columns.
        max_categories: Most categories of a column that are told apart, the most frequent ones of the training rows.
        missing: What stands for a missing number: ``"median"`` or ``"mean"`` of the training rows.
        unlabelled: Whether rows without a label are training samples that the teacher alone labels; by default they are
            refused. Those that the split puts elsewhere, as their inputs or their group do, are left out.
        standardize_label: Whether numbers to predict are standardised by the training rows.
        separator: Of the columns of a text file; by default the comma of .csv, and the tab of .tsv.
        batch_size: Samples in a training batch.
        eval_batch_size: Samples in an evaluation batch.
        views: Views of the encoded training rows; ``None`` for none.
        folds: Number of folds, for cross-validation: rows that train or validate are cut into as many parts by class
            and content, or by groups, as of ``TensorDataModule``. Medians, means and deviations are those of a fold's
            own training rows; the rows of all folds say which columns and categories there are, and the unit of labels.

    Attributes:
        class_names: Names of the classes or labels.
        feature_names: Names of the columns of inputs; of ``"indices"``, of ``numbers`` and then of ``categories``.
        cardinalities: Number of indices of each column of ``categories``; 0 stands for a category that no training row
            has, or for a rare one.
        label_mean, label_deviation: Of each label that was standardised, before it was; empty for others.
        notes: What was left out or joined.

    Raises:
        ValueError: If the file can't be read, an argument is out of its range, or a column is not what it is taken for.
    """

    def __init__(
        self,
        file: Path | str | None,
        *,
        label: str | Sequence[str],
        kind: Literal["classification", "multilabel", "regression"] | None = None,
        split: str | None = None,
        group: str | None = None,
        id: str | None = None,
        drop: Sequence[str] = (),
        categorical: Sequence[str] = (),
        categories: Literal["one-hot", "indices"] = "one-hot",
        max_categories: int = 100,
        missing: Literal["median", "mean"] = "median",
        unlabelled: bool = False,
        standardize_label: bool = False,
        separator: str | None = None,
        batch_size: int = 64,
        eval_batch_size: int = 512,
        views: Views | None = None,
        folds: int | None = None,
    ) -> None:
        if file is None:
            raise ValueError("Tables needs a file, as data_dir / 'table.csv': name its folder by --data-dir.")
        labels = (label,) if isinstance(label, str) else tuple(label)
        kind = kind or ("classification" if isinstance(label, str) else "multilabel")
        _check_choice("kind", kind, KINDS)
        _check_choice("categories", categories, ("one-hot", "indices"))
        _check_choice("missing", missing, ("median", "mean"))
        _check_labels(labels, kind, standardize_label)
        if isinstance(max_categories, bool) or not isinstance(max_categories, Integral) or max_categories < 1:
            raise ValueError(f"max_categories must be a whole number of at least 1, but got {max_categories!r}.")
        path, roles = Path(file), _Roles(labels, split, group, id, _several(drop), _several(categorical))
        frame = read_table(path, separator=separator, text=[] if id is None else [id])
        columns = roles.inputs(frame, path)
        ids = None if id is None else _ids(frame[id])
        found = read_labels(frame, labels, kind, unlabelled=unlabelled)
        if folds is not None and not found.known.all():
            raise ValueError("unlabelled=True and folds= can't go together, for each fold is scored: leave one out.")
        parts = _parts(frame, columns, found, roles)
        left_out = int((parts == _NOWHERE).sum())
        learnt = None if folds is None else parts != "test"
        values, means, deviations = found.values, (), ()
        if kind == "regression":
            scaled, means, deviations = standardised(
                values, (parts == "train" if learnt is None else learnt) & found.known
            )
            values = scaled if standardize_label else values
        how: dict[str, Any] = {"one_hot": categories == "one-hot", "missing": missing, "most": int(max_categories)}

        def encoded(parts: NDArray[np.str_]) -> tuple[dict[str, Split], Encoded]:
            known = encode(columns, parts == "train", **how, known=learnt)
            splits = {}
            for name in NAMES:
                places = np.flatnonzero(parts == name)
                here = torch.from_numpy(places)
                named = None if ids is None else [ids[place] for place in places]
                splits[name] = Split(select(known.inputs, here), values[here], named)
            return splits, known

        each = [parts] if folds is None else _parts_of_folds(parts, check_folds(folds), frame, columns, found, roles)
        (splits, known), *others = map(encoded, each)
        super().__init__(**splits, batch_size=batch_size, eval_batch_size=eval_batch_size, views=views)
        self._splits_of_others = [of_other for of_other, _ in others]
        self.class_names = found.class_names
        self.feature_names = known.encoder.names
        self.cardinalities = known.encoder.cardinalities
        self.label_mean: tuple[float, ...] = means if standardize_label else ()
        self.label_deviation: tuple[float, ...] = deviations if standardize_label else ()
        self._file: Path = path
        self._separator: str | None = separator
        self._kind: str = kind
        self._roles: _Roles = roles
        self._encoder: Encoder = known.encoder
        self.notes = (*known.notes, *_scales(labels, deviations, standardize_label))
        if left_out:
            owner = "group" if group else "inputs"
            self.notes += (f"{left_out:,} rows without a label are left out: their {owner} are in val or test",)

    def new_samples(self, path: Path) -> Split:
        """Return the rows of another table, encoded by the training rows of this one.

        Where it has the column that ``split`` names, these are its rows of ``test``, and else all of them.

        Args:
            path: The table, or the folder of one that is called as this is.

        Raises:
            ValueError: If it is this table, a column is missing or of another kind, or a class is another.
        """
        file = path / self._file.name if path.is_dir() else path
        if file.exists() and file.samefile(self._file):
            raise ValueError(f"{file} is the table that was searched: its rows are not new.")
        roles = self._roles
        frame = read_table(file, separator=self._separator, text=[] if roles.id is None else [roles.id])
        if roles.split is not None and roles.split in frame:
            frame = frame[_told(frame[roles.split]) == "test"].reset_index(drop=True)
            if frame.empty:
                raise ValueError(f"{file} must have rows of test, but {roles.split!r} says test in none.")
        fitted = self._encoder.fitted
        if lacking := [name for name in (*roles.label, *(one.name for one in fitted)) if name not in frame]:
            raise ValueError(
                f"{file} must have the columns of {self._file}, but lacks {', '.join(map(repr, lacking[:_SHOWN]))}"
                f"{f' and {len(lacking) - _SHOWN:,} more' if len(lacking) > _SHOWN else ''}."
            )
        columns = [_column_like(frame[one.name], isinstance(one, FittedCategories)) for one in fitted]
        values = read_like(frame, roles.label, self._kind, self.class_names)
        if self.label_deviation:
            values = (values.double() - torch.tensor(self.label_mean)) / torch.tensor(self.label_deviation)
        ids = _ids(frame[roles.id]) if roles.id is not None and roles.id in frame else None
        return Split(self._encoder.encode(columns), values.float() if self._kind == "regression" else values, ids)


def _column_like(series: pd.Series[Any], is_category: bool) -> Column:
    """Return a column of the kind that it was trained on; numbers that are all missing are read as texts."""
    is_blank = not is_category and bool(series.isna().all())
    return as_column(series.astype(float) if is_blank else series, is_category=is_category)


@dataclass(frozen=True)
class _Roles:
    """What the columns of a table are, beside inputs."""

    label: tuple[str, ...]
    split: str | None
    group: str | None
    id: str | None
    drop: tuple[str, ...]
    categorical: tuple[str, ...]

    def inputs(self, frame: pd.DataFrame, file: Path) -> list[Column]:
        """Return the columns that are inputs, in the order of the file.

        Raises:
            ValueError: If a column that is named is not there, has two roles, or no column is left.
        """
        named = {"label": self.label, "split": (self.split,), "group": (self.group,), "id": (self.id,)}
        named |= {"drop": self.drop, "categorical": self.categorical}
        role: dict[str, str] = {}
        for option, columns in named.items():
            given = [column for column in columns if column is not None]
            check_columns(frame, given, option, file)
            for column in given:
                if column in role:
                    raise ValueError(
                        f"column {column!r} must have one role, but is named by {role[column]} and {option}."
                    )
                role[column] = option
        if self.split is not None and self.group is not None:
            raise ValueError("rows must be split by split= or by group=, but both are given: leave one out.")
        kept = [name for name in map(str, frame.columns) if role.get(name, "categorical") == "categorical"]
        if not kept:
            raise ValueError(f"{file} must have a column that is an input, but all of them have another role.")
        return [as_column(frame[name], is_category=name in self.categorical) for name in kept]


def _several(names: Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _check_choice(option: str, value: object, known: Sequence[str]) -> None:
    """Check that a value is one of several.

    Raises:
        ValueError: If it is not; the message says which may be meant.
    """
    if value not in known:
        near = difflib.get_close_matches(str(value).lower(), known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise ValueError(f"{option} must be one of {', '.join(known)}, but got {value!r}{hint}")


def _check_labels(labels: tuple[str, ...], kind: str, standardize: bool) -> None:
    """Check that the number of labels and what is done to them fit their kind."""
    if not labels or (kind == "classification" and len(labels) > 1):
        raise ValueError(
            f"label must name one column for classification, or several for multilabel and regression, but {kind=} has "
            f"{len(labels)}."
        )
    if standardize and kind != "regression":
        raise ValueError(f"standardize_label=True is for kind='regression', but got {kind=}: leave it out.")


def _parts(frame: pd.DataFrame, columns: Sequence[Column], labels: Labels, roles: _Roles) -> NDArray[np.str_]:
    """Return the split of each row.

    Raises:
        ValueError: If a row has none, or a split has no row of a class.
    """
    classes = _classes(labels)
    known = labels.known
    if roles.split is not None:
        parts = _told(frame[roles.split])
        if (lacking := ~known & (parts != "train")).any():
            raise ValueError(
                f"label {roles.label[0]!r} must be known in each row of val and test, but is missing in "
                f"{rows(lacking)}."
            )
    elif roles.group is not None:
        if (absent := frame[roles.group].isna()).any():
            raise ValueError(f"group {roles.group!r} must be known in each row, but is missing in {rows(absent)}.")
        groups = as_column(frame[roles.group], is_category=True)
        parts = split_by_content(row_digests([groups]), np.zeros(len(frame), dtype=np.int64))
    else:
        keys = np.array(row_digests(columns))
        parts = np.full(len(frame), "train", dtype="<U5")
        parts[known] = split_by_content(keys[known].tolist(), classes[known])
        place = dict(zip(keys[known], parts[known], strict=True))
        parts[~known] = [place.get(key, "train") for key in keys[~known]]
    parts[~known & (parts != "train")] = _NOWHERE
    _check_classes(parts[known], classes[known], labels.class_names if labels.values.ndim == 1 else (), roles)
    return parts


def _parts_of_folds(
    parts: NDArray[np.str_],
    folds: int,
    frame: pd.DataFrame,
    columns: Sequence[Column],
    labels: Labels,
    roles: _Roles,
) -> list[NDArray[np.str_]]:
    """Return the split of each row in each fold: rows of test stay there.

    Raises:
        ValueError: If a fold lacks rows, or rows of a class.
    """
    rest = np.flatnonzero(parts != "test")
    classes = _classes(labels)[rest]
    keys = [as_column(frame[roles.group], is_category=True)] if roles.group is not None else columns
    digests = np.array(row_digests(keys))[rest]
    numbers = folds_by_content(digests.tolist(), np.zeros_like(classes) if roles.group else classes, folds)
    found = []
    for fold in range(folds):
        own = parts.copy()
        own[rest] = np.where(numbers == fold, "val", "train")
        _check_classes(own, _classes(labels), labels.class_names if labels.values.ndim == 1 else (), roles)
        found.append(own)
    return found


def _classes(labels: Labels) -> NDArray[np.int64]:
    """Return the class of each row; 0 where labels are no classes."""
    values: NDArray[np.int64] = labels.values.numpy()
    return values if values.ndim == 1 else np.zeros(len(values), dtype=np.int64)


def _told(series: pd.Series[Any]) -> NDArray[np.str_]:
    """Return the splits that a column tells."""
    told = series.astype(object).map(str).to_numpy(dtype=str)
    odd = ~np.isin(told, NAMES)
    if odd.any():
        raise ValueError(
            f"split {str(series.name)!r} must say train, val or test in each row, but has "
            f"{series[odd].iloc[0]!r} in {rows(odd)}."
        )
    return told


def _check_classes(parts: NDArray[np.str_], classes: NDArray[np.int64], names: Sequence[str], roles: _Roles) -> None:
    """Check that each split has rows; of each class, where rows were split by class."""
    for part in NAMES:
        here = np.unique(classes[parts == part])
        lacking = sorted({*np.unique(classes).tolist()} - {*here.tolist()})
        if not len(here):
            how = "groups" if roles.group else "rows" if roles.split else "different rows"
            raise ValueError(f"{part} must have rows, but has none: the table has too few {how}.")
        if lacking and roles.split is None and roles.group is None:
            count = int((classes == lacking[0]).sum())
            raise ValueError(
                f"each class must have 5 different rows at least, for 20 % to be one, but {names[lacking[0]]!r} has "
                f"{count}, and none in {part}: drop the class, join it to another, or say split= by a column."
            )
        if lacking and part == "train":
            raise ValueError(f"each class must have rows in train, but {names[lacking[0]]!r} has none there.")


def _ids(series: pd.Series[Any]) -> tuple[int | str, ...]:
    """Return the names of the rows.

    Raises:
        ValueError: If a row has none, or two have the same.
    """
    name = str(series.name)
    if (absent := series.isna()).any():
        raise ValueError(f"id {name!r} must name each row, but is missing in {rows(absent)}.")
    if (doubled := series.duplicated(keep=False)).any():
        raise ValueError(
            f"id {name!r} must name one row each, but {series[doubled].iloc[0]!r} names two of the rows "
            f"{rows(doubled).removeprefix('rows ')}."
        )
    return sample_ids(series)


def _scales(labels: Sequence[str], deviations: Sequence[float], standardize: bool) -> list[str]:
    """Describe the scale of numbers to predict, where it matters."""
    if standardize:
        return [
            f"label {name!r} is in units of its deviation, {one:g}"
            for name, one in zip(labels, deviations, strict=True)
        ]
    return [
        f"label {name!r} has a deviation of {one:g}, which networks learn slowly: standardize_label=True"
        for name, one in zip(labels, deviations, strict=False)
        if not 1 / _LARGE <= one <= _LARGE
    ]
