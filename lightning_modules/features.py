"""What a network computes on the way to its logits: outputs of its layers, by name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.batch import Inputs, call, evaluating

Features = dict[str, Tensor]
"""Outputs of layers by their names in ``network.named_modules()``, each of first dimension B."""


@contextmanager
def captured(network: nn.Module, layers: Sequence[str]) -> Iterator[Features]:
    """Outputs of some layers, there as soon as the network has been called; no hook outlives the context.

    Args:
        network: Any network.
        layers: Names of layers.

    Raises:
        ValueError: If there is no layer of a name.
    """
    features: Features = {}
    handles = [_layer(network, name).register_forward_hook(_keeping(features, name)) for name in layers]
    try:
        yield features
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def probed(network: nn.Module, inputs: Inputs, layers: Sequence[str]) -> tuple[Tensor, Features]:
    """Logits and features of some inputs in eval mode; the network is left in the modes that it was in.

    Args:
        network: Any network.
        inputs: A few samples, on its device.
        layers: Names of layers.

    Raises:
        ValueError: If there is no layer of a name, or what it gives is no tensor of a row for each sample, or another
            layer overwrites it.
    """
    versions: dict[str, int] = {}

    def note(name: str) -> Any:
        def hook(module: nn.Module, given: Any, output: Any) -> None:
            versions[name] = output._version if isinstance(output, Tensor) else 0

        return hook

    handles = [_layer(network, name).register_forward_hook(note(name)) for name in layers]
    try:
        with evaluating(network), captured(network, layers) as features:
            logits = call(network, inputs)
    finally:
        for handle in handles:
            handle.remove()
    for name in layers:
        _check(name, features.get(name), len(logits), versions.get(name))
    return logits, features


def _keeping(features: Features, name: str) -> Any:
    def hook(module: nn.Module, given: Any, output: Any) -> None:
        features[name] = output

    return hook


def _layer(network: nn.Module, name: str) -> nn.Module:
    try:
        if name:  # or it would be the network itself
            return network.get_submodule(name)
    except AttributeError:
        pass
    known = ", ".join(known for known, _ in network.named_modules() if known)
    raise ValueError(f"a layer must be one of {known}, but got {name!r}.")


def _check(name: str, output: Any, samples: int, version: int | None) -> None:
    if not isinstance(output, Tensor) or output.ndim < 2 or len(output) != samples:
        found = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(
            f"layer {name!r} must give a tensor (B, ...) of a row for each of {samples} samples, but gave {found}; "
            "name another layer."
        )
    if output._version != version:
        raise ValueError(
            f"layer {name!r} must keep its output, but a layer behind it overwrites that in place; name that one."
        )
