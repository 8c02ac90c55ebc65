"""Hash what samples hold: the same samples have the same hash, in memory or read one by one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from torch import Tensor, uint8

from lightning_modules.batch import Inputs

HASHED_AT_ONCE = 256
"""Samples in a part that is hashed."""


def samples_digest(parts: Iterable[tuple[Inputs, Tensor]]) -> str:
    """Return a hash of samples and their labels: names, types, shapes and every byte.

    Args:
        parts: Inputs and labels of all samples in order, ``HASHED_AT_ONCE`` at a time, for the parts count too.
    """
    hasher = hashlib.sha256()
    for inputs, labels in parts:
        if isinstance(inputs, Tensor):
            _add(hasher, "inputs", inputs)
        else:
            for name in sorted(inputs):
                _add(hasher, f"inputs {name!r}", inputs[name])
        _add(hasher, "labels", labels)
    return hasher.hexdigest()[:16]


def _add(hasher: Any, name: str, values: Tensor) -> None:
    values = values.detach().cpu().contiguous()
    hasher.update(f"{name} {values.dtype} {tuple(values.shape)} ".encode())
    hasher.update(values.reshape(-1).view(uint8).numpy().data)
