"""Serve labelled texts, as tokens: a table with a column of texts, or text files in a folder for each class."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_modules.data.padded import PaddedDataModule
from lightning_modules.data.splits import NAMES, split_by_content
from lightning_modules.data.table_files import check_columns, rows
from lightning_modules.data.table_labels import KINDS, Labels, read_labels, read_like
from lightning_modules.data.tensors import Split, sample_ids
from lightning_modules.data.text_files import ID, LABEL, SPLIT, TEXT, read_texts
from lightning_modules.data.tokenizing import Tokens, fault_of, loaded, tokenized

_DROPPED = ""  # in place of the split of a row that is left out


class Texts(PaddedDataModule):
    """Data module of labelled texts, tokenized once and held in memory.

    Networks are called with ``input_ids`` and ``attention_mask``, both (B, L), int64. Rows are split 60, 20 and 20 % of
    each class by a hash of their texts, so always alike, and equal texts are in one split; or as a column or folders
    ``train``, ``val`` and ``test`` say. The samples of a split are sorted by length; batches are cut to their longest
    (``PaddedDataModule``).

    Args:
        source: A table (``.csv``, ``.tsv``, ``.jsonl``, ``.parquet``), or a folder with a folder of ``.txt`` files for
            each class.
        tokenizer: A tokenizer of Transformers, or the name or folder of one.
        text: Column of the texts.
        label: Column to predict; several for ``multilabel`` and ``regression``. Names of classes are sorted.
        kind: As of ``Tables``.
        split: Column that says ``train``, ``val`` or ``test``.
        id: Column that names the rows, for teachers whose outputs come from a file; files are named by their paths.
        max_length: Most tokens of a text, special ones included; what is longer is cut, and counted in ``notes``.
            ``None`` takes what the tokenizer says of its model.
        most: Most rows that are taken, those whose texts have the lowest hashes: always the same. ``None`` takes all.
        deduplicate: Whether of rows with the same text only the first is kept.
        unlabelled: Whether rows without a label are training samples that the teacher alone labels; those whose text is
            in another split are left out.
        measured_length: Tokens at which costs are measured; ``None`` takes the median of the validation samples.
        encoding: Of text files.
        batch_size: Samples in a training batch.
        eval_batch_size: Samples in an evaluation batch.
        folds: As of ``TensorDataModule``; equal texts stay in one fold.

    Attributes:
        class_names: Names of the classes or labels.
        tokenizer: The tokenizer.

    Raises:
        ImportError: If a tokenizer is given by its name, and Transformers is not installed.
        ValueError: If the texts can't be read, one is empty, a column is missing, or splits lack rows of a class.
    """

    def __init__(
        self,
        source: Path | str | None,
        *,
        tokenizer: Any,
        text: str = TEXT,
        label: str | Sequence[str] = LABEL,
        kind: Literal["classification", "multilabel", "regression"] | None = None,
        split: str | None = None,
        id: str | None = None,
        max_length: int | None = None,
        most: int | None = None,
        deduplicate: bool = False,
        unlabelled: bool = False,
        measured_length: int | None = None,
        encoding: str = "utf-8",
        batch_size: int = 32,
        eval_batch_size: int = 128,
        folds: int | None = None,
    ) -> None:
        if source is None:
            raise ValueError(
                "Texts needs a table or a folder, as data_dir / 'texts.csv': name its folder by --data-dir."
            )
        self._source = Path(source)
        self._labels = (label,) if isinstance(label, str) else tuple(label)
        self._kind: str = kind or ("classification" if isinstance(label, str) else "multilabel")
        if self._kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, but got {self._kind!r}.")
        self._text, self._id, self._encoding, self._split = text, id, encoding, split
        frame = self._frame(self._source)
        notes: list[str] = []
        if deduplicate:
            kept = ~frame[self._text].duplicated()
            if repeated := int((~kept).sum()):
                notes.append(f"{repeated:,} rows repeat the text of another, and are left out")
            frame = frame[kept].reset_index(drop=True)
        keys = _keys(frame[self._text])
        if most is not None and most < len(frame):
            notes.append(f"{most:,} of {len(frame):,} rows are taken")
            chosen = sorted(np.argsort(keys, kind="stable")[:most])
            frame, keys = frame.iloc[chosen].reset_index(drop=True), [keys[place] for place in chosen]
        labels = read_labels(frame, self._labels, self._kind, unlabelled=unlabelled)
        parts = _parts(frame, keys, labels, self._split)
        if left_out := int((parts == _DROPPED).sum()):
            notes.append(f"{left_out:,} rows without a label are left out: their texts are in val or test")
        self.tokenizer = loaded(tokenizer)
        tokens = tokenized(self.tokenizer, frame[self._text].tolist(), max_length=max_length)
        ids = _ids(frame, self._id)
        places = {name: _sorted(tokens, parts == name, keys) for name in NAMES}
        splits = {name: self._split_of(tokens, here, labels.values, ids) for name, here in places.items()}
        rest = [keys[place] for name in NAMES[:2] for place in places[name].tolist()]
        super().__init__(
            train=splits["train"],
            val=splits["val"],
            test=splits["test"],
            measured_length=measured_length,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            folds=folds,
            groups=None if folds is None else rest,
        )
        self.class_names = labels.class_names
        self._size = tokens.size
        if tokens.cut:
            notes.append(f"{tokens.cut:,} of {len(frame):,} texts are cut to {tokens.max_length:,} tokens")
        self.notes = (*notes, *self.notes)
        self._searched = frozenset(rest)

    def new_samples(self, path: Path) -> Split:
        """Return the texts of another table or folder, tokenized as these, and cut to the longest of these.

        Where it says which are of ``test``, these are taken, and else all.

        Args:
            path: The table or the folder.

        Raises:
            ValueError: If it is of another form, or has texts that were trained on or chosen by.
        """
        source = path / self._source.name if path.is_dir() and self._source.is_file() else path
        frame = self._frame(source)
        if self._split is not None and self._split in frame:
            frame = frame[frame[self._split] == "test"].reset_index(drop=True)
        keys = _keys(frame[self._text])
        if seen := [place for place, key in enumerate(keys) if key in self._searched]:
            raise ValueError(
                f"{len(seen):,} of the {len(keys):,} texts in {source} were trained on or chosen by (row "
                f"{seen[0] + 1}): take them out, for they are not new."
            )
        values = read_like(frame, self._labels, self._kind, self.class_names)
        tokens = tokenized(self.tokenizer, frame[self._text].tolist(), max_length=self._size, size=self._size)
        return self._split_of(tokens, torch.arange(len(frame)), values, _ids(frame, self._id))

    def network_fault(self, network: nn.Module) -> tuple[str, str] | None:
        """Return why a network has no place for a token or a position of these texts."""
        return fault_of(network, self.tokenizer, self._size)

    def _frame(self, source: Path) -> pd.DataFrame:
        """Return the rows, with the columns that are named."""
        if source.is_dir():
            self._text, self._labels, self._id = TEXT, (LABEL,), ID
        frame = read_texts(source, text=self._text, encoding=self._encoding)
        check_columns(frame, self._labels, "label", source)
        if source.is_dir():
            self._split = SPLIT if SPLIT in frame else None
        for option, name in (("split", self._split), ("id", self._id)):
            if name is not None and source == self._source:
                check_columns(frame, [name], option, source)
        return frame

    @staticmethod
    def _split_of(tokens: Tokens, places: Tensor, values: Tensor, ids: Sequence[int | str] | None) -> Split:
        named = None if ids is None else [ids[place] for place in places.tolist()]
        inputs = {"input_ids": tokens.input_ids[places], "attention_mask": tokens.attention_mask[places]}
        return Split(inputs, values[places], named)


def text_classes(
    source: Path | str, *, text: str = TEXT, label: str = LABEL, encoding: str = "utf-8"
) -> tuple[str, ...]:
    """Return the names of the classes of texts, as ``Texts.class_names``, without a tokenizer.

    Args:
        source: As of ``Texts``.
        text: Column of the texts.
        label: Column of the classes.
        encoding: Of text files.

    Raises:
        ValueError: If it can't be read.
    """
    frame = read_texts(Path(source), text=TEXT if Path(source).is_dir() else text, encoding=encoding)
    column = LABEL if Path(source).is_dir() else label
    check_columns(frame, [column], "label", Path(source))
    return read_labels(frame, [column], "classification", unlabelled=True).class_names


def _sorted(tokens: Tokens, chosen: NDArray[np.bool_], keys: Sequence[str]) -> Tensor:
    """Return the positions of some texts, sorted by length and content."""
    here = np.flatnonzero(chosen)
    lengths = tokens.attention_mask.sum(1).numpy()[here]
    return torch.from_numpy(here[np.lexsort((np.asarray(keys)[here], lengths))])


def _keys(texts: Iterable[str]) -> list[str]:
    """Return a hash of each text."""
    return [hashlib.sha256(one.encode()).hexdigest()[:32] for one in texts]


def _ids(frame: pd.DataFrame, column: str | None) -> tuple[int | str, ...] | None:
    return None if column is None or column not in frame else sample_ids(frame[column])


def _parts(frame: pd.DataFrame, keys: Sequence[str], labels: Labels, split: str | None) -> NDArray[np.str_]:
    """Return the split of each row.

    Raises:
        ValueError: If a row has none, or a split has no row of a class.
    """
    known, values = labels.known, labels.values.numpy()
    classes = values if values.ndim == 1 else np.zeros(len(values), dtype=np.int64)
    if split is not None:
        parts = frame[split].astype(object).map(str).to_numpy(dtype=str)
        if (odd := ~np.isin(parts, NAMES)).any():
            raise ValueError(
                f"split {split!r} must say train, val or test in each row, but has {parts[odd][0]!r} in {rows(odd)}."
            )
        if (lacking := ~known & (parts != "train")).any():
            raise ValueError(f"each row of val and test must have a label, but it is missing in {rows(lacking)}.")
    else:
        every = np.asarray(keys)
        parts = np.full(len(frame), "train", dtype="<U5")
        parts[known] = split_by_content(every[known].tolist(), classes[known])
    held_out = {key for key, part in zip(keys, parts, strict=True) if part in NAMES[1:]}
    parts[~known & np.isin(keys, list(held_out))] = _DROPPED
    for name in NAMES:
        here = classes[known & (parts == name)]
        if not len(here):
            raise ValueError(f"{name} must have texts, but has none: there are too few different ones.")
        if lacking_classes := sorted({*classes[known].tolist()} - {*here.tolist()}):
            if split is None or name == "train":
                raise ValueError(
                    f"each class must have texts in {name}, five different ones in all at least, but "
                    f"{labels.class_names[lacking_classes[0]]!r} has none there: drop the class, or join it to another."
                )
    return parts
