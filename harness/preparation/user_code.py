"""Calls of a task's own code, whose errors are attributed to it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from torch import nn

from harness.core.errors import HarnessError, advice_of, is_out_of_memory, one_line
from harness.cost.counting import trainable_parameters
from harness.hints import doctor_command
from harness.networks.students import build_student, middle_architecture, named
from harness.settings import Settings
from harness.space import SearchSpace
from harness.space_files import line_of
from harness.task import deployed_network
from lightning_modules.data.tensors import TensorDataModule


@contextlib.contextmanager
def user_code(what: str, settings: Settings, *, but_memory: bool = False) -> Iterator[None]:
    """Turn an error within the context into one line that names the part of the task, the file and the line.

    Args:
        what: What is called, as ``the task's data``.
        settings: Name the space file.
        but_memory: Whether an out-of-memory error is raised unchanged, for a caller that handles it.

    Raises:
        HarnessError: For any error within the context.
    """
    try:
        yield
    except HarnessError:
        raise
    except Exception as error:
        if but_memory and is_out_of_memory(error):
            raise
        line = "" if settings.space_file is None else line_of(error, settings.space_file)
        place = f" in {settings.space_file}{line}" if line else ""
        said = one_line(error).removesuffix(".")
        advice = f"; {advised}" if (advised := advice_of(error)) else ""
        raise HarnessError(
            f"{what} fails{place}: {type(error).__name__}: {said}{advice}; look: "
            f"{doctor_command(settings, next(iter(settings.teachers), None))}"
        ) from error


def student_of(
    space: SearchSpace, architecture: Mapping[str, Any], data: TensorDataModule, settings: Settings
) -> nn.Module:
    """Build a student with fresh weights, on the device of the data; out-of-memory errors are raised unchanged."""
    with user_code(f"the task's {named(architecture)}", settings, but_memory=True):
        return build_student(space, architecture, data).to(data.device)


class Deployed(NamedTuple):
    """A deployed network, and how many parameters the training of its student changes."""

    network: nn.Module
    trainable_parameters: int


def deployed_of(
    space: SearchSpace, architecture: Mapping[str, Any], data: TensorDataModule, settings: Settings
) -> Deployed:
    """Build what is deployed of a student with fresh weights; see ``student_of``."""
    student = student_of(space, architecture, data, settings)
    trainable = trainable_parameters(student)
    with user_code("the task's deployed(student)", settings, but_memory=True):
        return Deployed(deployed_network(space.task, student).to(data.device), trainable)


def middle_student(space: SearchSpace, data: TensorDataModule, settings: Settings) -> nn.Module:
    """Build the student in the middle of the space, which represents all; memory must suffice for it."""
    with middle_student_code(space, settings):
        return student_of(space, middle_architecture(space), data, settings)


def middle_student_code(space: SearchSpace, settings: Settings) -> AbstractContextManager[None]:
    """Attribute errors within the context to the student in the middle of the space."""
    return user_code(f"the task's {named(middle_architecture(space))}, in the middle of the space,", settings)
