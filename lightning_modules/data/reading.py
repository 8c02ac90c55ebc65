"""Read samples in processes of their own, which end with the one that they read for."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from lightning_modules.batch import Inputs

_SET_PDEATHSIG = 1  # of Linux's prctl: the signal that a process gets when its parent ends


class Positions(Dataset[Any]):
    """Gives each sample with its position.

    Args:
        read: Returns the sample, (input, label), at a position.
    """

    def __init__(self, read: Callable[[int], tuple[Any, Any]]) -> None:
        self._read = read

    def __getitem__(self, place: int) -> tuple[int, Any, Any]:
        return (place, *self._read(place))


class Collate:
    """Joins samples to a batch, with their positions.

    Args:
        name: Name of the split in messages.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, samples: list[tuple[int, Any, Any]]) -> tuple[Tensor, Inputs, Tensor]:
        ids = torch.tensor([place for place, _, _ in samples])
        return (ids, *joined([(found, label) for _, found, label in samples], self._name))


def end_with_parent(parent: int, number: int) -> None:
    """Let a reader end with the process that it reads for, whose locks it has inherited, and by SIGTERM as by itself.

    Args:
        parent: The process that it reads for.
        number: Index of the reader.
    """
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches a whole group of processes; the parent ends its readers
    # PyTorch raises an error wherever the parent is just then if a reader dies of a signal, but not if it exits.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it has ended already
            os._exit(1)


def leaves(sample: tuple[Inputs, Tensor]) -> list[Tensor]:
    """Return all tensors of a sample."""
    inputs, label = sample
    return [*(inputs[name] for name in sorted(inputs)), label] if isinstance(inputs, dict) else [inputs, label]


def joined(samples: list[tuple[Any, Any]], name: str) -> tuple[Inputs, Tensor]:
    """Return the inputs and labels of samples as a batch.

    Raises:
        ValueError: If they are no tensors of one shape; the message names the split.
    """
    try:
        inputs, labels = default_collate(samples)
    except (RuntimeError, TypeError, AttributeError, KeyError) as error:
        shapes = sorted({str(_shape(found)) for found, _ in samples})
        raise ValueError(
            f"samples of {name} must be tensors of one shape, or dicts of such, with a label each, but are "
            f"{', '.join(shapes[:3])}: {str(error).splitlines()[0]}"
        ) from error
    if isinstance(inputs, Mapping):
        return dict(inputs), torch.as_tensor(labels)
    if not isinstance(inputs, Tensor):
        raise ValueError(f"inputs of {name} must be tensors or dicts of tensors, but are {_shape(samples[0][0])}.")
    return inputs, torch.as_tensor(labels)


def _shape(value: Any) -> object:
    if isinstance(value, Tensor):
        return tuple(value.shape)
    if isinstance(value, Mapping):
        return {str(key): _shape(one) for key, one in value.items()}
    return type(value).__name__
