"""Join what a file of outputs says to samples, by id or by position: each exactly once, with nothing left over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.core.errors import Unfit
from lightning_modules.data.tensors import TensorDataModule, sample_ids

SPLITS = ("train", "val", "test")
_SHOWN = 3
_WHO = "the outputs that teach"

_Key = tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class Keys:
    """What each row of outputs is of.

    Attributes:
        ids: Ids of the samples; ``None`` where rows name a split and a position in it.
        splits: Names of the splits, beside ``rows``.
        rows: Positions of the samples in their splits.
        views: Views of the samples; ``None`` where there are none.
        is_untyped: Whether ids come from a file that does not tell numbers from texts: those of the data decide.
    """

    ids: Sequence[int | str] | None = None
    splits: Sequence[str] | None = None
    rows: Sequence[int] | None = None
    views: Sequence[int] | None = None
    is_untyped: bool = False

    def __post_init__(self) -> None:
        for name in ("ids", "splits", "rows", "views"):
            given = getattr(self, name)
            object.__setattr__(self, name, None if given is None else _listed(name, given))
        if (self.ids is None) == (self.splits is None or self.rows is None):
            raise ValueError(
                "outputs must say of which sample each row is: by ids, or by splits and rows (positions there)."
            )
        lengths = {len(one) for one in (self.ids, self.splits, self.rows, self.views) if one is not None}
        if len(lengths) > 1:
            raise ValueError(f"ids, splits, rows and views must have one length, but have {sorted(lengths)}.")

    def __len__(self) -> int:
        return len(self.ids if self.ids is not None else self.rows or ())

    def name(self, place: int) -> str:
        """Return the name of a row in messages."""
        view = "" if self.views is None else f" (view {self.views[place]})"
        return f"{_named(self._samples()[place])}{view}"

    def places(self, data: TensorDataModule) -> dict[str, Tensor]:
        """Return the row of each sample by split, shape (N,), or (N, V) where training samples have views.

        A test split without any row is left out.

        Raises:
            Unfit: If a sample has no row or two, a row is of no sample, or views do not match.
        """
        if self.is_untyped and self.ids is not None and _has_numbers(data):
            numbers = [int(one) if str(one).isdecimal() else one for one in self.ids]
            return replace(self, ids=numbers, is_untyped=False).places(data)
        views = 1 if data.views is None else data.views.count
        if views > 1 and self.views is None:
            raise Unfit(
                f"{_WHO} have one row for each sample, but the task shows {views} views of each training sample, and "
                "a file has no answers for what it was not asked about",
                "add a column view (0, 1, ..), or leave the views out of data()",
            )
        found = self._index(views)
        places, wanted = {}, set[_Key]()
        for split, keys in self._wanted(data).items():
            shown = views if split == "train" else 1
            each = [[(*key, view) for view in range(shown)] for key in keys]
            wanted.update(key for row in each for key in row)
            missing = [row[0] for row in each if any(key not in found for key in row)]
            if split == "test" and not any(key in found for row in each for key in row):
                continue
            if missing:
                raise Unfit(
                    f"{_WHO} have no row for {len(missing):,} of the {len(keys):,} samples of {split}: "
                    f"{_list([key[:-1] for key in missing])}{self._hint(data)}",
                    "add them, or leave these samples out of data()",
                )
            table = torch.tensor([[found[key] for key in row] for row in each])
            places[split] = table if split == "train" and data.views is not None else table[:, 0]
        if unknown := [key for key in found if key not in wanted]:
            raise Unfit(
                f"{_WHO} have {len(unknown):,} rows of samples that the data has not: "
                f"{_list([key[:-1] for key in unknown])}{self._hint(data)}",
                "take them out, or bring the ids of data() and of the outputs together",
            )
        return places

    def _samples(self) -> list[_Key]:
        if self.ids is not None:
            return [(one,) for one in self.ids]
        assert self.splits is not None and self.rows is not None
        return list(zip(self.splits, self.rows, strict=True))

    def _index(self, views: int) -> dict[_Key, int]:
        """Return the row of each sample and view.

        Raises:
            Unfit: If one has several.
        """
        found: dict[_Key, int] = {}
        twice: list[_Key] = []
        for place, key in enumerate(self._samples()):
            whole = (*key, 0 if self.views is None else self.views[place])
            if whole in found:
                twice.append(key)
            found[whole] = place
        if twice:
            raise Unfit(
                f"{_WHO} have more than one row for {len(set(twice)):,} samples: {_list(list(dict.fromkeys(twice)))}",
                "leave one row for each, or name the views in a column view" if views > 1 else "leave one row for each",
            )
        return found

    def _wanted(self, data: TensorDataModule) -> dict[str, list[_Key]]:
        if self.ids is None:
            return {name: [(name, row) for row in range(len(part))] for name, part in data.splits.items()}
        ids = {name: part.ids for name, part in data.splits.items()}
        without = [name for name, given in ids.items() if given is None]
        if without:
            raise Unfit(
                f"{_WHO} are joined to samples by id, but the samples of {', '.join(without)} have none",
                "give data() ids, Split(inputs, labels, ids=...), or the outputs two columns, split and row, the "
                "position in the split",
            )
        return {name: [(one,) for one in given] for name, given in ids.items() if given is not None}

    def _hint(self, data: TensorDataModule) -> str:
        """Return a remark where ids are numbers on one side and text on the other."""
        if self.ids is None or not self.ids:
            return ""
        theirs = next((given[0] for part in data.splits.values() if (given := part.ids)), None)
        if theirs is None or isinstance(theirs, str) == isinstance(self.ids[0], str):
            return ""
        kinds = ["text" if isinstance(one, str) else "whole numbers" for one in (self.ids[0], theirs)]
        return f" (ids are {kinds[0]} there, and {kinds[1]} in the data)"


def _has_numbers(data: TensorDataModule) -> bool:
    """Return whether the data's ids are whole numbers."""
    first = next((part.ids[0] for part in data.splits.values() if part.ids), "")
    return isinstance(first, int)


def _listed(name: str, given: Any) -> list[Any]:
    """Return keys as a list of whole numbers and texts."""
    if name == "ids":
        return list(sample_ids(given))
    values = given.tolist() if hasattr(given, "tolist") else list(given)
    if name == "splits":
        if other := [one for one in values if one not in SPLITS]:
            raise ValueError(f"splits must be named {', '.join(SPLITS)}, but got {other[0]!r}.")
        return values
    whole = np.asarray(values)
    if len(whole) and (whole.dtype.kind not in "iu" and not np.equal(np.mod(whole.astype(float), 1), 0).all()):
        raise ValueError(f"{name} must be whole numbers, but got {values[0]!r}.")
    return [int(one) for one in values]


def _named(key: _Key) -> str:
    return repr(key[0]) if len(key) == 1 else f"{key[0]} row {key[1]}"


def _list(keys: list[_Key]) -> str:
    more = f" and {len(keys) - _SHOWN:,} more" if len(keys) > _SHOWN else ""
    return ", ".join(map(_named, keys[:_SHOWN])) + more
