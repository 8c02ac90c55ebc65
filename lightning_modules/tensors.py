"""Datasets that fit in memory: batches are cut from whole tensors, no sample is ever fetched alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_modules.batch import Batch, Inputs, select
from lightning_modules.views import Views


@dataclass(frozen=True, eq=False)
class Split:
    """A part of a dataset whose samples are known by their position, which never changes.

    Attributes:
        inputs: What a network is called with, first dimension N: a tensor, or a dict of tensors.
        labels: Class indices, shape (N,), int64.

    Raises:
        TypeError: If inputs or labels are no tensors.
        ValueError: If it is empty, or inputs and labels differ in length, or labels are no class indices, or inputs are
            of double precision, which networks are not.
    """

    inputs: Inputs
    labels: Tensor

    def __post_init__(self) -> None:
        for name, value in self.tensors().items():
            if not isinstance(value, Tensor):
                how = "torch.from_numpy makes one of an array, torch.tensor of a list"
                raise TypeError(f"{name} of a split must be a tensor, but got {type(value).__name__}: {how}.")
            if value.dtype == torch.float64 and value is not self.labels:
                raise ValueError(f"{name} of a split must be float32, as networks are, but got float64: call .float().")
        lengths = {len(value) for value in self.tensors().values()}
        if lengths != {len(self.labels)} or not len(self.labels):
            raise ValueError(
                "inputs and labels of a split must have the same length, at least 1, but got "
                f"{ {name: tuple(value.shape) for name, value in self.tensors().items()} }."
            )
        if self.labels.dtype != torch.int64 or self.labels.ndim != 1 or self.labels.min() < 0:
            raise ValueError(
                "labels must be class indices from 0 of shape (N,) and dtype int64, but got shape "
                f"{tuple(self.labels.shape)} and {self.labels.dtype}."
            )

    def __len__(self) -> int:
        return len(self.labels)

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by name, the labels included."""
        inputs = self.inputs if isinstance(self.inputs, dict) else {"inputs": self.inputs}
        return {**inputs, "labels": self.labels}

    def few(self, count: int) -> Split:
        """The first ``count`` samples, or all if there are fewer."""
        return Split(select(self.inputs, slice(count)), self.labels[:count])

    def to(self, device: torch.device) -> Split:
        """The same samples on ``device``."""
        inputs = self.inputs
        moved = {k: v.to(device) for k, v in inputs.items()} if isinstance(inputs, dict) else inputs.to(device)
        return Split(moved, self.labels.to(device))


