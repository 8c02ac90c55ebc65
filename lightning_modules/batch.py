"""Define the batch of a training step, for every modality."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

Inputs = Tensor | dict[str, Tensor]

UNLABELLED = -100
"""In place of a class where a row has no label, as PyTorch's own losses ignore it; NaN in place of floats."""


@dataclass(slots=True)
class Batch:
    """A batch of samples with their targets and the teacher's outputs.

    Attributes:
        ids: Positions of the samples in their split, shape (B,), int64.
        inputs: Inputs of a network: a tensor (B, …) or a dict of such tensors (passed as keywords).
        target: What the labels say, as the output kind has it (``lightning_modules.outputs``): of a classifier class
            indices (B,), int64, or the probabilities (B, C) that a view gives in their place. A training sample that
            the teacher alone labels has ``UNLABELLED``, or NaN where targets are floats.
        teacher: The teacher's stored outputs for these samples by name; ``"logits"`` has shape (B, C), never softmaxed.
            Where a task stores the largest ones alone, it is a ``lightning_modules.top_k.TopKLogits``. Empty while the
            teacher itself is trained.
        mask: True at valid positions of padded inputs; ``None`` if nothing is padded.
    """

    ids: Tensor
    inputs: Inputs
    target: Tensor
    teacher: dict[str, Any] = field(default_factory=dict)
    mask: Tensor | None = None


def select(inputs: Inputs, ids: Tensor | slice) -> Inputs:
    """Return the rows ``ids`` of a tensor, or of every tensor of a dict."""
    if isinstance(inputs, Mapping):
        return {name: value[ids] for name, value in inputs.items()}
    return inputs[ids]


def labelled_rows(target: Tensor) -> Tensor:
    """Return which rows of a batch have a label, shape (R,), bool: not those of ``UNLABELLED``, or with NaN.

    Args:
        target: Targets of rows, first dimension R.
    """
    rows = target.reshape(len(target), -1)
    return ~rows.isnan().any(1) if rows.is_floating_point() else (rows != UNLABELLED).any(1)


def first_of(inputs: Inputs) -> Tensor:
    """Return a tensor of inputs: the tensor itself, or the first one of a dict."""
    return next(iter(inputs.values())) if isinstance(inputs, Mapping) else inputs


def moved_to(device: torch.device, inputs: Inputs) -> Inputs:
    """Return a tensor, or every tensor of a dict, on a device."""
    if isinstance(inputs, Mapping):
        return {name: value.to(device) for name, value in inputs.items()}
    return inputs.to(device)


def join(parts: Iterable[Inputs]) -> Inputs:
    """Return inputs in one piece; a single part is returned as it is."""
    each = list(parts)
    if len(each) == 1:
        return each[0]
    first = each[0]
    if isinstance(first, Mapping):
        return {name: torch.cat([part[name] for part in each if isinstance(part, Mapping)]) for name in first}
    return torch.cat([part for part in each if isinstance(part, Tensor)])


def call(network: nn.Module, inputs: Inputs) -> Tensor:
    """Return what a network gives for the inputs of a batch: a dict is passed as keywords, a tensor as one argument.

    Of an output with attributes, as a ``ModelOutput`` of Transformers, it is ``logits``.
    """
    given = network(**inputs) if isinstance(inputs, Mapping) else network(inputs)
    logits: Tensor = given if isinstance(given, Tensor) else getattr(given, "logits", given)
    return logits


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put a network in eval mode, then restore the mode of each submodule: some may be in eval mode on purpose."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def initialize_lazy_layers(network: nn.Module, inputs: Inputs) -> nn.Module:
    """Initialize lazy layers (``nn.LazyLinear``) by a call of the network, and return it.

    Args:
        network: A network on the device of the inputs; it is not called if it has no lazy layer.
        inputs: Inputs of a batch.
    """
    if any(map(is_lazy, (*network.parameters(), *network.buffers()))):
        with torch.no_grad(), evaluating(network):
            call(network, inputs)
    return network
