"""Read a teacher's outputs in the form of ``TopK`` from files that are mapped into memory, batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from lightning_modules.top_k import TopK, TopKLogits

ROWS = "rows"
"""Name of the tensor in a file, shape (n, ..., W), int16."""


class StoredTopK:
    """The packed logits of a split, N samples in consecutive files; only what a batch asks for is read.

    It is pickled as the names of its files, so that each worker maps them itself.

    Args:
        files: Files of safetensors, in the order of the samples.
        form: The form in which they are packed.
        classes: Number of classes C.
    """

    def __init__(self, files: Sequence[Path], form: TopK, classes: int) -> None:
        self.files, self.form, self.classes = tuple(files), form, classes

    def __reduce__(self) -> tuple[type[StoredTopK], tuple[Any, ...]]:
        return StoredTopK, (self.files, self.form, self.classes)

    @cached_property
    def _parts(self) -> list[Tensor]:
        return [load_file(file)[ROWS] for file in self.files]

    @cached_property
    def _ends(self) -> Tensor:
        return torch.tensor([len(part) for part in self._parts]).cumsum(0)

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of the logits, (N, ..., C), classes last, with the views second where there are some."""
        return (len(self), *self._parts[0].shape[1:-1], self.classes)

    @property
    def nbytes(self) -> int:
        """Return how many bytes are stored."""
        return sum(part.nbytes for part in self._parts)

    def __getitem__(self, places: Tensor | slice | tuple[Tensor, int | Tensor]) -> TopKLogits:
        """Return some samples on the CPU.

        Args:
            places: Their positions, shape (B,), or a slice; with views a pair of the positions and the view, one for
                all or one for each.
        """
        ids, view = places if isinstance(places, tuple) else (places, None)
        ids = torch.arange(len(self))[ids] if isinstance(ids, slice) else ids.cpu()
        views = view.cpu() if isinstance(view, Tensor) else view
        shape = self._parts[0].shape[1 if view is None else 2 :]
        found = torch.empty((len(ids), *shape), dtype=torch.int16)
        numbers = torch.bucketize(ids, self._ends, right=True)
        for number in numbers.unique().tolist():
            here = numbers == number
            part, local = self._parts[number], ids[here] - int(self._ends[number]) + len(self._parts[number])
            each = views[here] if isinstance(views, Tensor) else views
            found[here] = part[local] if each is None else part[local, each]
        return TopKLogits(found, self.form, self.classes)
