"""Train teachers and students with Lightning: resumable, and bit-identical to an uninterrupted training."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.accelerators import AcceleratorRegistry
from pytorch_lightning.callbacks import Checkpoint

from harness.core.content import derived_seed
from harness.core.errors import HarnessError, TrialFailed
from harness.training.checkpoint import Checkpoints
from lightning_modules.classifier import ClassifierModule
from lightning_modules.data.tensors import TensorDataModule, not_finite
from lightning_modules.data.unlabelled import given_labels

EpochListener = Callable[[int, dict[str, float]], None]
"""Called with the index of an epoch, from 0, and its metrics, before the epoch's checkpoint is written."""

CHECKPOINTS_APART_S = 0.2
"""Minimum time between two checkpoints: each takes 3 % of a trial of 0.4 s."""

# Lightning makes PyTorch query NVML for GPUs at each optimizer step. Without a GPU, each query searches for the NVML
# library again, a third of a small student's step; PyTorch's own check is free then.
if not torch.cuda.is_available():
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"

# Otherwise Lightning prints in each trial which accelerators exist, and tips on how to use it.
logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
logging.getLogger("lightning_fabric").setLevel(logging.ERROR)


def device_of(accelerator: str) -> torch.device:
    """Return the device that Lightning's ``accelerator`` means on this machine.

    Raises:
        HarnessError: If this machine has no such device.
    """
    try:
        return make_trainer(accelerator, epochs=0, folder=Path()).strategy.root_device
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        here = [name for name in AcceleratorRegistry if AcceleratorRegistry[name]["accelerator"].is_available()]
        raise HarnessError(
            f"--accelerator must be auto or one of what this machine has ({', '.join(sorted(here))}), but got "
            f"{accelerator!r}: {error}"
        ) from error


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """Configuration of a training.

    Attributes:
        epochs: Length of the whole training.
        folder: Folder of the training's checkpoints.
        accelerator: Lightning's name of the device.
        seed: Seed of the training.
    """

    epochs: int
    folder: Path
    accelerator: str
    seed: int


def fit(
    module: ClassifierModule,
    data: TensorDataModule,
    config: FitConfig,
    *,
    listeners: Sequence[EpochListener] | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> None:
    """Train ``module`` to its last epoch, from the newest checkpoint in the training's folder if there is one.

    The draws of an epoch are seeded by (seed, epoch). So no generator's state is stored, and a resumed training gives
    the same bits as an uninterrupted one.

    Args:
        module: The module to train; a checkpoint overwrites its weights.
        data: Its training and validation data.
        config: Length, folder, device and seed.
        listeners: Called in order at the end of each epoch; ``None`` calls ``loss_check(data)`` alone.
        on_progress: Called every few steps with the number of epochs done, a fraction.

    Raises:
        TrialFailed, TrialPruned: If a listener raises them.
    """
    checkpoints = Checkpoints(config.folder)
    if checkpoints.newest is not None:
        module.load_state_dict(checkpoints.newest["module"])
    callback = _ResumeCallback(
        checkpoints, config.seed, [loss_check(data)] if listeners is None else listeners, on_progress
    )
    trainer = make_trainer(
        config.accelerator, epochs=config.epochs - callback.done, folder=config.folder, callbacks=[callback]
    )
    with quiet_lightning(), data.readers_kept():
        try:
            trainer.fit(module, datamodule=data)
        finally:
            data.trainer = None  # else the data, which outlives the training, would keep it and its listeners alive


@contextlib.contextmanager
def quiet_lightning() -> Iterator[None]:
    """Drop Lightning's warnings within the context, which recommend what is chosen otherwise here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The `srun` command is available")  # printed wherever Slurm is installed
        for category in (UserWarning, FutureWarning):
            warnings.filterwarnings("ignore", module="pytorch_lightning", category=category)
        yield


class _ResumeCallback(Checkpoint):
    """Resume a training: seed each epoch, call the listeners at its end, then write a checkpoint.

    In this order, an interruption leaves epochs that listeners know but no checkpoint holds; they are trained again to
    the same numbers, which listeners ignore. The other order would leave a gap.

    It derives from Lightning's ``Checkpoint`` for its place in the order of callbacks: after the module's own
    ``on_train_epoch_end``. But the checkpoint is this project's, and Lightning counts the remaining epochs only: a
    checkpoint of all of Lightning's loop state takes four times as long, a tenth of a small student's epoch.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        seed: int,
        listeners: Sequence[EpochListener],
        on_progress: Callable[[float], None] | None,
    ) -> None:
        self.checkpoints = checkpoints
        self.seed = seed
        self.listeners = listeners
        self.on_progress = on_progress
        kept = checkpoints.newest
        self.done = 0 if kept is None else kept["epoch"] + 1
        self.saved_s = (
            -math.inf if kept is None else time.monotonic()
        )  # the first epoch of a training gets a checkpoint

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        kept, self.checkpoints.newest = (
            self.checkpoints.newest,
            None,
        )  # frees it: it is large
        if kept is not None:
            for part, state in zip(_parts(trainer), kept["parts"], strict=True):
                part.load_state_dict(state)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        epoch = self.done + trainer.current_epoch
        seed_draws(derived_seed(self.seed, epoch), trainer.strategy.root_device)
        assert isinstance(pl_module, ClassifierModule)
        pl_module.criterion.begin_epoch(derived_seed(self.seed, epoch, "criterion"))
        trainer.train_dataloader.set_epoch(epoch)  # type: ignore[union-attr]

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.on_progress is not None:
            share = (batch_idx + 1) / len(trainer.train_dataloader)  # type: ignore[arg-type]
            self.on_progress(self.done + trainer.current_epoch + share)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, ClassifierModule)
        epoch, metrics = self.done + trainer.current_epoch, pl_module.epoch_metrics
        for listener in self.listeners:
            listener(epoch, metrics)
        is_last = trainer.current_epoch + 1 == trainer.max_epochs
        if is_last or time.monotonic() - self.saved_s >= CHECKPOINTS_APART_S:
            parts = [part.state_dict() for part in _parts(trainer)]
            self.checkpoints.save({"epoch": epoch, "module": pl_module.state_dict(), "parts": parts})
            self.saved_s = time.monotonic()


