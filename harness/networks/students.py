"""Students: built from an architecture, and named by it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from harness.core.errors import Unfit
from harness.space import SearchSpace
from lightning_modules.batch import initialize_lazy_layers
from lightning_modules.data.tensors import Split, TensorDataModule

PROBED_SAMPLES = 16
"""Samples that a student is called with when it is checked."""

UserCodeContext = Callable[[str], AbstractContextManager[None]]
"""Returns a context that attributes errors within it to the part of a task's own code that is named."""


def build_student(space: SearchSpace, architecture: Mapping[str, Any], data: TensorDataModule) -> nn.Module:
    """Build a student on the CPU. Lazy layers learn their sizes from a sample of the data.

    Args:
        space: Its task builds the student.
        architecture: A value for each parameter of the space's ``student`` group.
        data: The data, on any device.

    Raises:
        Unfit: If the task returns no network.
    """
    network = space.build_student(architecture)
    if not isinstance(network, nn.Module):
        raise Unfit(
            f"{named(architecture)} must give a torch.nn.Module, but gives {type(network).__name__}",
            "return the network from student()",
        )
    places = {value.device.type for value in (*network.parameters(), *network.buffers())}
    if not places <= {"cpu", "meta"}:  # a frozen backbone that students share is on the device of the last one
        network.to(torch.device("cpu"))
    return initialize_lazy_layers(network, data.splits["val"].few(1).to(torch.device("cpu")).inputs)


def middle_architecture(space: SearchSpace) -> dict[str, Any]:
    """Return the architecture in the middle of the space's ranges."""
    return {name: value for name, value in space.middle().items() if name in space.student}


def named(architecture: Mapping[str, Any]) -> str:
    """Return a student's name, as in ``student(width=8)``."""
    return f"student({', '.join(f'{name}={value!r}' for name, value in architecture.items())})"


def probe_samples(data: TensorDataModule) -> Split:
    """Return the validation samples that networks are checked with, repeated where there are too few."""
    split = data.splits["val"]
    ids = torch.arange(PROBED_SAMPLES, device=split.labels.device) % len(split)
    return split.at(ids)
