"""Average a network's weights over the steps of its training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class WeightAverage(nn.Module):
    r"""Exponential moving average of a network's parameters and buffers, kept beside the network.

    .. math:: \bar{w} \leftarrow d \, \bar{w} + (1 - d) \, w,
        \quad d = \min\big(\mathrm{decay}, \tfrac{1 + n}{10 + n}\big)

    The decay grows with the number n of steps, as in TensorFlow's ``ExponentialMovingAverage(num_updates=…)``: with a
    constant 0.999, a training of a few hundred steps would end near its initial weights. Buffers such as the statistics
    of a BatchNorm are averaged too; whole numbers and buffers that no state holds stay the network's own.

    The tensors are kept as buffers, so they move with the module, and are part of its checkpoints.

    Args:
        network: The network with its initial weights.
        decay: In (0, 1).
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__()
        self._decay = decay
        self._steps = 0
        for name, value in _averaged(network):
            self.register_buffer(_key(name), value.detach().clone())

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move the average towards the network's weights after an optimizer step."""
        self._steps += 1
        share = 1 - effective_decay(self._decay, self._steps)
        for average, value in self._pairs(network):
            average.lerp_(value, share)

    @torch.no_grad()
    def load_into(self, network: nn.Module) -> None:
        """Overwrite the network's weights by their average."""
        for average, value in self._pairs(network):
            value.copy_(average)

    @contextmanager
    def applied(self, network: nn.Module) -> Iterator[None]:
        """Give the network the averaged weights within the context, and its own ones, to the bit, afterwards."""
        own = [value.detach().clone() for _, value in self._pairs(network)]
        self.load_into(network)
        try:
            yield
        finally:
            with torch.no_grad():
                for (_, value), kept in zip(self._pairs(network), own, strict=True):
                    value.copy_(kept)

    def get_extra_state(self) -> Any:
        """Return the number of steps, as part of a checkpoint."""
        return self._steps

    def set_extra_state(self, state: Any) -> None:
        """Restore the number of steps."""
        self._steps = state

    def _pairs(self, network: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
        for name, value in _averaged(network):
            average = self._buffers.get(_key(name))
            if average is None or average.shape != value.shape:
                raise ValueError(
                    f"ema_decay needs a network whose tensors keep their names and shapes, but {name!r} is "
                    f"{list(value.shape)} now, and was {'missing' if average is None else list(average.shape)}."
                )
            yield average, value


def effective_decay(decay: float, steps: int) -> float:
    """Return the decay after some steps: a short training does not reach a large one."""
    return min(decay, (1 + steps) / (10 + steps))


def _averaged(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors that are averaged by name, a tied one once."""
    kept = network.state_dict(keep_vars=True).keys()
    yield from network.named_parameters()
    for name, value in network.named_buffers():
        if name in kept and (value.is_floating_point() or value.is_complex()):
            yield name, value


def _key(name: str) -> str:
    """Return a tensor's name as that of a buffer, which has no dots."""
    return name.replace(".", "/")
