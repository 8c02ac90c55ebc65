"""Check the results of a training: the teacher is unchanged, and the student is independent and can be saved."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from safetensors.torch import load, save
from torch import nn

from harness.core.content import tensors_digest
from harness.doctor.check import Check, CheckFailed, CheckWarning, attributing_errors
from harness.doctor.context import CheckContext
from harness.networks.consistency import ASKED, TOLERANCE, distance, logits_of
from harness.networks.students import build_student
from harness.preparation.training_checks import check_trainings, training_surprises
from harness.space import Configuration
from harness.space_module import OWN_TRAINING
from harness.space_ranges import ends
from harness.space_training import beside_effect
from harness.task import deployed_network
from harness.tracking.autologging import switch_off_autologging
from harness.training.batches import with_batches_of
from harness.training.fit import FitConfig, fit, seed_draws
from harness.training.tensor_file import cpu_state, load_state
from lightning_modules.classifier import StudentModule

_SHOWN = 3
_BATCH, _EPOCHS = 8, 2  # of the trainings that show what a parameter changes


def check_teacher_unchanged(context: CheckContext) -> str:
    """Check that a student's training changes none of the teacher's weights and buffers."""
    before = cpu_state(context.teacher)
    configuration = context.configuration(context.methods[0])
    steps = context.space.training_of(configuration).steps_per_epoch(context.sample.steps_per_epoch)
    training = context.training(configuration)
    with tempfile.TemporaryDirectory() as folder:
        context.trained_student = training.run(Path(folder), context.settings.accelerator).to(context.device)
    context.trained = training.module.to(context.device)
    after = cpu_state(context.teacher)
    changed = [name for name in before if tensors_digest({name: before[name]}) != tensors_digest({name: after[name]})]
    if changed:
        shown = ", ".join(changed[:_SHOWN])
        raise CheckFailed(f"{len(changed)} of its {len(before)} tensors changed in a student's training: {shown}")
    return f"{len(before)} tensors, the same after {steps} steps of a student"


def check_teacher_separate(context: CheckContext) -> str:
    """Check that no tensor of the teacher is in a student's optimizer or checkpoint, and no copy of it in a student."""
    module = context.trained
    teacher = _tensors(context.teacher)
    optimized = _optimized(module)
    kept: list[torch.Tensor] = [
        value for value in module.state_dict(keep_vars=True).values() if isinstance(value, torch.Tensor)
    ]
    places = {"optimizer": optimized, "state_dict": kept}
    found = [
        f"{sum(value.data_ptr() in teacher for value in values)} of its tensors in the student's {place}"
        for place, values in places.items()
        if any(value.data_ptr() in teacher for value in values)
    ]
    student = context.trained_student
    copies = [name for name, part in student.named_modules() if name and _is_like(part, context.teacher)]
    if copies and _parameters(student) > _parameters(context.teacher):
        found.append(f"a whole teacher in the student, at {copies[0]!r}, and in the checkpoint")
    if found:
        raise CheckFailed("; ".join(found))
    return f"not in optimizer, state_dict, checkpoint ({len(kept)} tensors)"


def _optimized(module: pl.LightningModule) -> list[torch.Tensor]:
    """Return what a student's optimizers change; one that trains itself may ask for a trainer, which is gone."""
    if not isinstance(module, StudentModule):
        return [parameter for parameter in module.parameters() if parameter.requires_grad]
    configured: Any = module.configure_optimizers()
    return [parameter for group in configured["optimizer"].param_groups for parameter in group["params"]]


def _tensors(network: nn.Module) -> set[int]:
    """Return the memory addresses of a network's tensors."""
    return {value.data_ptr() for value in network.state_dict().values() if value.numel()}


def _parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _is_like(part: nn.Module, network: nn.Module) -> bool:
    """Return whether a submodule has tensors of the same names and shapes as a network."""
    one, other = part.state_dict(), network.state_dict()
    return bool(other) and {k: v.shape for k, v in one.items()} == {k: v.shape for k, v in other.items()}


