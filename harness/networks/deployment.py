"""Checks of what is deployed of students, before anything trains: a trial asks for it only after its training."""

from __future__ import annotations

import torch

from harness.core.errors import Unfit, if_memory_suffices
from harness.networks.architectures import outer_architectures
from harness.networks.logits import check_logits
from harness.networks.state import check_state
from harness.networks.students import UserCodeContext, build_student, middle_architecture, named, probe_samples
from harness.space import SearchSpace
from harness.task import Task, deployed_network
from lightning_modules.batch import call
from lightning_modules.data.tensors import TensorDataModule


def check_deployed(space: SearchSpace, data: TensorDataModule, user_code: UserCodeContext, *, classes: int) -> None:
    """Check that what is deployed of students can be scored and saved: in the middle of the space, and at its ends.

    Students that memory does not suffice for are skipped: their trials fail with that reason.

    Args:
        space: Its task builds students, and says what is deployed of them.
        data: The data, on the device that students are run on.
        user_code: Attributes errors in the task's own code.
        classes: Number of the students' logits C.

    Raises:
        Unfit: If it has other logits, or can't be saved.
    """
    if type(space.task).deployed is Task.deployed:
        return
    split = probe_samples(data)
    for architecture in (middle_architecture(space), *outer_architectures(space)):
        name = f"deployed({named(architecture)})"
        with user_code(name), if_memory_suffices():
            student = build_student(space, architecture, data).to(data.device)
            network = deployed_network(space.task, student)
            if network is student:
                continue
            check_state(name, network)
            with torch.no_grad():
                logits = call(network.to(data.device).eval(), split.inputs)
            found = check_logits(name, logits, split.labels, space.task.output)
            if found != classes:
                raise Unfit(
                    f"{name} must have the classes of the student, but has {found} logits, and the student {classes}",
                    "let deployed() return a network that stands in for the student",
                )
