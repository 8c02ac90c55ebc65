"""Checks of students that train themselves, by trainings of few samples before a teacher is made and a trial begun."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from harness.core.content import tensors_digest
from harness.core.errors import HarnessError, TrialFailed, Unfit, one_line
from harness.cost.counting import count_costs
from harness.networks.shape import state_shapes
from harness.networks.students import UserCodeContext, build_student, middle_architecture
from harness.preparation.own_methods import content_of
from harness.preparation.teacher_checks import sample_of
from harness.space import Configuration, SearchSpace
from harness.space_module import LABELS
from harness.space_ranges import bounds_of
from harness.students.training import ModuleTraining
from harness.task import deployed_network
from harness.teachers.asking import asks_live
from harness.training.tensor_file import cpu_state
from lightning_modules.batch import call
from lightning_modules.data.live import LiveTeacher
from lightning_modules.data.tensors import TensorDataModule
from lightning_modules.data.unlabelled import spread_over_both
from lightning_modules.own_module import TeacherRead
from lightning_modules.random_states import random_states_restored

_BATCH, _BATCHES, _EPOCHS = 32, 2, 2
_SHOWN = 3
_OF_EVERY_MODULE = frozenset(vars(pl.LightningModule()))


@dataclass(frozen=True)
class OwnTraining:
    """What trainings of few samples showed of students that train themselves.

    Attributes:
        no_control: Why no control is possible, in one line; empty where one is.
        optimizers: Names of the optimizers, each once.
        left_out: Names of the parameters that no optimizer has, though they are not frozen.
    """

    no_control: str
    optimizers: Sequence[str]
    left_out: Sequence[str]

    def __str__(self) -> str:
        return f"by module() itself, with {', '.join(self.optimizers)}"

    @property
    def warnings(self) -> list[str]:
        """Return warnings, a phrase each."""
        if not self.left_out:
            return []
        more = f" and {len(self.left_out) - _SHOWN} more" if len(self.left_out) > _SHOWN else ""
        return [
            f"no optimizer of a student has {', '.join(self.left_out[:_SHOWN])}{more}, which training leaves as it is"
        ]


def check_own_training(
    space: SearchSpace, data: TensorDataModule, user_code: UserCodeContext, *, classes: int, accelerator: str
) -> OwnTraining:
    """Train the student in the middle of the space on few samples: as it is, resumed after a kill, and as a control.

    A fresh student's logits stand in for the teacher's. All generators have their states back afterwards.

    Args:
        space: A space whose students train themselves.
        data: The data, on the device.
        user_code: Attributes errors in the task's own code.
        classes: Number of the students' logits C.
        accelerator: Lightning's name of the device.

    Raises:
        Unfit: If a student can't be trained or resumed, or what is built depends on more than its architecture.
    """
    with random_states_restored(data.device):
        _check_same_network(space, data, user_code)
        few = _few(space, data)
        trial = _Trial(replace(space, epochs=_EPOCHS), few, classes, accelerator)
        middle = space.configuration(space.middle())
        mixed = ", in whose batch.target are shares of classes, for samples are mixed,"
        with user_code(f"module()'s training{mixed if few.views is not None and few.views.mix is not None else ''}"):
            watch = _check_resumed(trial, middle)
        return OwnTraining(_no_control(trial, middle), watch.optimizers, watch.left_out)


@dataclass(frozen=True)
class _Trial:
    """What each of the trainings has in common."""

    space: SearchSpace
    data: TensorDataModule
    classes: int
    accelerator: str

    def training(self, configuration: Configuration) -> ModuleTraining:
        """Build a training, with the same weights at each call."""
        return ModuleTraining(configuration, self.space, self.data, classes=self.classes, seed=0, order_seed=0)


@dataclass
class _Watch(pl.Callback):
    """Checks the losses of a training, and notes its optimizers."""

    optimizers: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    has_loss: bool = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.optimizers = list(dict.fromkeys(type(one).__name__ for one in trainer.optimizers))
        held = {id(value) for one in trainer.optimizers for group in one.param_groups for value in group["params"]}
        trained = ((name, value) for name, value in pl_module.named_parameters() if value.requires_grad)
        self.left_out = [name for name, value in trained if id(value) not in held]

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        self.has_loss = True
        fault = ""
        if loss.numel() != 1:
            fault = f"has the shape {list(loss.shape)}"
        elif not loss.isfinite():
            fault = f"is {float(loss.detach())}"
        elif not loss.requires_grad:
            fault = "has no gradient"
        if fault:
            raise Unfit(
                f"a loss of module()'s training must be a finite number with a gradient, but {fault}",
                "compute it from what forward gives, without detach() or no_grad()",
            )


class _Killed(Exception):
    """Ends a training where a kill would."""


def _killed_after_last(epoch: int, metrics: Mapping[str, float]) -> None:
    if epoch == _EPOCHS - 1:
        raise _Killed  # before its checkpoint: a resumed training trains it again


def _check_resumed(trial: _Trial, configuration: Configuration) -> _Watch:
    """Check that a training that is killed in its last epoch, and resumed, gives the same student."""
    watch = _Watch()
    with tempfile.TemporaryDirectory() as folder:
        through, resumed = trial.training(configuration), trial.training(configuration)
        before = _attributes(through.module)
        try:
            try:
                through.run(Path(folder), trial.accelerator, [_killed_after_last], callbacks=[watch])
            except _Killed:
                through.module.trainer = None
            resumed.run(Path(folder), trial.accelerator, [])
        except TrialFailed as error:
            raise Unfit(f"module() can't be trained: {error}", "change that in its LightningModule") from error
    if through.module.automatic_optimization and not watch.has_loss:
        raise Unfit(
            "module()'s training_step must return a loss, but returns none",
            "return it, or set automatic_optimization = False and step the optimizers there",
        )
    if not _are_alike(through.module, resumed.module, trial.data.device):
        after = _attributes(through.module)
        changed = [name for name in after if after[name] != before.get(name)]
        found = f"its {changed[0]!r} changes in training and is in no checkpoint" if changed else "something is lost"
        raise Unfit(
            f"module() must train to the same student when it is resumed after a kill, but does not: {found}",
            "keep what changes in buffers, or in on_save_checkpoint() and on_load_checkpoint(), and draw from torch, "
            "NumPy or random alone",
        )
    return watch


def _are_alike(one: nn.Module, other: nn.Module, device: torch.device) -> bool:
    """Return whether two students have the same state: bit by bit on the CPU, but for rounding elsewhere."""
    first, second = cpu_state(one), cpu_state(other)
    if device.type == "cpu":
        return tensors_digest(first) == tensors_digest(second)
    return all(torch.allclose(first[name], second[name], rtol=1e-3, atol=1e-5) for name in first)


def _attributes(module: nn.Module) -> dict[str, Any]:
    """Return what the attributes of a module and its parts hold, beside parameters, buffers and parts."""
    return {
        f"{path}.{name}".lstrip("."): content_of(value)
        for path, part in module.named_modules()
        for name, value in vars(part).items()
        if name not in _OF_EVERY_MODULE
    }


def _no_control(trial: _Trial, configuration: Configuration) -> str:
    """Return why no control is possible of a student that can be trained, in one line; empty where one is."""
    if LABELS not in trial.space.methods[next(iter(trial.space.methods))]:
        return f"module() takes no {LABELS}, which is 1 in a control"
    what = f"module({LABELS}=1)"
    with tempfile.TemporaryDirectory() as folder:
        try:
            trial.training(trial.space.labels_alone(configuration)).run(Path(folder), trial.accelerator, [])
        except TrialFailed as error:
            if isinstance(error.__cause__, TeacherRead):
                return f"{what} reads {error.__cause__} all the same"
            return f"{what} can't be trained: {one_line(error)}"
        except HarnessError as error:
            return f"{what} can't be built: {one_line(error)}"
        except Exception as error:  # whatever the module raises where its alpha is 1
            return f"{what} fails: {type(error).__name__}: {one_line(error)}"
    return ""


def _check_same_network(space: SearchSpace, data: TensorDataModule, user_code: UserCodeContext) -> None:
    """Check that what is deployed depends on the architecture alone: costs are looked up by it."""
    middle, others = space.middle(), {**space.distributions}
    for name in (*space.student, *space.initial):
        others.pop(name)
    architecture = middle_architecture(space)
    usual = _measured(space, data, architecture, user_code)
    for name, distribution in others.items():
        for value in bounds_of(distribution):
            if value != middle[name] and _measured(space, data, {**architecture, name: value}, user_code) != usual:
                raise Unfit(
                    "module() must build the same network whatever its distillation and training parameters, for costs "
                    f"are those of an architecture, but builds another one with {name}={value!r}",
                    f"put {name} into the student group, or let deployed() leave out what training alone needs",
                )


def _measured(
    space: SearchSpace, data: TensorDataModule, values: Mapping[str, Any], user_code: UserCodeContext
) -> tuple[Any, ...]:
    told = ", ".join(f"{name}={value!r}" for name, value in values.items())
    with user_code(f"module({told})"):
        network = deployed_network(space.task, build_student(space, values, data)).to(data.device)
        return state_shapes(network), count_costs(network.eval(), data.example_inputs(1))


def _few(space: SearchSpace, data: TensorDataModule) -> TensorDataModule:
    """Return few samples of the data, with a fresh student's logits in the place of a teacher's."""
    few = copy.copy(data)
    few.batch_size = min(data.batch_size, _BATCH)
    few.splits = {
        name: sample_of(data, name, spread_over_both(data, _BATCHES * few.batch_size, name).to(data.device))
        for name in data.splits
    }
    few.teacher_outputs = {}
    network = build_student(space, middle_architecture(space), data).to(data.device).eval()
    is_live = asks_live(few)
    few.live = LiveTeacher([network], average=lambda logits: logits[0]) if is_live else None
    outputs = {}
    with torch.no_grad():
        for name in ("val",) if is_live else ("train", "val"):
            logits = torch.cat([call(network, batch.inputs) for item in few.ordered(name) for batch in item])
            views = 0 if name == "val" or few.views is None else few.views.count
            outputs[name] = {"logits": logits[:, None].expand(-1, views, *logits.shape[1:]) if views else logits}
    few.attach(outputs)
    return few
