"""Students: built from an architecture, and named by it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn

from harness.core.errors import Unfit
from harness.networks.handed_teacher import teacher_for_student
from harness.space import SearchSpace
from lightning_modules.batch import initialize_lazy_layers
from lightning_modules.data.tensors import Split, TensorDataModule
from lightning_modules.own_module import trains_itself

PROBED_SAMPLES = 16
"""Samples that a student is called with when it is checked."""

UserCodeContext = Callable[[str], AbstractContextManager[None]]
"""Returns a context that attributes errors within it to the part of a task's own code that is named."""


def build_student(space: SearchSpace, architecture: Mapping[str, Any], data: TensorDataModule) -> nn.Module:
    """Build a student on the CPU. Lazy layers learn their sizes from a sample of the data.

    Args:
        space: Its task builds the student.
        architecture: A value for each parameter of the space's ``student`` group, and of others as
            ``SearchSpace.build_student`` takes them.
        data: The data, on any device.

    Raises:
        Unfit: If the task returns no network, or one that is trained otherwise than the task says.
    """
    network = space.build_student(architecture, teacher_for_student(space, data))
    if fault := _kind_fault(network, space):
        raise Unfit(f"{named(architecture)} must give {fault[0]}", fault[1])
    if not isinstance(network, nn.Module):
        raise Unfit(
            f"{named(architecture)} must give a torch.nn.Module, but gives {type(network).__name__}",
            "return the network from student()",
        )
    if fault := data.network_fault(network):
        raise Unfit(f"{named(architecture)} must {fault[0]}", fault[1])
    places = {value.device.type for value in (*network.parameters(), *network.buffers())}
    if not places <= {"cpu", "meta"}:  # a frozen backbone that students share is on the device of the last one
        network.to(torch.device("cpu"))
    return initialize_lazy_layers(network, data.one_sample())


def _kind_fault(network: object, space: SearchSpace) -> tuple[str, str] | None:
    """Return what a student should be and is not, and what to do; ``None`` if it is trained as its task says."""
    if space.trains_itself and not trains_itself(network):
        is_module = isinstance(network, pl.LightningModule)
        found = f"{type(network).__module__}.{type(network).__name__}"
        return (
            "a pytorch_lightning.LightningModule with a training_step of its own from module(), but gives "
            + ("one without" if is_module else found),
            "define training_step" if is_module else "import pytorch_lightning, and derive from its LightningModule",
        )
    if not space.trains_itself and trains_itself(network):
        return (
            "a network that the space's method trains from student(), but gives a LightningModule with a training_step "
            "of its own, which would not be used",
            "call student() module(), which is trained by its own code, or return the network within it",
        )
    return None


def middle_architecture(space: SearchSpace) -> dict[str, Any]:
    """Return the architecture in the middle of the space's ranges."""
    return space.architecture_of(space.middle())


def named(architecture: Mapping[str, Any]) -> str:
    """Return a student's name, as in ``student(width=8)``."""
    return f"student({', '.join(f'{name}={value!r}' for name, value in architecture.items())})"


def probe_samples(data: TensorDataModule) -> Split:
    """Return the validation samples that networks are checked with, repeated where there are too few."""
    split = data.splits["val"]
    ids = torch.arange(PROBED_SAMPLES, device=split.labels.device) % len(split)
    return split.at(ids)
