"""A teacher before it is trained: built, or loaded from a checkpoint, and identified by what it holds and answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import nn

from harness.core.content import derived_seed, digest
from harness.core.errors import HarnessError, Unfit
from harness.cost.counting import trainable_parameters
from harness.networks.digest import answers_of, network_digest, sampled_answers, samples_of, weights_digest
from harness.networks.shape import shape_of
from harness.networks.state import check_same_state
from harness.settings import Settings
from harness.space import SearchSpace
from harness.students.kept import is_student
from harness.studies.start import Start
from harness.task import Task, class_names, maps_teacher_inputs
from harness.teachers.assistant import load_assistant
from harness.teachers.black_box import BlackBoxTeacher, teacher_in
from harness.teachers.files import load_checkpoint
from harness.training.fit import seed_draws
from lightning_modules.batch import initialize_lazy_layers
from lightning_modules.data.tensors import TensorDataModule

_RECIPE_VERSION = 2  # raised when the training of a teacher changes: it is part of the content key

BindStart = Callable[[str, Start], Start]
"""Binds a study to the start of a named network, and returns the bound start: its last bits may differ."""


class UntrainedTeacher(NamedTuple):
    """A teacher as it starts.

    Attributes:
        network: The network, fresh or loaded from its checkpoint, on the CPU.
        start: Identifies what it starts from.
        key: The content key under which it is kept once it is trained.
    """

    network: nn.Module
    start: Start
    key: str


def learns(network: nn.Module) -> bool:
    """Return whether a teacher, as its task gives it, has a parameter that gradients train."""
    return trainable_parameters(network) > 0


def begin_teacher(
    network: nn.Module,
    space: SearchSpace,
    data: TensorDataModule,
    dataset: str,
    settings: Settings,
    bind_start: BindStart = lambda name, start: start,
) -> UntrainedTeacher:
    """Identify a teacher.

    Args:
        network: From ``build_teacher``.
        space: Its task gives its recipe.
        data: Its training data.
        dataset: Fingerprint of that data.
        settings: The seed, and the checkpoint, if there is one.
        bind_start: Called with what a teacher that is to be trained starts from.
    """
    before = list(network.state_dict())
    start = teacher_start(network.to(data.device), data)
    check_same_state("the teacher", before, network)
    network.to("cpu")
    if settings.teacher is not None or not learns(network):
        return UntrainedTeacher(network, start, start.digest)
    # Fresh weights under a fixed seed stand for the architecture, and what is answered with them for its code.
    task = space.task
    given = [] if task.teacher_training is None else [task.teacher_training.texts()]
    recipe = digest(dataset, task.teacher_epochs, task.teacher_learning_rate, data.batch_size, settings.seed, *given)
    asked = replace(start, exact=digest(recipe, shape_of(network)))
    bound = bind_start(f"the teacher (seed {settings.seed})", asked)
    return UntrainedTeacher(network, start, digest("teacher", _RECIPE_VERSION, bound.exact, bound.digest))


def teacher_start(network: nn.Module, data: TensorDataModule) -> Start:
    """Return what identifies a teacher, which is on the device of the data."""
    try:
        answers = answers_of(network, samples_of(data))
    except Exception:  # the next call of it fails too, and its error says where
        answers = torch.zeros(0)
    return Start(weights_digest(network), sampled_answers(answers), network_digest(network, answers))


def _asked(teacher: BlackBoxTeacher, task: Task) -> BlackBoxTeacher:
    """Return a teacher that is no PyTorch network, which is asked with what the task says that it takes.

    Raises:
        HarnessError: If the task's output has no row of numbers for each sample, or its inputs are said twice.
    """
    if not task.output.numbers_of:
        raise HarnessError(
            f"a {type(teacher).__name__} must give one row of numbers for each sample, but the task's output is "
            f"{task.output}; let teacher() return a torch.nn.Module that gives such outputs."
        )
    if maps_teacher_inputs(task):
        teacher.take(task.teacher_inputs)
    return teacher


def build_teacher(
    space: SearchSpace, data: TensorDataModule, settings: Settings, note: Callable[[str], None] = lambda text: None
) -> nn.Module | BlackBoxTeacher:
    """Build a teacher with fresh weights under the study's seed, or with those of its checkpoint.

    Args:
        space: Its task gives the teacher.
        data: Gives lazy layers their sizes.
        settings: The seed, and the checkpoint, if there is one.
        note: Called with a line of text about the checkpoint.

    Returns:
        A network, or a teacher that is none, which is still to be prepared.

    Raises:
        HarnessError: If the checkpoint can't be used, or the task gives neither.
    """
    seed_draws(derived_seed(settings.seed, "teacher"), torch.device("cpu"))
    if settings.teacher is not None:
        if is_student(settings.teacher):
            return load_assistant(settings.teacher, space, data, settings.space_name)
        names = class_names(space.task, data.class_names)
        if (black_box := teacher_in(settings.teacher, names)) is not None:
            return _asked(black_box, space.task)
    network: object = space.task.teacher()
    if isinstance(network, BlackBoxTeacher):
        _asked(network, space.task)
        if settings.teacher is not None:
            raise HarnessError(
                f"--teacher {settings.teacher} must be of a network that teacher() builds, but that gives a "
                f"{type(network).__name__}, which has no weights to be filled; leave --teacher out."
            )
        return network
    if not isinstance(network, nn.Module):
        raise Unfit(
            f"teacher() must give a torch.nn.Module, but gives {type(network).__name__}",
            "return the network from it, or what is none in a class of harness.teachers, as SklearnTeacher(estimator)",
        )
    if fault := data.network_fault(network):
        raise Unfit(f"the teacher must {fault[0]}", fault[1])
    initialize_lazy_layers(network, data.one_sample())
    if settings.teacher is not None:
        if left_out := load_checkpoint(network, settings.teacher):
            more = f" and {len(left_out) - 1} more" if len(left_out) > 1 else ""
            note(f"{settings.teacher} holds {left_out[0]!r}{more} too, which the teacher has not: left out")
    return network