def check_student_saves(context: CheckContext) -> str:
    """Check that a fresh student with the saved weights of a trained one has the same logits, as deployed."""
    trained = deployed_network(context.space.task, context.trained_student).to(context.device)
    inputs = context.inputs(ASKED)
    expected = logits_of(trained, inputs)
    architecture = context.space.architecture_of(context.space.middle())
    state = load(save(cpu_state(trained)))
    seed_draws(1, torch.device("cpu"))  # a value that is drawn and not saved differs then
    space = context.space
    fresh = deployed_network(space.task, build_student(space, architecture, context.sample)).to(context.device)
    load_state(fresh, state)
    apart = distance(logits_of(fresh, inputs), expected)
    if apart > TOLERANCE:
        raise CheckFailed(f"loaded into a fresh student, its state gives logits {apart:.1%} of the largest apart")
    size_mb = sum(value.numel() * value.element_size() for value in state.values()) / 1e6
    return f"{len(state)} tensors, {size_mb:.3g} MB, give a fresh student the same logits"


def check_training_parameters(context: CheckContext) -> str:
    """Check that each parameter of the training group changes what is trained, between the ends of its range.

    Of students that train themselves, each parameter of the distillation group is checked too.
    """
    space, inert, moving = context.space, [], 0
    if not space.trains_itself:
        check_trainings(space, context.data)
    own = space.methods[OWN_TRAINING] if space.trains_itself else {}
    for name, distribution in {**own, **space.training}.items():
        values = ends(distribution)
        if len(values) < 2:
            continue
        with attributing_errors(name, context):
            first, *others = (_trained_with(context, name, value) for value in values)
        if any(other != first for other in others):
            moving += 1
        else:
            inert.append(name)
    surprises = [] if space.trains_itself else list(training_surprises(space, context.data))
    if inert:
        raise CheckWarning(f"a student trained for {_EPOCHS} epochs on few samples is the same with {', '.join(inert)}")
    if surprises:
        raise CheckWarning("; ".join(surprises))
    return f"each of {moving} parameters changes the trained student" if moving else "nothing of it is searched"


def _trained_with(context: CheckContext, name: str, value: Any) -> str:
    """Return a digest of a student that is trained on the sample with a value of one parameter."""
    space = context.space
    if space.trains_itself:
        return _trained_by_itself(context, context.configuration(context.methods[0], **{name: value}))
    beside = beside_effect(space.task.training, space.training, name)
    configuration = context.configuration(context.methods[0], **beside, **{name: value})
    training = space.training_of(configuration)
    data = with_batches_of(context.sample, training)
    if name != "batch_size":
        data.batch_size = _BATCH  # so that there are steps for schedules and averages
    steps = _EPOCHS * training.steps_per_epoch(data.steps_per_epoch)
    module = context.module(configuration, steps=steps)
    with tempfile.TemporaryDirectory() as folder:
        switch_off_autologging()
        accelerator = context.settings.accelerator
        fit(module, data, FitConfig(epochs=_EPOCHS, folder=Path(folder), accelerator=accelerator, seed=0))
    return tensors_digest(cpu_state(module.trained_network()))


def _trained_by_itself(context: CheckContext, configuration: Configuration) -> str:
    """Return a digest of a student that trains itself, after some epochs on the sample in small batches."""
    data = copy.copy(context.sample)
    data.batch_size = _BATCH
    with tempfile.TemporaryDirectory() as folder:
        training = context.training(configuration, epochs=_EPOCHS, data=data)
        return tensors_digest(cpu_state(training.run(Path(folder), context.settings.accelerator)))


CHECKS = (
    Check(
        "teacher unchanged",
        check_teacher_unchanged,
        "share no module between teacher() and student(), and call no teacher in a student's forward",
        needs=("losses",),
    ),
    Check(
        "teacher apart",
        check_teacher_separate,
        "keep the teacher out of the student: a batch holds its outputs as batch.teacher",
        needs=("teacher unchanged",),
    ),
    Check(
        "student kept",
        check_student_saves,
        "register what a student needs as parameters or buffers (register_buffer), not as plain attributes",
        needs=("teacher unchanged",),
    ),
    Check(
        "training",
        check_training_parameters,
        "widen its range, or take it out of the space: a parameter without effect costs trials and means nothing",
        needs=("teacher unchanged",),
    ),
)
