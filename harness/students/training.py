"""How a configuration's student is built and trained: by its method and ``Training``, or by its own code.

This is the one place where the two differ; what trains a student calls ``student_training``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import pytorch_lightning as pl
import torch
from torch import nn

from harness.core.errors import TrialFailed, one_line
from harness.metrics import METRICS
from harness.networks.students import build_student
from harness.space import METHOD, Configuration, SearchSpace, is_own_control
from harness.space_initial import START
from harness.task import declared_metrics, make_metrics
from harness.tracking.autologging import switch_off_autologging
from harness.training.batches import with_batches_of
from harness.training.fit import EpochListener, FitConfig, fit, seed_draws
from harness.training.fit_module import ModuleConfig, fit_module, seed_all
from lightning_modules.classifier import StudentModule
from lightning_modules.data.tensors import TensorDataModule
from lightning_modules.data.unlabelled import labelled_alone, output_for_training
from lightning_modules.initial import SCRATCH, Started, start_from
from lightning_modules.methods import HardLabelCriterion
from lightning_modules.training import Training


class StudentTraining(Protocol):
    """The training of one student, with fresh weights."""

    @property
    def module(self) -> pl.LightningModule:
        """Return what Lightning trains."""

    @property
    def started(self) -> Started | None:
        """Return what of the student began with weights that were not drawn; ``None`` where all were."""

    def run(self, folder: Path, accelerator: str, listeners: Sequence[EpochListener] | None = None) -> nn.Module:
        """Train to the last epoch, from the newest checkpoint in ``folder`` if there is one, and return the student.

        Args:
            folder: Folder of the training.
            accelerator: Lightning's name of the device.
            listeners: As in ``harness.training.fit.fit``.

        Raises:
            TrialFailed, TrialPruned: If a listener raises them.
        """


def student_training(
    configuration: Configuration,
    space: SearchSpace,
    data: TensorDataModule,
    *,
    classes: int,
    seed: int,
    order_seed: int,
) -> StudentTraining:
    """Build a configuration's student with fresh weights, to be trained.

    Args:
        configuration: Architecture, distillation and training parameters.
        space: Its task builds the student; its epochs are the length of the training.
        data: The data, with the teacher's outputs; they stay as they are.
        classes: Number of classes C.
        seed: Seed of the initial weights and of the draws in each epoch.
        order_seed: Seed of the order of the data.
    """
    kind = ModuleTraining if space.trains_itself else MethodTraining
    return kind(configuration, space, data, classes=classes, seed=seed, order_seed=order_seed)


class MethodTraining:
    """A training by the method and the ``Training`` of a configuration; takes the arguments of ``student_training``."""

    def __init__(
        self,
        configuration: Configuration,
        space: SearchSpace,
        data: TensorDataModule,
        *,
        classes: int,
        seed: int,
        order_seed: int,
    ) -> None:
        training = space.training_of(configuration)
        self._data, self._epochs, self._seed = _own_data(data, training, configuration, space), space.epochs, seed
        student, self.started = begin_student(configuration, space, self._data, seed=seed)
        self.module = student_module(
            student,
            configuration,
            space,
            self._data,
            classes=classes,
            total_steps=space.epochs * training.steps_per_epoch(self._data.steps_per_epoch),
        )
        self._data.seed, self._data.teacher_layers = order_seed, self.module.criterion.teacher_layers

    def run(self, folder: Path, accelerator: str, listeners: Sequence[EpochListener] | None = None) -> nn.Module:
        """Train to the last epoch, as of ``StudentTraining``."""
        switch_off_autologging()
        config = FitConfig(epochs=self._epochs, folder=folder, accelerator=accelerator, seed=self._seed)
        fit(self.module, self._data, config, listeners=listeners)
        return self.module.trained_network()


class ModuleTraining:
    """A training by the student's own code; takes the arguments of ``student_training``."""

    def __init__(
        self,
        configuration: Configuration,
        space: SearchSpace,
        data: TensorDataModule,
        *,
        classes: int,
        seed: int,
        order_seed: int,
    ) -> None:
        self._data = _own_data(data, space.task.training, configuration, space)
        self._data.seed, self._data.teacher_layers = order_seed, ()
        seed_all(seed, torch.device("cpu"))  # weights are drawn on the CPU, whatever the device
        module = build_student(space, configuration.params(), data)
        assert isinstance(module, pl.LightningModule)  # it was checked where it was built
        self.started = _start(module, configuration, self._data)
        names = {*METRICS, *(metric.name for metric in declared_metrics(space.task))}
        self.module = module
        self._config: dict[str, Any] = {
            "epochs": space.epochs,
            "seed": seed,
            "output": space.task.output,
            "metrics": make_metrics(space.task, classes),
            "taken": frozenset(f"{split}{name}" for name in names for split in ("", "val/", "test/")),
            "is_taught": configuration.is_taught,
        }

    def run(
        self,
        folder: Path,
        accelerator: str,
        listeners: Sequence[EpochListener] | None = None,
        *,
        callbacks: Sequence[pl.Callback] = (),
    ) -> nn.Module:
        """Train to the last epoch, as of ``StudentTraining``, with further callbacks of Lightning's."""
        switch_off_autologging()
        config = ModuleConfig(folder=folder, accelerator=accelerator, **self._config)
        fit_module(self.module, self._data, config, listeners=listeners, callbacks=callbacks)
        return self.module


