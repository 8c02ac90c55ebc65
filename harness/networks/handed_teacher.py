"""The teacher that ``student()`` is handed, where it asks for it: a frozen copy of its own, on the CPU."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from harness.core.errors import Unfit, one_line
from harness.space import SearchSpace
from lightning_modules.batch import Inputs, call, evaluating, initialize_lazy_layers
from lightning_modules.data.tensors import TensorDataModule
from lightning_modules.random_states import random_states_restored


def frozen(teacher: nn.Module) -> nn.Module:
    """Return a teacher in eval mode, without gradients, on the CPU; a copy where it is on another device."""
    is_here = all(value.device.type == "cpu" for value in (*teacher.parameters(), *teacher.buffers()))
    here = teacher if is_here else copy.deepcopy(teacher).to("cpu")
    return here.eval().requires_grad_(False)


def teacher_for_student(space: SearchSpace, data: TensorDataModule) -> nn.Module | None:
    """Return a copy of the teacher for one student to take apart; ``None`` if the task's students ask for none.

    Where the trained teacher is not at hand, as where a saved student is loaded, one with fresh weights stands in: all
    that a student takes of the teacher's weights is in its own state (``check_state_suffices``).

    Raises:
        Unfit: If the teacher is no PyTorch network, or can't be copied.
    """
    if not space.hands_teacher:
        return None
    teacher = data.origins.teacher
    with random_states_restored():
        if teacher is None:
            return frozen(_fresh(space, data))
        try:
            return copy.deepcopy(teacher)
        except Exception as error:
            raise Unfit(
                f"a teacher that student() is handed must be copied, but copy.deepcopy fails: {one_line(error)}",
                "keep only parameters, buffers and plain values in it",
            ) from error


def _fresh(space: SearchSpace, data: TensorDataModule) -> nn.Module:
    """Return the task's teacher with fresh weights."""
    teacher: object = space.task.teacher()
    check_is_network(teacher, space)
    assert isinstance(teacher, nn.Module)
    return initialize_lazy_layers(teacher, data.one_sample())


def check_is_network(teacher: object, space: SearchSpace) -> None:
    """Check that a teacher is a network that students can be handed, or start from.

    Raises:
        Unfit: If it is none.
    """
    if isinstance(teacher, nn.Module):
        return
    name = type(teacher).__name__
    if space.hands_teacher:
        raise Unfit(
            f"student() can be handed a teacher that is a PyTorch network, but this one is a {name}",
            "leave the keyword teacher out",
        )
    raise Unfit(
        f"students can start from a teacher that is a PyTorch network, but this one is a {name}",
        "hold start=scratch, or a file",
    )


def check_state_suffices(
    name: str, build: Callable[[nn.Module], nn.Module], teacher: nn.Module, inputs: Inputs
) -> None:
    """Check that a student keeps what it takes of its teacher in its own state, which alone is costed and saved.

    The student of another teacher's weights, into which the first one's state is loaded, must answer as that one.

    Args:
        name: The student's name in messages.
        build: Builds the student of a teacher, with the same draws each time, on the device of the inputs.
        teacher: The teacher.
        inputs: Inputs of a batch.

    Raises:
        Unfit: If it does not.
    """
    other = copy.deepcopy(teacher)
    with torch.no_grad():
        for value in (*other.parameters(), *other.buffers()):
            if value.is_floating_point():
                value.add_(1.0)
    first, second = build(teacher), build(other)
    try:
        second.load_state_dict(first.state_dict())
        same = torch.equal(_answers(first, inputs), _answers(second, inputs))
    except RuntimeError:  # of another shape: it depends on the teacher's weights
        same = False
    if not same:
        raise Unfit(
            f"{name} must keep what it takes of the teacher's weights in its own state, which alone is costed, saved "
            "and loaded again, but it answers with, or is shaped by, weights that are not there",
            "keep the teacher's parts as modules or buffers of the student, and let only the teacher's structure "
            "decide on its shape",
        )


def _answers(network: nn.Module, inputs: Inputs) -> Tensor:
    with torch.no_grad(), evaluating(network):
        return call(network, inputs)
