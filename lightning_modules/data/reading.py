"""Read samples in processes of their own, which end with the one that they read for."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from lightning_modules.batch import Inputs

_KILLED = re.compile(r"DataLoader worker \(pid.*\) (is killed by signal|exited unexpectedly)")  # PyTorch's words
KILLED = (
    "a process that reads samples was killed: where memory is short, take fewer workers= or a smaller batch; the "
    "system's log says who killed it"
)
"""What is told of a reader that has ended before its work."""
_SET_PDEATHSIG = 1  # of Linux's prctl: the signal that a process gets when its parent ends


class UnreadableData(ValueError):
    """Samples can't be read, or are not what they were before: no training's own fault, which goes on once they are."""


def unreadable_text(error: BaseException) -> str | None:
    """Return what is wrong with data, in one line, if an error is about that; ``None`` for another.

    PyTorch raises the error about a killed reader wherever the process is just then.
    """
    if isinstance(error, UnreadableData):
        return str(error)
    if isinstance(error, RuntimeError) and _KILLED.search(str(error)):
        return KILLED
    return None


class Positions(Dataset[Any]):
    """Gives each sample with its position.

    Args:
        read: Returns the sample, (input, label), at a position; its index is (position, view) where each has its own.
    """

    def __init__(self, read: Callable[..., tuple[Any, Any]]) -> None:
        self._read = read

    def __getitem__(self, index: int | tuple[int, int]) -> tuple[int, Any, Any]:
        place, *view = index if isinstance(index, tuple) else (index,)
        return (place, *self._read(place, *view))


class Collate:
    """Joins samples to a batch, with their positions.

    Args:
        name: Name of the split in messages.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, samples: list[tuple[int, Any, Any]]) -> tuple[Tensor, Inputs, Tensor]:
        places = [place for place, _, _ in samples]
        each = [(found, label) for _, found, label in samples]
        check_form(places, each, self._name)
        return (torch.tensor(places), *joined(each, self._name))


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


Form = dict[str, str]
"""Shape and type of each part of a sample, its label among them, in words."""


def form_of(sample: tuple[Any, Any]) -> Form:
    """Return the form of a sample, (input, label)."""
    found, label = sample
    parts = {"input": found}
    if isinstance(found, Mapping):
        parts = {f"input {name!r}": value for name, value in found.items()}
    return {name: _kind(value) for name, value in {**parts, "label": label}.items()}


def check_form(
    places: Sequence[int], samples: Sequence[tuple[Any, Any]], name: str, like: tuple[int, Form] | None = None
) -> None:
    """Check that samples have the form of another one: they are joined to batches.

    Args:
        places: Their positions.
        samples: The samples.
        name: Name of the split in messages.
        like: Position and form of the other one; by default the first of them.

    Raises:
        UnreadableData: If one has not; the message names it.
    """
    first, form = (places[0], form_of(samples[0])) if like is None else like
    for place, sample in zip(places, samples, strict=True):
        if (own := form_of(sample)) == form:
            continue
        odd = next(part for part in [*form, *own] if own.get(part) != form.get(part))
        raise UnreadableData(
            f"sample {place} of {name} must have the form of sample {first}, but its {odd} is "
            f"{own.get(odd, 'missing')}, not {form.get(odd, 'missing')}."
        )


def _kind(value: Any) -> str:
    if isinstance(value, Tensor | np.ndarray):
        return f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}"
    if isinstance(value, bool | np.bool_):
        return "a bool"
    if isinstance(value, Integral):
        return "a whole number"
    return "a number" if isinstance(value, Real) else type(value).__name__


def _shape(value: Any) -> object:
    if isinstance(value, Tensor):
        return tuple(value.shape)
    if isinstance(value, Mapping):
        return {str(key): _shape(one) for key, one in value.items()}
    return type(value).__name__
