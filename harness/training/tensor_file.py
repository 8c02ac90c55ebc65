"""Write tensors to a safetensors file atomically, with tied tensors stored once."""

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
    """Write named tensors that share no memory.

    Args:
        tensors: Contiguous tensors on the CPU.
        path: The file; an existing one is replaced atomically.
        metadata: Metadata of the file.

    Raises:
        OSError: If writing fails, such as on a full disk; safetensors raises an error of its own, which is converted.
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
    """Return a network's ``state_dict`` as safetensors requires it: on the CPU, and without shared memory.

    Of tied tensors it holds the first only; ``load_state`` ties them again.

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
    """Load the ``cpu_state`` of a network of the same structure; tied tensors stay tied.

    Raises:
        RuntimeError: If names or shapes do not match.
    """
    network.load_state_dict(with_tied(network, state))


def with_tied(network: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state completed by tied tensors: those that the network shares with a name in the state."""
    given = dict(state)
    first = first_names(network.state_dict())
    known = {first[name]: value for name, value in state.items() if name in first}
    return given | {name: known[one] for name, one in first.items() if name not in given and one in known}


def first_names(state: Mapping[str, Any]) -> dict[str, str]:
    """Return for each name the first name of the same tensor: same memory, type, shape and strides."""
    seen: dict[Any, str] = {}
    return {name: seen.setdefault(_memory(name, value), name) for name, value in state.items()}


def _memory(name: str, value: Any) -> Any:
    if not isinstance(value, Tensor) or value.layout is not torch.strided or value.data_ptr() == 0:
        return name  # shares no memory, or none that can be compared
    return value.device, value.data_ptr(), value.dtype, value.shape, value.stride()
