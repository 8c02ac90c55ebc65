"""Train a LightningModule by its own code: seeded by epoch, resumable, and scored by forward after each epoch.

Lightning restores its own loops here, for a module may ask for its epoch, its steps, or how many there will be.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io.checkpoint_io import CheckpointIO
from pytorch_lightning.callbacks import Checkpoint
from torch import Tensor
from torchmetrics import Metric

from harness.core.content import derived_seed
from harness.core.errors import TrialFailed
from harness.core.names import LONGEST
from harness.training import fit as fitting
from harness.training.checkpoint import Checkpoints
from harness.training.fit import (
    EpochListener,
    FitConfig,
    check_losses,
    loss_check,
    make_trainer,
    quiet_lightning,
    seed_draws,
)
from lightning_modules.batch import call, evaluating
from lightning_modules.data.tensors import TensorDataModule
from lightning_modules.outputs import Output
from lightning_modules.own_module import EpochLog, SingleBatchData, TeacherRead
from lightning_modules.scoring import SplitScores

OWN = "own/"
"""Prefix of what a module logs under a name that the engine has: its value is another one."""

_LEFT_OUT = ("hyper_parameters", "hparams_name", "datamodule_hyper_parameters", "datamodule_hparams_name")
_SEEDS = 2**32  # of NumPy


@dataclass(frozen=True, kw_only=True)
class ModuleConfig(FitConfig):
    """Configuration of a training by a module's own code.

    Attributes:
        output: What the module's output means.
        metrics: The task's metrics by name.
        taken: Names of a run's own metrics and of curves, which a module can't log others under.
        is_taught: Whether batches hold the teacher's outputs; without, a module that reads them fails.
    """

    output: Output
    metrics: Mapping[str, Metric]
    taken: frozenset[str] = frozenset()
    is_taught: bool = True


def fit_module(
    module: pl.LightningModule,
    data: TensorDataModule,
    config: ModuleConfig,
    *,
    listeners: Sequence[EpochListener] | None = None,
    callbacks: Sequence[pl.Callback] = (),
) -> None:
    """Train ``module`` by its own code to its last epoch, from the newest checkpoint in the training's folder.

    All generators, of torch, NumPy and ``random``, are seeded by (seed, epoch).

    Args:
        module: The module; a checkpoint overwrites its state.
        data: Training and validation data, on the device.
        config: Length, folder, device, seed, and how it is scored.
        listeners: As of ``harness.training.fit.fit``. An epoch's metrics are ``train/loss``, the mean of the losses
            that ``training_step`` returned, ``val/<metric>``, ``val/agreement``, and what the module logs.
        callbacks: Further callbacks of Lightning's.

    Raises:
        TrialFailed: If the module stops before its last epoch, gives NaN, reads the teacher where there is none, or has
            a state that can't be checkpointed.
        TrialFailed, TrialPruned: If a listener raises them.
    """
    checkpoints = Checkpoints(config.folder)
    log, kept = EpochLog(), checkpoints.newest is not None
    callback = EpochCallback(checkpoints, data, config, [loss_check(data)] if listeners is None else listeners, log)
    trainer = make_trainer(
        config.accelerator,
        epochs=config.epochs,
        folder=config.folder,
        callbacks=[_EpochStart(callback), *callbacks, callback],
        plugins=[_TrainingState(checkpoints, callback, config.folder)],
        logger=log,
    )
    with quiet_lightning(), data.readers_kept():
        try:
            trainer.fit(
                module,
                datamodule=SingleBatchData(data, is_taught=config.is_taught),
                ckpt_path=str(config.folder) if kept else None,
            )
        except TeacherRead as error:
            raise TrialFailed(f"no control is possible: with alpha=1, the module still reads {error}") from error
    if trainer.current_epoch < config.epochs:
        raise TrialFailed(
            f"the module must train for all {config.epochs} epochs, which makes trials comparable, but stopped after "
            f"{trainer.current_epoch}: leave early stopping to --pruner"
        )
    module.trainer = None  # else what is kept of the module would keep its data and listeners alive


def seed_all(seed: int, device: torch.device) -> None:
    """Seed torch, NumPy and ``random``: a module's own code may draw from any of them."""
    seed_draws(seed, device)
    np.random.seed(seed % _SEEDS)
    random.seed(seed)


class _TrainingState(CheckpointIO):
    """Keeps Lightning's state of a training as safetensors and JSON: nothing is ever unpickled."""

    def __init__(self, checkpoints: Checkpoints, callback: EpochCallback, folder: Path) -> None:
        self._checkpoints, self._callback, self._folder = checkpoints, callback, folder

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write the state after an epoch.

        Raises:
            TrialFailed: If it is not this training that asks, or it holds what is neither tensors nor plain values.
        """
        if path is not self._folder:
            raise TrialFailed(
                f"the module must leave checkpoints to the engine, which resumes trials, but saves one as {path}"
            )
        state = {name: value for name, value in checkpoint.items() if name not in _LEFT_OUT}
        state["loops"] = {**state["loops"], "fit_loop": self._callback.loop}
        try:
            self._checkpoints.save({"epoch": self._callback.epoch, "trainer": state})
        except TypeError as error:
            raise TrialFailed(
                "the state of the module, its optimizers, schedulers and callbacks must be tensors, numbers and texts, "
                f"in dicts and lists, to be checkpointed, but is not: {error}"
            ) from error

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Return the state after the newest epoch that was written."""
        newest, self._checkpoints.newest = self._checkpoints.newest, None  # frees it: it is large
        assert newest is not None
        state: dict[str, Any] = newest["trainer"]
        return state

    def remove_checkpoint(self, path: Any) -> None:
        """Do nothing: a finished training's checkpoints are dropped together."""