class TensorLoader:
    """Iterates over a split in groups of batches, in an order that only (seed, epoch) decides.

    Lightning spends a third of a millisecond around each ``training_step``, as much as a small network's whole step.
    So an item is a *list* of batches, and the module takes one optimizer step for each (what Keras calls
    ``steps_per_execution``).

    Args:
        split: The samples.
        batch_size: Samples in a batch; the last one may be smaller.
        teacher: The teacher's stored outputs for every sample of the split, first dimension N, the second V where there
            are views.
        shuffle_seed: Decides the order together with the epoch; ``None`` keeps the order of the split.
        batches_per_item: Batches in one item.
        views: What is shown of the samples, one view in an epoch; ``None`` shows them as they are.
    """

    def __init__(
        self,
        split: Split,
        *,
        batch_size: int,
        teacher: dict[str, Tensor] | None = None,
        shuffle_seed: int | None = None,
        batches_per_item: int = 32,
        views: Views | None = None,
    ) -> None:
        self.split = split
        self.batch_size = batch_size
        self.teacher = teacher or {}
        self.shuffle_seed = shuffle_seed
        self.batches_per_item = batches_per_item
        self.views = views
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose order and view of the next pass. To be called before each, also after a resume."""
        self.epoch = epoch

    @property
    def batches(self) -> int:
        """Batches, and so optimizer steps, in an epoch."""
        return -(-len(self.split) // self.batch_size)

    def __len__(self) -> int:
        return -(-self.batches // self.batches_per_item)

    def __iter__(self) -> Iterator[list[Batch]]:
        # An item is gathered at once, and its batches are views of it: a quarter of the time of gathering each.
        for ids in self._order().split(self.batch_size * self.batches_per_item):
            inputs, labels = select(self.split.inputs, ids), self.split.labels[ids]
            if self.views is None:
                teacher = {name: values[ids] for name, values in self.teacher.items()}
            else:
                view = self.epoch % self.views.count
                inputs = self.views.of(inputs, ids, view)
                teacher = {name: values[ids, view] for name, values in self.teacher.items()}
            parts = (slice(first, first + self.batch_size) for first in range(0, len(ids), self.batch_size))
            yield [
                Batch(
                    ids=ids[part],
                    inputs=select(inputs, part),
                    labels=labels[part],
                    teacher={name: values[part] for name, values in teacher.items()},
                )
                for part in parts
            ]

    def _order(self) -> Tensor:
        size, device = len(self.split), self.split.labels.device
        if self.shuffle_seed is None:
            return torch.arange(size, device=device)
        # Drawn on the CPU, so that an order does not depend on the device. Both numbers go into the seed whole:
        # neighbouring (seed, epoch) pairs must not share an order.
        generator = torch.Generator().manual_seed((self.shuffle_seed << 24) + self.epoch)
        return torch.randperm(size, generator=generator).to(device)


class TensorDataModule(pl.LightningDataModule):
    """Fixed train, validation and test splits held in memory.

    Args:
        train: Samples that are trained on.
        val: Samples that choose between students.
        test: Samples that the search never sees.
        batch_size: Samples in a training batch.
        eval_batch_size: Samples in a batch that is only evaluated.
        views: What teacher and students are shown of the training samples; ``None`` shows them as they are.

    Raises:
        TypeError: If a split is none.
        ValueError: If a batch size is below 1.
    """

    def __init__(
        self,
        *,
        train: Split,
        val: Split,
        test: Split,
        batch_size: int = 64,
        eval_batch_size: int = 512,
        views: Views | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1 or eval_batch_size < 1:
            raise ValueError(f"batch sizes must be at least 1, but got {batch_size=} and {eval_batch_size=}.")
        self.splits = {"train": train, "val": val, "test": test}
        for name, part in self.splits.items():
            if not isinstance(part, Split):
                raise TypeError(
                    f"{name} must be a Split(inputs, labels) of lightning_modules.tensors, but got "
                    f"{type(part).__name__}."
                )
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.views = views
        self.seed = 0
        self.device = torch.device("cpu")
        self.teacher_outputs: dict[str, dict[str, Tensor]] = {}
        self.teacher_layers: tuple[str, ...] = ()  # of the teacher's, those that batches bring beside its logits

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch."""
        return -(-len(self.splits["train"]) // self.batch_size)

    def attach(self, teacher_outputs: dict[str, dict[str, Tensor]]) -> None:
        """Join the teacher's stored outputs to the samples, by split and name, each of first dimension N.

        Where the training samples have views, those of ``train`` are (N, V, …).

        Raises:
            ValueError: If they are not as many as the samples, or as their views.
        """
        for split, outputs in teacher_outputs.items():
            for name, values in outputs.items():
                if (
                    split == "train"
                    and self.views is not None
                    and (values.ndim < 3 or values.shape[1] != self.views.count)
                ):
                    raise ValueError(
                        f"the teacher's {name} must hold {self.views.count} views of each sample of {split}, shape "
                        f"(N, {self.views.count}, ...), but got {tuple(values.shape)}."
                    )
                if len(values) != len(self.splits[split]):
                    raise ValueError(
                        f"the teacher's {name} must hold one row for each of the {len(self.splits[split])} samples "
                        f"of {split}, but got {len(values)}."
                    )
        self.teacher_outputs = {
            split: {name: values.to(self.device) for name, values in outputs.items()}
            for split, outputs in teacher_outputs.items()
        }

    def move_to(self, device: torch.device) -> None:
        """Keep the splits on ``device`` from now on: one copy, instead of one a batch."""
        self.device = device
        self.splits = {name: split.to(device) for name, split in self.splits.items()}
        self.attach(self.teacher_outputs)

    def train_dataloader(self) -> TensorLoader:
        """Training batches, shuffled by (``seed``, epoch)."""
        return TensorLoader(
            self.splits["train"],
            batch_size=self.batch_size,
            teacher=self._brought("train"),
            shuffle_seed=self.seed,
            views=self.views,
        )

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Nothing to move: batches are cut on the device (see ``move_to``)."""
        return batch

    def ordered(self, split: str) -> TensorLoader:
        """Batches of ``split`` in the order of its samples; of those of ``train``, the view that ``set_epoch`` says."""
        return TensorLoader(
            self.splits[split],
            batch_size=self.eval_batch_size,
            teacher=self._brought(split),
            views=self.views if split == "train" else None,
        )

    def _brought(self, split: str) -> dict[str, Tensor]:
        """What batches bring of the teacher's outputs: gathering what nobody asks for would take most of a step."""
        outputs = self.teacher_outputs.get(split, {})
        return {name: values for name, values in outputs.items() if name == "logits" or name in self.teacher_layers}
