"""Fingerprint of the data: a content hash of every sample and view."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.core.content import TensorHasher
from lightning_modules.batch import Inputs, select
from lightning_modules.data.tensors import TensorDataModule
from lightning_modules.data.views import show

_HASHED_AT_ONCE, _HASHED_BYTES = 4096, 2**26  # samples, and bytes of them: views need not fit in memory


def fingerprint(data: TensorDataModule) -> str:
    """Return a content hash of every sample and its label, of every view, and of what an epoch shows."""
    hasher = TensorHasher()
    for split, part in data.splits.items():
        hasher.add_text(f"{split} is {part.fingerprint}")
    if data.sampler is not None:
        hasher.add("an epoch shows", data.sampler.order(0, 0))
    if data.views is not None:
        train = data.splits["train"]
        size = max(1, min(_HASHED_AT_ONCE, _HASHED_BYTES // max(1, _bytes_of(train.few(1).inputs))))
        for view in range(data.views.count):
            for ids in torch.arange(len(train)).split(size):
                inputs, targets = show(data.views, select(train.inputs, ids), ids, view)
                _add(hasher, f"view {view} of train", inputs)
                if targets is not None:
                    hasher.add(f"view {view} of train: targets", targets)
    return hasher.key()


def _bytes_of(inputs: Inputs) -> int:
    return sum(one.nbytes for one in (inputs.values() if isinstance(inputs, dict) else [inputs]))


def _add(hasher: TensorHasher, what: str, inputs: Inputs) -> None:
    """Hash inputs under names that no other tensor has, whatever the keys of a dict are."""
    if isinstance(inputs, Tensor):
        hasher.add(f"{what} inputs", inputs)
    else:
        for name in sorted(inputs):
            hasher.add(f"{what} inputs {name!r}", inputs[name])
