"""Serve running text for causal language models: tokens of whole documents, packed into chunks of one length."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_modules.batch import UNLABELLED
from lightning_modules.data.padded import PaddedDataModule
from lightning_modules.data.splits import NAMES
from lightning_modules.data.tensors import Split
from lightning_modules.data.text_files import TEXT, read_text, read_texts
from lightning_modules.data.tokenizing import fault_of, loaded

_ENDS = (0.8, 0.9, 1.0)  # of train, val and test, as shares of the documents or of each
_FEW = 10  # documents, below which each is cut, for a split of one would say little of the others


class PackedText(PaddedDataModule):
    """Data module of running text, tokenized once and held in memory, for networks of the output ``Tokens``.

    Documents are joined, each with the tokenizer's end of text after it, and cut into chunks of ``length`` tokens.
    Labels are the next tokens, shape (N, L): they are shifted by one place already. Only the last chunk of a split may
    be padded, and has the label -100 there. A chunk may hold the end of one document and the beginning of another.

    Args:
        source: A folder of ``.txt`` files, a document each; one such file; or a table with a column of texts, as of
            ``Texts``.
        tokenizer: A tokenizer of Transformers, or the name or folder of one.
        length: Tokens of a chunk, at which costs are measured.
        held_out: ``"documents"``: 80 % of the documents train, 10 % validate and 10 % test, by a hash of their texts.
            ``"parts"``: so do the beginning, the next part and the end of each. ``None`` cuts each document where there
            are fewer than 10.
        text: Column of the texts in a table.
        encoding: Of text files.
        batch_size: Chunks in a training batch.
        eval_batch_size: Chunks in an evaluation batch.

    Attributes:
        tokenizer: The tokenizer.

    Raises:
        ImportError: If a tokenizer is given by its name, and Transformers is not installed.
        ValueError: If there are no texts, one is empty, or a split would have no chunk.
    """

    def __init__(
        self,
        source: Path | str | None,
        *,
        tokenizer: Any,
        length: int,
        held_out: Literal["documents", "parts"] | None = None,
        text: str = TEXT,
        encoding: str = "utf-8",
        batch_size: int = 8,
        eval_batch_size: int = 16,
    ) -> None:
        if source is None:
            raise ValueError("PackedText needs a folder or a file of text: name it by --data-dir.")
        if isinstance(length, bool) or not isinstance(length, int) or length < 2:
            raise ValueError(f"length must be a whole number of at least 2 tokens, but got {length!r}.")
        if held_out not in (None, "documents", "parts"):
            raise ValueError(f"held_out must be 'documents' or 'parts', but got {held_out!r}.")
        self.tokenizer = loaded(tokenizer)
        self.length, self._text, self._encoding = length, text, encoding
        documents = self._texts = _documents(Path(source), text, encoding)
        held_out = held_out or ("documents" if len(documents) >= _FEW else "parts")
        ids = [self._ids(document) for document in documents]
        parts = _whole_documents(documents, ids) if held_out == "documents" else _parts_of_each(ids)
        splits = {name: packed(parts[name], length, self._end) for name in NAMES}
        if short := next((name for name in NAMES if splits[name] is None), None):
            raise ValueError(
                f"{short} must have a chunk of text, but has too little: {len(documents)} documents of "
                f"{sum(map(len, ids)):,} tokens, held out by {held_out}."
            )
        train, val, test = (split for split in splits.values() if split is not None)
        super().__init__(
            train=train,
            val=val,
            test=test,
            labels_by_token=True,
            measured_length=length,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
        )
        counts = " / ".join(f"{sum(map(len, parts[name])):,}" for name in NAMES)
        how = "whole documents" if held_out == "documents" else "the end of each document"
        self.notes = (
            f"{counts} tokens of {len(documents):,} documents train / validate / test; {how} held out",
            *self.notes,
        )

    def new_samples(self, path: Path) -> Split:
        """Return the chunks of other texts.

        Args:
            path: A folder or a file, as of this.

        Raises:
            ValueError: If there are none, or one is among these.
        """
        documents = _documents(path, self._text, self._encoding)
        if seen := [number for number, document in enumerate(documents, 1) if document in self._texts]:
            raise ValueError(f"document {seen[0]} of {path} is one of the searched texts: take it out, it is not new.")
        found = packed([self._ids(document) for document in documents], self.length, self._end)
        if found is None:
            raise ValueError(f"{path} must have two tokens of text at least.")
        return found

    def network_fault(self, network: nn.Module) -> tuple[str, str] | None:
        """Return why a network has no place for a token or a position of these chunks."""
        return fault_of(network, self.tokenizer, self.length)

    @property
    def _end(self) -> int | None:
        """Return the token that ends a text; ``None`` if the tokenizer has none."""
        end = self.tokenizer.eos_token_id
        found: int | None = self.tokenizer.sep_token_id if end is None else end
        return found

    def _ids(self, document: str) -> list[int]:
        """Return the tokens of a document, without special ones."""
        found: list[int] = self.tokenizer(document, add_special_tokens=False, verbose=False)["input_ids"]
        return found


def packed(documents: Sequence[Sequence[int]], length: int, end: int | None) -> Split | None:
    """Return documents as chunks of ``length`` tokens, with the next token as the label of each.

    Args:
        documents: Tokens of each document.
        length: Tokens of a chunk.
        end: Token after each document; ``None`` for none.

    Returns:
        The chunks; ``None`` if there are fewer than two tokens.
    """
    joined = [token for document in documents for token in (*document, *([] if end is None else [end]))]
    count = len(joined) - 1
    if count < 1:
        return None
    chunks = -(-count // length)
    tokens = torch.tensor(joined, dtype=torch.int64)

    def rows(values: Tensor, fill: int) -> Tensor:
        whole = torch.full((chunks * length,), fill, dtype=torch.int64)
        whole[:count] = values
        return whole.view(chunks, length)

    inputs = {"input_ids": rows(tokens[:-1], 0), "attention_mask": rows(torch.ones_like(tokens[:-1]), 0)}
    return Split(inputs, rows(tokens[1:], UNLABELLED))


def _documents(source: Path, text: str, encoding: str) -> list[str]:
    """Return the texts of documents, in the order of their files or rows.

    Raises:
        ValueError: If there are none.
    """
    files = sorted(source.rglob("*.txt")) if source.is_dir() else [source] if source.suffix == ".txt" else []
    if source.is_dir() and not files:
        raise ValueError(f"{source} must have .txt files, but has none.")
    if files:
        return [read_text(file, encoding) for file in files]
    return list(read_texts(source, text=text, encoding=encoding)[text])


def _whole_documents(documents: Sequence[str], ids: Sequence[list[int]]) -> dict[str, list[list[int]]]:
    """Return the documents of each split, by the hashes of their texts; equal ones are in one split."""
    keys = [hashlib.sha256(document.encode()).hexdigest() for document in documents]
    known = {key: place for place, key in enumerate(sorted(set(keys)))}
    found: dict[str, list[list[int]]] = {name: [] for name in NAMES}
    for key, tokens in zip(keys, ids, strict=True):
        share = known[key] / len(known)
        found[next(name for name, end in zip(NAMES, _ENDS, strict=True) if share < end)].append(tokens)
    return found


def _parts_of_each(ids: Sequence[list[int]]) -> dict[str, list[list[int]]]:
    """Return the beginning of each document, what comes next, and the end."""
    found: dict[str, list[list[int]]] = {name: [] for name in NAMES}
    for tokens in ids:
        begin = 0
        for name, share in zip(NAMES, _ENDS, strict=True):
            end = round(share * len(tokens))
            found[name].append(tokens[begin:end])
            begin = end
    return found
