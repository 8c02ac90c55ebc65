"""What a LightningModule that is trained by its own code is given: one batch a step, a logger, and no teacher if so."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, NoReturn

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger
from torch import Tensor

from lightning_modules.batch import Batch
from lightning_modules.data.loading import EpochLoader
from lightning_modules.data.tensors import TensorDataModule

UNUSED = (
    *("test_step", "predict_step", "train_dataloader", "val_dataloader", "test_dataloader", "predict_dataloader"),
    "transfer_batch_to_device",
)
"""Hooks of a LightningModule that a training here does not call: data and final scores are the task's."""


def trains_itself(network: object) -> bool:
    """Return whether a network is a LightningModule with a training step of its own."""
    return isinstance(network, pl.LightningModule) and overrides(network, "training_step")


def overrides(module: pl.LightningModule, hook: str) -> bool:
    """Return whether a module has a hook of its own."""
    return getattr(type(module), hook) is not getattr(pl.LightningModule, hook)


class TeacherRead(Exception):
    """A module read ``batch.teacher`` where it is trained on labels alone."""


class HiddenTeacher(dict[str, Tensor]):
    """The outputs of no teacher: an empty dict, which raises where an output is read."""

    def __missing__(self, name: str) -> NoReturn:
        raise TeacherRead(f"batch.teacher[{name!r}]")

    def get(self, name: str, default: Any = None) -> NoReturn:
        """Raise ``TeacherRead``: a default would be taken for an output."""
        raise TeacherRead(f"batch.teacher.get({name!r})")


class SingleBatches:
    """Iterates over the batches of a loader one by one, where its items are lists of them.

    Args:
        loader: The loader.
        is_taught: Whether batches hold the teacher's outputs.
    """

    def __init__(self, loader: EpochLoader, *, is_taught: bool) -> None:
        self._loader, self._is_taught = loader, is_taught

    def __len__(self) -> int:
        return self._loader.batches

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, as of ``EpochLoader``."""
        self._loader.set_epoch(epoch)

    def __iter__(self) -> Iterator[Batch]:
        for item in self._loader:
            for batch in item:
                yield batch if self._is_taught else replace(batch, teacher=HiddenTeacher())


class SingleBatchData(pl.LightningDataModule):
    """Gives a module the training batches of a task's data one by one, and its validation batches if it wants them.

    Args:
        data: The task's data, on the device.
        is_taught: Whether batches hold the teacher's outputs.
    """

    def __init__(self, data: TensorDataModule, *, is_taught: bool) -> None:
        super().__init__()
        self._data, self._is_taught = data, is_taught

    def train_dataloader(self) -> SingleBatches:
        """Return training batches, shuffled by (seed, epoch)."""
        return SingleBatches(self._data.train_dataloader(), is_taught=self._is_taught)

    def val_dataloader(self) -> SingleBatches | list[Any]:
        """Return the batches of the validation split in order, for a ``validation_step``."""
        assert self.trainer is not None
        if not overrides(self.trainer.lightning_module, "validation_step"):
            return []
        return SingleBatches(self._data.ordered("val"), is_taught=self._is_taught)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Return the batch unchanged: it is on the device already."""
        return batch


class EpochLog(Logger):
    """Collects what a module logs in an epoch: means over its steps, and what it logs once."""

    def __init__(self) -> None:
        super().__init__()
        self._values: dict[str, list[float]] = {}

    @property
    def name(self) -> str:
        """Return the name that Lightning shows."""
        return "kd-harness"

    @property
    def version(self) -> str:
        """Return nothing: a run has no other versions."""
        return ""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Collect values of a step, or of the epoch; Lightning adds the epoch's number, which is left out."""
        for name, value in metrics.items():
            if name != "epoch":
                self._values.setdefault(name, []).append(float(value))

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing: a trial's parameters are in its run already."""

    def take(self) -> dict[str, float]:
        """Return the mean of each value since the last call, by name."""
        found = {name: sum(values) / len(values) for name, values in self._values.items()}
        self._values = {}
        return found
