"""Training with Lightning: the same for teacher and student, resumable, the same bits either way."""

from __future__ import annotations

import logging
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
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

EpochListener = Callable[[int, dict[str, float]], None]
"""Called with the epoch, from 0, and its metrics, before a checkpoint of it is written."""

CHECKPOINTS_APART_S = 0.2
"""Between an epoch that is kept and the next, of those that are shorter. Each would be 3 % of a trial of 0.4 s."""

# Lightning has PyTorch ask NVML for GPUs, at each optimizer step too. Where there is none, NVML is searched for anew
# each time, a third of a small student's step; PyTorch's own check costs nothing then.
if not torch.cuda.is_available():
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"

# Said once a trial otherwise: which accelerators exist, and how Lightning might be used instead.
logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
logging.getLogger("lightning_fabric").setLevel(logging.ERROR)


def device_of(accelerator: str) -> torch.device:
    """Return the device that Lightning's ``accelerator`` means on this machine.

    Raises:
        HarnessError: If this machine has none.
    """
    try:
        return _trainer(accelerator, epochs=0, folder=Path()).strategy.root_device
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        here = [name for name in AcceleratorRegistry if AcceleratorRegistry[name]["accelerator"].is_available()]
        raise HarnessError(
            f"--accelerator must be auto or one of what this machine has ({', '.join(sorted(here))}), but got "
            f"{accelerator!r}: {error}"
        ) from error


def fit(
    module: ClassifierModule,
    data: TensorDataModule,
    *,
    epochs: int,
    folder: Path,
    accelerator: str,
    seed: int,
    listeners: Sequence[EpochListener] = (),
    on_progress: Callable[[float], None] | None = None,
) -> None:
    """Train ``module`` to the end of ``epochs``, from the checkpoint in ``folder`` if there is one.

    What is random in an epoch is seeded by (``seed``, epoch), so that no generator's state has to be kept, and a
    resumed training gives the same bits as one that was never cut.

    Args:
        module: What to train; its weights are overwritten by those of a checkpoint.
        data: Its training and validation data.
        epochs: Length of the whole training.
        folder: The training's own folder; its checkpoints are kept in it.
        accelerator: Lightning's name of the device.
        seed: Seed of the training.
        listeners: Told, one after the other, of each epoch that ends.
        on_progress: Told, every few steps, how many epochs are done, a part of one included.

    Raises:
        TrialFailed: If a loss is not finite.
    """
    checkpoints = Checkpoints(folder)
    if checkpoints.newest is not None:
        module.load_state_dict(checkpoints.newest["module"])
    course = _ResumeCallback(checkpoints, seed, listeners, on_progress)
    trainer = _trainer(accelerator, epochs=epochs - course.done, folder=folder, callbacks=[course])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The `srun` command is available")  # said wherever Slurm is installed
        for category in (UserWarning, FutureWarning):
            warnings.filterwarnings("ignore", module="pytorch_lightning", category=category)
        try:
            trainer.fit(module, datamodule=data)
        finally:
            data.trainer = None  # or whoever takes the data on takes this training, and all that listens to it, along


class _ResumeCallback(Checkpoint):
    """The course of a training over its epochs: seeds each, tells the listeners of its end, then keeps a checkpoint.

    In this order, a cut leaves epochs that are told but not kept; they are trained again to the same numbers, and
    whoever listens knows them already. The other order would leave a gap.

    It is one of Lightning's ``Checkpoint`` callbacks for their place: after the module's own end of the epoch. But the
    checkpoint is its own, and Lightning counts the epochs that are left: one of all of Lightning's counters takes four
    times as long, a tenth of a small student's epoch.
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
        self.saved_s = -math.inf if kept is None else time.monotonic()  # the first epoch of all is kept

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        kept, self.checkpoints.newest = self.checkpoints.newest, None  # as large as all that is trained
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
        check_losses(epoch, metrics, trainer.datamodule)  # type: ignore[attr-defined]
        is_last = trainer.current_epoch + 1 == trainer.max_epochs
        if is_last or time.monotonic() - self.saved_s >= CHECKPOINTS_APART_S:
            parts = [part.state_dict() for part in _parts(trainer)]
            self.checkpoints.save({"epoch": epoch, "module": pl_module.state_dict(), "parts": parts})
            self.saved_s = time.monotonic()


def check_losses(epoch: int, metrics: dict[str, float], data: TensorDataModule) -> None:
    """Check that an epoch's losses are finite.

    Raises:
        TrialFailed: If one is not; it names what is not finite in the data.
    """
    for name in ("train/loss", "val/loss"):
        if not math.isfinite(metrics[name]):
            faults = "".join(f"; {fault}" for fault in _not_finite(data))
            raise TrialFailed(f"{name} is {metrics[name]} in epoch {epoch}{faults}")


def _not_finite(data: TensorDataModule) -> Iterator[str]:
    """Say how many samples of each split hold NaN or infinity."""
    for name, part in data.splits.items():
        for key, values in part.inputs.items() if isinstance(part.inputs, dict) else [("", part.inputs)]:
            if broken := not_finite(values):
                where = f" in {key!r}" if key else ""
                yield f"{len(broken):,} of {len(values):,} {name} samples hold NaN or infinity{where}"


def _parts(trainer: pl.Trainer) -> list[Any]:
    """Return what has a state beside the module: the optimizers and their schedules."""
    return [*trainer.optimizers, *(config.scheduler for config in trainer.lr_scheduler_configs)]


def seed_draws(seed: int, device: torch.device) -> None:
    """Seed what is drawn on the CPU and on ``device``. ``torch.manual_seed`` takes 0.5 ms to seed every kind."""
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


def _trainer(accelerator: str, *, epochs: int, folder: Path, callbacks: Any = None) -> pl.Trainer:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The `srun` command is available")  # as below
        return pl.Trainer(
            max_epochs=epochs,
            accelerator=accelerator,
            devices=1,
            callbacks=callbacks,
            default_root_dir=folder,
            # Under Slurm, Lightning would requeue the job and load any hpc_ckpt_* by itself: a worker is not a job.
            plugins=[LightningEnvironment()],
            logger=False,
            enable_checkpointing=callbacks is not None,  # by the one among them
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
