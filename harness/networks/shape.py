"""The shape of a network: what it is whatever its weights."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


def shape_of(network: nn.Module) -> list[Any]:
    """Return a network's modules, and the names, shapes and types of its state."""
    return [repr(network), [[key, *shape] for key, shape in state_shapes(network).items()]]


def state_shapes(network: nn.Module) -> dict[str, list[Any]]:
    """Return the shapes and types of a network's state by name."""
    return {key: _shape(value) for key, value in network.state_dict().items()}


def _shape(value: Any) -> list[Any]:
    """Return the shape and type of what a state holds: a tensor, or whatever ``get_extra_state`` gives."""
    return [list(value.shape), str(value.dtype)] if isinstance(value, Tensor) else [type(value).__name__]
