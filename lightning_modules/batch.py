"""What a training step receives, for every modality."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

Inputs = Tensor | dict[str, Tensor]


@dataclass(slots=True)
class Batch:
    """Some samples with their labels and with what the teacher said of them.

    Attributes:
        ids: Which samples of the split these are, shape (B,), int64.
        inputs: What a network is called with: a tensor (B, …) or a dict of such tensors (passed as keywords).
        labels: Class indices, shape (B,), int64.
        targets: Probabilities of the classes, shape (B, C), where a view gives them (``lightning_modules.data.views``);
            ``None`` where the labels are the targets.
        teacher: The teacher's stored outputs for these samples by name; ``"logits"`` has shape (B, C), never softmaxed.
            Empty while the teacher itself is trained.
        mask: True where a position is valid, for inputs that are padded; ``None`` when nothing is.
    """

    ids: Tensor
    inputs: Inputs
    labels: Tensor
    teacher: dict[str, Tensor] = field(default_factory=dict)
    mask: Tensor | None = None
    targets: Tensor | None = None

    @property
    def truth(self) -> Tensor:
        """Return what a hard-label loss is taken against: the targets where there are any, else the labels."""
        return self.labels if self.targets is None else self.targets


def select(inputs: Inputs, ids: Tensor | slice) -> Inputs:
    """Return the rows ``ids`` of a tensor, or of every tensor of a dict."""
    if isinstance(inputs, Mapping):
        return {name: value[ids] for name, value in inputs.items()}
    return inputs[ids]


def call(network: nn.Module, inputs: Inputs) -> Tensor:
    """Run a network on the inputs of a batch: keywords for a dict, one argument otherwise."""
    logits: Tensor = network(**inputs) if isinstance(inputs, Mapping) else network(inputs)
    return logits


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Keep a network in eval mode, then give each part its own mode back: one may be in eval mode on purpose."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def initialize_lazy_layers(network: nn.Module, inputs: Inputs) -> nn.Module:
    """Give lazy layers (``nn.LazyLinear``) their sizes and weights by a call, and return the network.

    Args:
        network: Any network, on the device of the inputs; one without lazy layers is not called.
        inputs: Of a batch.
    """
    if any(map(is_lazy, (*network.parameters(), *network.buffers()))):
        with torch.no_grad(), evaluating(network):
            call(network, inputs)
    return network
