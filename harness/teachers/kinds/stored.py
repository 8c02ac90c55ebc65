"""Outputs alone as the teacher: what some model said of each sample, in memory or in a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from harness.core.content import digest, tensors_digest
from harness.core.errors import HarnessError, Unfit, one_line
from harness.teachers.answers import (
    FLOOR,
    KINDS,
    LABELS,
    LOGITS,
    OF_CLASSES,
    OF_LABELS,
    OF_VALUES,
    PROBABILITIES,
    TOP_K,
    VALUES,
    Logits,
    are_shares,
    from_labels,
    from_top_k,
    to_logits,
    usable_kind,
)
from harness.teachers.black_box import BlackBoxTeacher, Ground, Query
from harness.teachers.joining import Keys
from harness.teachers.output_files import SUFFIXES, holds_outputs, read_outputs

_SHOWN = 3
_TABLE = "the table of outputs"


def recognizes(path: Path) -> bool:
    """Return whether a file holds outputs: by its suffix, and of safetensors by the names in it."""
    return path.suffix in SUFFIXES and (path.suffix != ".safetensors" or holds_outputs(path))


def load(path: Path, names: tuple[str, ...]) -> StoredOutputs:
    """Return the outputs in a file.

    Raises:
        HarnessError: If they can't be read, or do not say what they are.
    """
    try:
        found = read_outputs(path)
        keys = found.keys
        teacher = StoredOutputs(
            keys.ids, found.values, kind=found.kind, classes=found.classes, split=keys.splits, row=keys.rows,
            view=keys.views,
        )  # fmt: skip
        teacher._is_guessed = found.is_guessed
        teacher._keys = keys  # which know that a file may not tell numbers from texts
        return teacher
    except (ValueError, OSError) as error:
        raise HarnessError(f"--teacher {path} {one_line(error).rstrip('.')}.") from error


class StoredOutputs(BlackBoxTeacher):
    """What some model said of each sample. It has no costs, and answers nothing that it was not asked before.

    Args:
        ids: Id of each row's sample, as ``Split(inputs, labels, ids=...)`` names them; ``None`` where ``split`` and
            ``row`` tell the sample.
        values: What was said, one row for each sample: a data frame whose columns are classes, or an array (N, C). Of
            ``"labels"``, names or indices of classes (N,). Of ``"top_k"``, a pair: classes (N, k) and their
            probabilities (N, k), of which the rest up to 1 is spread evenly over the other classes.
            Of several labels, columns are labels, and ``"labels"`` are 0 or 1 for each (N, L).
        kind: ``"probabilities"``, ``"log_probabilities"``, ``"logits"``, ``"labels"`` or ``"top_k"``; ``"values"`` of a
            regression.
        classes: Names of the columns of ``values``; by default those of a data frame, or the task's order.
        split: Name of each row's split, in place of ids.
        row: Position of each row's sample in that split, in place of ids.
        view: View of each row's training sample, where the task has views; 0 in the other splits.
    """

    who: ClassVar[str] = "the outputs that teach"
    is_costed: ClassVar[bool] = False

    def __init__(
        self,
        ids: Sequence[int | str] | None,
        values: Any,
        *,
        kind: str,
        classes: Sequence[int | str] | None = None,
        split: Sequence[str] | None = None,
        row: Sequence[int] | None = None,
        view: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, but got {kind!r}.")
        self._keys = Keys(ids, split, row, view)
        columns: Any = getattr(values, "columns", None) if classes is None else classes
        self._columns = None if columns is None else list(columns)
        self._kind, self._values, self._is_guessed = kind, values, False
        self._logits: dict[str, Tensor] = {}
        first = values[0] if kind == TOP_K else values
        if len(first) != len(self._keys):
            raise ValueError(
                f"outputs must have one row for each of the {len(self._keys)} ids, but there are {len(first)} rows."
            )

    @property
    def content(self) -> str:
        """Return a digest of what is said of the samples."""
        return digest("outputs", tensors_digest(self._logits))

    def _prepare(self, ground: Ground) -> None:
        if self._keys.ids is None and len(ground.data.folds) > 1:
            raise Unfit(f"{self.who} must name samples by ids where samples are cut into folds", "give ids in both")
        self._kind = self._known_kind(ground)
        told = self._told()
        self._logits = {split: told.values[places] for split, places in self._keys.places(ground.data).items()}
        if self._kind == LABELS and ground.numbers_of == OF_CLASSES:
            ground.note(
                f"its labels are stored as one class near 1 and {FLOOR:g} for each other: they say nothing of which "
                "wrong class is likelier, so a higher T does no more than smooth them"
            )
        elif told.floored:
            ground.note(
                f"{told.floored:,} of {told.values.numel():,} probabilities are below {FLOOR:g}"
                f"{' or as near to 1' if ground.numbers_of == OF_LABELS else ''}: stored as that"
            )
        if self._kind == TOP_K:
            ground.note("what its top k leave of 1 is spread evenly over the other classes")
        if "test" not in self._logits:
            ground.note("it has no outputs for the test split: confirm needs them")

    def _ask(self, query: Query) -> Tensor:
        if query.split not in self._logits:
            is_of_study = query.split in ("train", "val", "test")
            remedy = "add them" if is_of_study else "a teacher that can be asked is needed, or leave out --on"
            raise Unfit(f"{self.who} have no rows for the samples of {query.split}", remedy)
        found = self._logits[query.split][query.rows.cpu()]
        return found[:, query.view] if found.ndim == 3 else found

    def _known_kind(self, ground: Ground) -> str:
        """Return what the rows are: of a table that does not say it, by what the task's output has."""
        if not self._is_guessed or ground.numbers_of == OF_CLASSES:
            return usable_kind(self._kind, ground.numbers_of, self.who)
        if ground.numbers_of == OF_VALUES:
            if self._columns is not None and len(self._columns) == self._classes:
                ground.note(f"its columns {', '.join(map(str, self._columns))} are taken as the values in their order")
            return VALUES
        return PROBABILITIES if are_shares(self._table(), ground.numbers_of) else LOGITS

    def _told(self) -> Logits:
        """Return all rows as logits of the task's classes."""
        name = self._keys.name
        if self._kind == LABELS and self._numbers_of == OF_CLASSES:
            return Logits(from_labels(self._indices(np.asarray(self._values), name), self._classes), 0)
        if self._kind == TOP_K:
            indices, shares = (np.asarray(part) for part in self._values)
            places = self._indices(indices, name)
            values = from_top_k(places, torch.from_numpy(shares.astype(float)), self._classes, _TABLE, name)
            return to_logits(values, PROBABILITIES, _TABLE, name)
        table = self._table()
        return to_logits(table[:, self._order(table.shape[1])], self._kind, _TABLE, name, self._numbers_of)

    def _table(self) -> Tensor:
        values = self._values.to_numpy(dtype=float) if hasattr(self._values, "to_numpy") else self._values
        try:
            table = torch.from_numpy(np.array(values, dtype=float))
        except (TypeError, ValueError):
            raise Unfit(f"{self.who} must be numbers, but are not", "give a column of numbers for each class") from None
        if table.ndim == 1 and self._classes == 1:
            table = table[:, None]
        if table.ndim != 2:
            raise Unfit(
                f"{self.who} must have a row of {self._classes} numbers for each sample, but have shape "
                f"{tuple(table.shape)}",
                "give a column for each class, or say kind='labels'",
            )
        return table

    def _order(self, columns: int) -> list[int]:
        """Return the column of each class.

        Raises:
            Unfit: If a class has none, or a column is of no class.
        """
        if self._columns is None or self._numbers_of == OF_VALUES:
            if columns != self._classes:
                raise Unfit(
                    f"{self.who} have {columns} columns, but the task has {self._classes} {self._numbers_of}",
                    "give a column for each, in the task's order",
                )
            return list(range(columns))
        places = [self._class(one) for one in self._columns]
        unknown = [str(one) for one, place in zip(self._columns, places, strict=True) if place is None]
        wanted = [self._names[place] if place < len(self._names) else str(place) for place in range(self._classes)]
        missing = [name for place, name in enumerate(wanted) if place not in places]
        for what, found in (("columns of no class of the task", unknown), ("no column for classes", missing)):
            if found:
                more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
                raise Unfit(
                    f"{self.who} have {what}: {', '.join(found[:_SHOWN])}{more}",
                    f"name the columns by the task's classes: {', '.join(wanted[:10])}{', ..' if wanted[10:] else ''}",
                )
        if len(set(places)) < len(places):
            twice = next(str(one) for one, place in zip(self._columns, places, strict=True) if places.count(place) > 1)
            raise Unfit(f"{self.who} have two columns for the class {twice}", "leave one")
        return [places.index(place) for place in range(self._classes)]

    def _indices(self, given: np.ndarray, name: Any) -> Tensor:
        """Return classes, by name or by number, as indices; an empty place of top k is -1."""
        if given.dtype.kind in "iu":
            bad = (given < (-1 if self._kind == TOP_K else 0)) | (given >= self._classes)
            places = given.astype(np.int64)
        else:
            known = {one: self._class(one) for one in set(given.ravel().tolist())}
            table = {one: -2 if place is None else place for one, place in known.items()}
            if self._kind == TOP_K:
                table |= dict.fromkeys((one for one in table if one in ("", None)), -1)
            places = np.array([table[one] for one in given.ravel().tolist()], dtype=np.int64).reshape(given.shape)
            bad = places == -2
        if bad.any():
            row = int(np.argwhere(bad)[0][0])
            raise Unfit(
                f"{self.who} name a class {given[bad].ravel().tolist()[0]!r} for {name(row)}, which is none of the "
                f"task's {self._classes}",
                "name classes as class_names does, or count them from 0",
            )
        return torch.from_numpy(places)

    def _class(self, given: Any) -> int | None:
        """Return the index of a class, by its name or its number; ``None`` for what is none."""
        text = str(given)
        if text in self._names:
            return self._names.index(text)
        whole = isinstance(given, int | np.integer) or text.isdigit()
        return int(text) if whole and not self._names and 0 <= int(text) < self._classes else None
