"""Capture intermediate features of a network: the outputs of layers by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.batch import Inputs, call, evaluating

Features = dict[str, Tensor]
"""Outputs of layers by the names that they were asked for under, each of first dimension B; the first of a tuple."""
Names = Mapping[str, str]
"""What a network calls layers in ``network.named_modules()``, by the names that they are asked for under."""
_OWN_NAMES: Names = MappingProxyType({})


@contextmanager
def capture_features(network: nn.Module, layers: Sequence[str], names: Names = _OWN_NAMES) -> Iterator[Features]:
    """Capture outputs of layers in a dict that is filled by calls of the network; remove the hooks at the end.

    Args:
        network: The network.
        layers: Names of layers.
        names: What the network calls them, where that is another name.

    Raises:
        ValueError: If the network has no layer of that name.
    """
    features: Features = {}
    handles = [_layer(network, name, names).register_forward_hook(_capture_hook(features, name)) for name in layers]
    try:
        yield features
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def probe_features(
    network: nn.Module, inputs: Inputs, layers: Sequence[str], names: Names = _OWN_NAMES
) -> tuple[Tensor, Features]:
    """Return logits and features of some inputs in eval mode; the network's modes are restored.

    Args:
        network: The network.
        inputs: Inputs of a few samples, on its device.
        layers: Names of layers.
        names: What the network calls them, where that is another name.

    Raises:
        ValueError: If the network has no layer of that name, or the layer's output is not a tensor with a row for each
            sample, or another layer overwrites it in place.
    """
    versions: dict[str, int] = {}

    def note(name: str) -> Any:
        def hook(module: nn.Module, given: Any, output: Any) -> None:
            found = _first(output)
            versions[name] = found._version if isinstance(found, Tensor) else 0

        return hook

    handles = [_layer(network, name, names).register_forward_hook(note(name)) for name in layers]
    try:
        with evaluating(network), capture_features(network, layers, names) as features:
            logits = call(network, inputs)
    finally:
        for handle in handles:
            handle.remove()
    for name in layers:
        _check(names.get(name, name), features.get(name), len(logits), versions.get(name))
    return logits, features


def _capture_hook(features: Features, name: str) -> Any:
    def hook(module: nn.Module, given: Any, output: Any) -> None:
        features[name] = _first(output)

    return hook


def _first(output: Any) -> Any:
    """Return the first of the values that a layer gives, as an LSTM or an attention does; a single one as it is."""
    return output[0] if isinstance(output, tuple) and output else output


def _layer(network: nn.Module, asked: str, names: Names) -> nn.Module:
    name = names.get(asked, asked)
    try:
        if name:  # the empty name is the network itself
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
            f"layer {name!r} must keep its output, but a later layer overwrites it in place; name that layer."
        )
