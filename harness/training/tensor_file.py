"""Tensors in a file of safetensors, that is there whole or not at all."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from harness.core.content import write_atomically


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write named tensors, each with memory of its own.

    Args:
        tensors: On the CPU, contiguous.
        path: The file; one that is there is replaced once the new one is whole.
        metadata: What is said of them.

    Raises:
        OSError: If they can't be written, for want of room say; safetensors has an error of its own for that.
    """

    def write(temporary: Path) -> None:
        try:
            save_file(dict(tensors), temporary, metadata=dict(metadata))
        except SafetensorError as error:
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error

    write_atomically(path, write)


def cpu_state(network: nn.Module) -> dict[str, Tensor]:
    """Return the network's ``state_dict`` as tensors that safetensors takes: on the CPU, each with memory of its own.

    Of tensors that are one and the same, as tied weights are, it has the first alone; see ``load_state``.

    Raises:
        TypeError: If the state holds anything but tensors.
    """
    state = network.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise TypeError(
                f"a network's state_dict must hold tensors alone, but {name!r} is a {type(value).__name__}; register a "
                "buffer instead, or leave it out"
            )
    first = first_names(state)
    return {name: state[name].detach().cpu().contiguous().clone() for name in state if first[name] == name}


def load_state(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load what ``cpu_state`` gave of a network that is built alike; what is tied in it is tied still.

    Raises:
        RuntimeError: If it does not fit.
    """
    network.load_state_dict(with_tied(network, state))


def with_tied(network: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state with each missing tensor that the network has under another name there."""
    given = dict(state)
    first = first_names(network.state_dict())
    known = {first[name]: value for name, value in state.items() if name in first}
    return given | {name: known[one] for name, one in first.items() if name not in given and one in known}


def first_names(state: Mapping[str, Any]) -> dict[str, str]:
    """Return for each name the first name of the same tensor: the same memory, read in the same way."""
    seen: dict[Any, str] = {}
    return {name: seen.setdefault(_memory(name, value), name) for name, value in state.items()}


def _memory(name: str, value: Any) -> Any:
    if not isinstance(value, Tensor) or value.layout is not torch.strided or value.data_ptr() == 0:
        return name  # nothing that can be shared, or seen to be
    return value.device, value.data_ptr(), value.dtype, value.shape, value.stride()
