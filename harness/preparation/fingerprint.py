"""Fingerprint of the data: a content hash of every sample and view."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from harness.core.content import TensorHasher, digest
from harness.core.sources import Code
from lightning_modules.batch import Inputs
from lightning_modules.data.tensors import TensorDataModule
from lightning_modules.data.views import Views

_HASHED_IN_PART = 64  # samples whose views stand for those of all
_HASHED_AT_ONCE, _HASHED_BYTES = 4096, 2**26  # samples, and bytes of them: views need not fit in memory


def fingerprint(data: TensorDataModule) -> str:
    """Return a content hash of every sample and its label, of every view, and of what an epoch shows."""
    hasher = TensorHasher()
    for split, part in data.splits.items():
        hasher.add_text(f"{split} is {part.fingerprint}")
    if data.sampler is not None:
        hasher.add("an epoch shows", data.sampler.order(0, 0))
    if data.views is not None:
        _add_views(hasher, data, data.views)
    return hasher.key()


def fingerprint_of_folds(fingerprints: Sequence[str]) -> str:
    """Return what stands for all folds, from the fingerprint of each; of one it is its own."""
    return fingerprints[0] if len(fingerprints) == 1 else digest("folds", *fingerprints)


def cache_key(data: TensorDataModule, dataset: str, code: Code) -> str:
    """Return what stands for the data in the keys of teachers and their outputs, which studies share.

    Where the fingerprint holds the views of some samples alone, the code of the space file stands for the rest.

    Args:
        data: The data.
        dataset: Their fingerprint.
        code: The code of the space.
    """
    if data.views is None or not _hashed_in_part(data, data.views):
        return dataset
    return digest("views", dataset, dict(code.files))


def _hashed_in_part(data: TensorDataModule, views: Views) -> bool:
    """Return whether the views of some samples stand for those of all."""
    return views.fresh or data.splits["train"].is_read


def _add_views(hasher: TensorHasher, data: TensorDataModule, views: Views) -> None:
    """Hash every view of every sample; of views that are fresh, or read from disk, those of some samples."""
    train = data.splits["train"]
    in_part = _hashed_in_part(data, views)
    ids = torch.linspace(0, len(train) - 1, min(_HASHED_IN_PART, len(train))).long() if in_part else None
    ids = torch.arange(len(train)) if ids is None else ids
    if in_part:
        hasher.add_text(f"{len(views.examples)} views, fresh: {views.fresh}, seed {views.seed}")
    if views.mix is not None:
        hasher.add_text(f"mixed by {views.mix!r}, seed {views.seed}")
    size = max(1, min(_HASHED_AT_ONCE, _HASHED_BYTES // max(1, _bytes_of(train.few(1).inputs))))
    for view in views.examples:
        for some in ids.split(size):
            inputs, targets = data.shown(some, view)
            _add(hasher, f"view {view} of train", inputs)
            if targets is not None:
                hasher.add(f"view {view} of train: targets", targets)


def _bytes_of(inputs: Inputs) -> int:
    return sum(one.nbytes for one in (inputs.values() if isinstance(inputs, dict) else [inputs]))


def _add(hasher: TensorHasher, what: str, inputs: Inputs) -> None:
    """Hash inputs under names that no other tensor has, whatever the keys of a dict are."""
    if isinstance(inputs, Tensor):
        hasher.add(f"{what} inputs", inputs)
    else:
        for name in sorted(inputs):
            hasher.add(f"{what} inputs {name!r}", inputs[name])
