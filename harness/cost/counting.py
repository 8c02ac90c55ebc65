"""Costs that no runtime measures: parameters, multiply-accumulates and size are counted of the network itself."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from safetensors.torch import save
from torch import nn

from harness.cost.macs import macs_of
from harness.training.tensor_file import cpu_state
from lightning_modules.batch import Inputs, first_of

VERSION = 7  # raised when costs are counted in another way: kept ones are then counted anew


class Counts(NamedTuple):
    """The counted costs of a network.

    Attributes:
        parameters: Numbers in its parameters, trained or not; shared ones count once.
        trainable_parameters: Those that training changes: of the student in training, where another one is deployed.
        macs: Multiply-accumulates of one sample (FLOPs = 2 MACs); ``None`` where not all of them can be counted.
        size_mb: Weights and buffers as a safetensors file, MB (10^6 bytes); shared ones count once.
    """

    parameters: int
    trainable_parameters: int
    macs: int | None
    size_mb: float

    def known(self) -> dict[str, float]:
        """Return the costs by metric name, without what can't be counted."""
        return {name: value for name, value in self._asdict().items() if value is not None}


def count_costs(network: nn.Module, inputs: Inputs, trainable: int | None = None) -> Counts:
    """Count what can be counted of a network in eval mode, from a call with a batch.

    Args:
        network: The network.
        inputs: Of the batch.
        trainable: How many parameters training changes; ``None`` takes those of the network that are not frozen.
    """
    macs, uncounted = macs_of(network, inputs)
    return Counts(
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        trainable_parameters=trainable_parameters(network) if trainable is None else trainable,
        macs=None if uncounted else macs // len(first_of(inputs)),
        size_mb=len(save(cpu_state(network))) / 1e6,
    )


def trainable_parameters(network: nn.Module) -> int:
    """Return how many numbers a training of ``network`` changes."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def uncounted_of(networks: Iterable[nn.Module], inputs: Inputs) -> tuple[str, ...]:
    """Return the operations of networks that multiply and have no formula, by name, each once."""
    return tuple(sorted({name for network in networks for name in macs_of(network, inputs).uncounted}))
