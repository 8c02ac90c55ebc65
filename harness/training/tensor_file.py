"""Tensors in a file of safetensors, that is there whole or not at all."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from harness.content import write_atomically


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
    """The network's ``state_dict`` as tensors that safetensors takes: on the CPU, each with memory of its own."""
    return {name: value.detach().cpu().contiguous().clone() for name, value in network.state_dict().items()}