def _own_data(
    data: TensorDataModule, training: Training, configuration: Configuration, space: SearchSpace
) -> TensorDataModule:
    """Return the data in a training's batches; nobody asks a live teacher for a control, which needs no answers.

    What is trained on labels alone is shown the samples that have one, in as many steps.
    """
    own = with_batches_of(data, training)
    if _is_from_labels_alone(configuration, space):
        own = labelled_alone(own, in_full=True)
    if not configuration.is_taught:
        own.live = None
    return own


def begin_student(
    configuration: Configuration, space: SearchSpace, data: TensorDataModule, *, seed: int
) -> tuple[nn.Module, Started | None]:
    """Build a student with its start weights, to be trained by a method, and return what of it began with them.

    Args:
        configuration: Architecture and start.
        space: Its task builds the student.
        data: Hold what it may start from.
        seed: Seed of the weights that are drawn.

    Raises:
        TrialFailed: If the student can't start so.
    """
    seed_draws(seed, torch.device("cpu"))  # weights are drawn on the CPU, whatever the device
    student = build_student(space, configuration.student, data)
    return student, _start(student, configuration, data)


def _start(student: nn.Module, configuration: Configuration, data: TensorDataModule) -> Started | None:
    """Copy the start weights of a configuration into a student whose weights were drawn."""
    start = configuration.initial.get(START, SCRATCH)
    if start == SCRATCH:
        return None
    try:
        return start_from(student, start, data.origins, data.one_sample())
    except ValueError as error:
        raise TrialFailed(f"start={start} is impossible: {one_line(error)}") from error


def _is_from_labels_alone(configuration: Configuration, space: SearchSpace) -> bool:
    """Return whether a student learns nothing from a teacher: a control, alpha = 1, or a baseline without one."""
    if not configuration.is_taught or is_own_control(configuration.distillation):
        return True
    method = configuration.distillation.get(METHOD, next(iter(space.methods)))
    return method in space.criteria and not space.criteria[method].needs_teacher


def student_module(
    student: nn.Module,
    configuration: Configuration,
    space: SearchSpace,
    data: TensorDataModule,
    *,
    classes: int,
    total_steps: int,
) -> StudentModule:
    """Build the module of a student, which a method trains. Call it at once after ``begin_student``, whose draws go on.

    Args:
        student: From ``begin_student``.
        configuration: Architecture, distillation and training parameters.
        space: Its epochs are the length of the whole training.
        data: The data, in batches of the training's size, with the teacher's outputs.
        classes: Number of classes C.
        total_steps: Optimizer steps of the whole training.
    """
    is_asked = data.live is not None or "train" in data.teacher_outputs
    criterion = space.criterion(configuration) if configuration.is_taught or is_asked else HardLabelCriterion()
    criterion.output = output = output_for_training(space.task.output, data, classes)
    criterion.setup(student, data, epochs=space.epochs)  # last: the weights must not depend on it
    return StudentModule(
        student,
        criterion,
        output=output,
        metrics=make_metrics(space.task, classes),
        total_steps=total_steps,
        settings=space.training_of(configuration),
    )