class _EpochStart(pl.Callback):
    """Begins each epoch before the module's own callbacks: what they do then belongs to that epoch.

    A ``Checkpoint`` comes after them, which is where an epoch's end belongs.
    """

    def __init__(self, callback: EpochCallback) -> None:
        self._callback = callback

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._callback.begin_epoch(trainer)


class EpochCallback(Checkpoint):
    """Seeds each epoch, scores the module at its end, calls the listeners, then writes a checkpoint.

    The listeners and the checkpoint come when the epoch is over for Lightning too, at the next one's start: schedules
    that advance by epoch, and what is logged once an epoch, are later than any hook of the epoch's end. After the last
    epoch there is no checkpoint: hooks of the training's end may change the module, and are not called without one.

    Attributes:
        epoch: The last epoch that is over, from 0; -1 before.
        loop: The state of Lightning's loop at its end.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        data: TensorDataModule,
        config: ModuleConfig,
        listeners: Sequence[EpochListener],
        log: EpochLog,
    ) -> None:
        self._checkpoints, self._data, self._config = checkpoints, data, config
        self._listeners, self._log = listeners, log
        self.epoch, self.loop = -1, dict[str, Any]()
        self._losses: list[Tensor] = []
        self._sizes: list[int] = []
        self._scores: dict[str, float] | None = None  # of an epoch that was not reported yet
        self._saved_s = -math.inf if checkpoints.newest is None else time.monotonic()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        others = [one for one in trainer.checkpoint_callbacks if one is not self]
        for one in (*trainer.early_stopping_callbacks, *others):
            raise TrialFailed(
                f"the module must leave checkpoints and early stopping to the engine, but has {type(one).__name__}: "
                "leave it out of configure_callbacks()"
            )

    def begin_epoch(self, trainer: pl.Trainer) -> None:
        """Report the epoch that is over, keep its state, and seed the next one."""
        if self._report() and time.monotonic() - self._saved_s >= fitting.CHECKPOINTS_APART_S:
            trainer.save_checkpoint(self._config.folder)
            self._saved_s = time.monotonic()
        epoch = trainer.current_epoch
        seed_all(derived_seed(self._config.seed, epoch), trainer.strategy.root_device)
        trainer.train_dataloader.set_epoch(epoch)  # type: ignore[union-attr]

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, Tensor) and loss.numel() == 1:
            self._losses.append(loss.detach().reshape(()))
            self._sizes.append(len(batch.ids))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._scores = {
            f"val/{name}": value for name, value in self._validated(pl_module, trainer.current_epoch).items()
        }
        for name, value in self._scores.items():  # for schedules that follow one
            pl_module.log(name, value, logger=False, batch_size=1)
        self.epoch, self.loop = trainer.current_epoch, deepcopy(trainer.fit_loop.state_dict())

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._report()

    @torch.no_grad()
    def _validated(self, module: pl.LightningModule, epoch: int) -> dict[str, float]:
        """Return the scores of what ``forward`` answers to the validation split."""
        output = self._config.output
        scores = SplitScores(output, {name: one.to(module.device) for name, one in self._config.metrics.items()})
        with evaluating(module):
            for batch in (batch for item in self._data.ordered("val") for batch in item):
                logits = call(module, batch.inputs)
                if logits.isnan().any():
                    check_losses(epoch, self._mean_loss(), self._data)  # says more
                    raise TrialFailed(f"forward gives NaN for validation samples in epoch {epoch}")
                scores.add(logits, *output.as_rows(logits, batch), batch.target)
        return scores.compute()

    def _report(self) -> bool:
        """Tell the listeners of the epoch that is over; return whether there is one."""
        if self._scores is None:
            return False
        logged = {self._free_name(name): value for name, value in self._log.take().items()}
        metrics = {**self._mean_loss(), **logged, **self._scores}
        self._scores = None
        for listener in self._listeners:
            listener(self.epoch, metrics)
        return True

    def _mean_loss(self) -> dict[str, float]:
        """Return the mean over the samples of the losses that training steps returned, if they did."""
        losses, sizes = self._losses, self._sizes
        self._losses, self._sizes = [], []
        if not losses:
            return {}
        values = torch.stack(losses).cpu().double()
        return {"train/loss": float((values * torch.tensor(sizes)).sum() / sum(sizes))}

    def _free_name(self, name: str) -> str:
        """Return the name under which a module's value is logged: the engine's own names are taken."""
        free = f"{OWN}{name}" if name in self._config.taken or name in (self._scores or ()) else name
        return free[:LONGEST]
