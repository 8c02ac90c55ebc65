"""Tokenize texts for networks, and check that a network has a place for each token and position."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

EXTRA = "pip install 'kd-harness[text]'"
_CHUNK = 1024  # texts that are tokenized at once
_UNSAID = 10**6  # a tokenizer that names no length says a huge number
_SPARE = 1024  # rows of a table of embeddings beyond the vocabulary: tables are rounded up


@dataclass(frozen=True, eq=False)
class Tokens:
    """Texts as tokens, padded on the right.

    Attributes:
        input_ids: Tokens, shape (N, L), int64.
        attention_mask: 1 at tokens, 0 at padding, shape (N, L), int64.
        max_length: Most tokens of a text.
        cut: How many texts were longer.
    """

    input_ids: Tensor
    attention_mask: Tensor
    max_length: int
    cut: int

    @property
    def size(self) -> int:
        """Return the padded length L."""
        return self.input_ids.shape[1]


def loaded(tokenizer: Any) -> Any:
    """Return a tokenizer, loaded where its name or folder is given. No code of its own is run.

    Raises:
        ImportError: If Transformers is not installed.
        ValueError: If there is none of that name, or it is no tokenizer.
    """
    if not isinstance(tokenizer, str | Path):
        if not callable(tokenizer):
            raise ValueError(
                f"tokenizer must be a tokenizer of Transformers, its name or its folder, but got {tokenizer!r}."
            )
        return tokenizer
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise ImportError(f"tokenizers by name need Transformers: {EXTRA}") from error
    try:
        # Of any revision: what it makes of the texts is part of the data's fingerprint, to which a study is bound.
        return AutoTokenizer.from_pretrained(str(tokenizer), trust_remote_code=False)  # nosec B615
    except (OSError, ValueError) as error:
        raise ValueError(unreadable("tokenizer", tokenizer, error)) from error


def unreadable(what: str, name: Any, error: Exception) -> str:
    """Return a line about what Transformers could not load."""
    said = (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".")
    if os.path.isdir(str(name)):
        return f"{name} must be a folder of save_pretrained with a {what}, but can't be loaded: {said}."
    if Path(str(name)).is_absolute() or str(name).startswith((".", "~")):
        return f"a {what} must be in a folder, but there is no folder {name}."
    return (
        f"the {what} {name} is neither a folder, nor in the cache, nor to be had from the network ({said}); give the "
        "folder of save_pretrained."
    )


def tokenized(tokenizer: Any, texts: Sequence[str], *, max_length: int | None, size: int | None = None) -> Tokens:
    """Tokenize texts.

    Args:
        tokenizer: From ``loaded``.
        texts: The texts.
        max_length: Most tokens of a text, special ones included; ``None`` takes what the tokenizer says.
        size: Padded length L, at least ``max_length``; ``None`` takes that of the longest text.

    Raises:
        ValueError: If neither says a length, or a text has no token.
    """
    limit = int(getattr(tokenizer, "model_max_length", _UNSAID))
    if max_length is None and limit >= _UNSAID:
        raise ValueError(
            "max_length must be given, for the tokenizer says no most number of tokens: as max_length=128."
        )
    most = limit if max_length is None else max_length
    if isinstance(most, bool) or most < 1:
        raise ValueError(f"max_length must be at least 1, but got {max_length!r}.")
    found: list[list[int]] = []
    cut = 0
    for first in range(0, len(texts), _CHUNK):
        some = list(texts[first : first + _CHUNK])
        whole = tokenizer(some, verbose=False)["input_ids"]  # what is too long is counted, not warned of
        if longer := [place for place, ids in enumerate(whole) if len(ids) > most]:
            # Cut by the tokenizer, which keeps special tokens at the end.
            again = tokenizer([some[place] for place in longer], truncation=True, max_length=most)["input_ids"]
            for place, ids in zip(longer, again, strict=True):
                whole[place] = ids
        cut += len(longer)
        found += whole
    if not all(found):
        place = next(place for place, ids in enumerate(found) if not ids)
        raise ValueError(f"a text must have a token at least, but row {place + 1} has none ({texts[place][:40]!r}).")
    lengths = torch.tensor([len(ids) for ids in found])
    length = int(lengths.max()) if size is None else size
    pad = getattr(tokenizer, "pad_token_id", None) or 0
    ids = torch.full((len(found), length), pad, dtype=torch.int64)
    mask = (torch.arange(length) < lengths[:, None]).long()
    ids[mask.bool()] = torch.tensor([token for one in found for token in one], dtype=torch.int64)
    return Tokens(ids, mask, most, cut)


def fault_of(network: nn.Module, tokenizer: Any, length: int) -> tuple[str, str] | None:
    """Return what a network lacks for tokens, and what to do; ``None`` if nothing, or if it says nothing of itself.

    Args:
        network: A network; of Transformers' it is read how many tokens and positions it has.
        tokenizer: The tokenizer.
        length: Most tokens of a text.
    """
    table = _embeddings(network)
    vocabulary = len(tokenizer)
    if table is not None and not vocabulary <= table <= vocabulary + _SPARE:
        return (
            f"belong to the tokenizer, which has {vocabulary:,} tokens, but has embeddings of {table:,}",
            "load both from one folder, or build the network with vocab_size=len(tokenizer)",
        )
    most = _positions(network)
    if most is not None and most < length:
        return (
            f"have a position for each token, but has {most:,}, and texts have up to {length:,} tokens",
            f"cut them to {most:,}, or build the network with max_position_embeddings={length}",
        )
    return None


def _embeddings(network: nn.Module) -> int | None:
    """Return how many tokens a network of Transformers has embeddings of; ``None`` of others."""
    given: Any = getattr(network, "get_input_embeddings", None)
    table = given() if callable(given) else None
    return table.num_embeddings if isinstance(table, nn.Embedding) else None


def _positions(network: nn.Module) -> int | None:
    """Return how many positions a network of Transformers has; ``None`` of others.

    Of a table with a row for padding, as RoBERTa has, positions count from after that row.
    """
    stated = getattr(getattr(network, "config", None), "max_position_embeddings", None)
    for name, part in network.named_modules():
        if name.endswith("position_embeddings") and isinstance(part, nn.Embedding):
            return part.num_embeddings - (0 if part.padding_idx is None else part.padding_idx + 1)
    return stated if isinstance(stated, int) else None