def loss_check(data: TensorDataModule) -> EpochListener:
    """Return a listener that calls ``check_losses`` with the training's data."""
    return lambda epoch, metrics: check_losses(epoch, metrics, data)


def check_losses(epoch: int, metrics: dict[str, float], data: TensorDataModule) -> None:
    """Check that an epoch's losses are finite, of those that it has: a module that trains itself may have none.

    Raises:
        TrialFailed: If a loss is not; the message counts samples that are not finite either.
    """
    for name in ("train/loss", "val/loss"):
        if not math.isfinite(metrics.get(name, 0.0)):
            faults = "".join(f"; {fault}" for fault in _data_faults(data))
            raise TrialFailed(f"{name} is {metrics[name]} in epoch {epoch}{faults}")


def _data_faults(data: TensorDataModule) -> Iterator[str]:
    """Describe how many samples of each split hold NaN or infinity; NaN in place of a label is none."""
    for name, part in data.splits.items():
        for key, values in part.tensors().items():
            if broken := not_finite(given_labels(data, name) if values is part.labels else values):
                where = "" if key == "inputs" else f" in {key.removeprefix('inputs.')!r}"
                yield f"{len(broken):,} of {len(values):,} {name} samples hold NaN or infinity{where}"


def _parts(trainer: pl.Trainer) -> list[Any]:
    """Return what has state beside the module: the optimizers and their schedules."""
    return [*trainer.optimizers, *(config.scheduler for config in trainer.lr_scheduler_configs)]


def seed_draws(seed: int, device: torch.device) -> None:
    """Seed the generators of the CPU and of ``device``; ``torch.manual_seed`` takes 0.5 ms to seed every backend."""
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


def make_trainer(
    accelerator: str,
    *,
    epochs: int,
    folder: Path,
    callbacks: Any = None,
    plugins: Sequence[Any] = (),
    logger: Any = None,
) -> pl.Trainer:
    """Return a Trainer for one device, which shows and writes nothing by itself.

    Args:
        accelerator: Lightning's name of the device.
        epochs: Number of epochs.
        folder: Where user's callbacks may write.
        callbacks: Callbacks, a ``Checkpoint`` among them, if checkpoints are written.
        plugins: Further plugins.
        logger: Receives what is logged at each step; ``None`` logs nothing.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The `srun` command is available")  # as above
        return pl.Trainer(
            max_epochs=epochs,
            accelerator=accelerator,
            devices=1,
            callbacks=callbacks,
            default_root_dir=folder,
            # Under Slurm, Lightning would requeue the job and load any hpc_ckpt_* file: a worker is not a job.
            plugins=[LightningEnvironment(), *plugins],
            logger=logger or False,
            log_every_n_steps=1,
            enable_checkpointing=callbacks is not None,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
