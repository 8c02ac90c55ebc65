"""Checks of a network's state, which is saved: dense tensors, with the same names before and after a call."""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from harness.core.errors import Unfit

_QUANTIZED = re.compile(r"torch\.(ao\.)?nn\.(intrinsic\.|sparse\.)?quantized\.")


def check_state(name: str, network: nn.Module) -> None:
    """Check that a network's state is dense tensors that can be saved, and that it computes in floating point.

    Args:
        name: The network's name in messages.
        network: The network.

    Raises:
        Unfit: If not.
    """
    state = network.state_dict(keep_vars=True)
    odd = {key: value for key, value in state.items() if not isinstance(value, Tensor)}
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    lost = [key for key, value in tensors.items() if value.is_meta]
    quantized = [type(part) for part in network.modules() if _is_quantized(type(part))]
    if quantized or any(value.is_quantized for value in tensors.values()):
        kind = f" ({quantized[0].__module__}.{quantized[0].__name__})" if quantized else ""
        raise Unfit(
            f"{name} must compute in floating point, but is quantized{kind}",
            "return it before it is quantized, and quantize a student that is chosen, after the search",
        )
    if odd:
        key, value = next(iter(odd.items()))
        raise Unfit(
            f"{name} must keep tensors alone in its state_dict, but {key!r} is a {type(value).__name__}",
            "keep it as a tensor (register_buffer), or as a plain attribute that student() sets",
        )
    if sparse := [key for key, value in tensors.items() if value.layout is not torch.strided]:
        raise Unfit(
            f"{name} must keep dense tensors alone in its state_dict, but {sparse[0]!r} is {tensors[sparse[0]].layout}",
            "register it as a buffer with persistent=False, or keep it dense",
        )
    if lost:
        raise Unfit(f"{name} must have weights, but its {lost[0]!r} is on the meta device", "build it on the CPU")


def check_same_state(name: str, before: Iterable[str], network: nn.Module) -> None:
    """Check that a call did not change the names of a network's state, which is loaded into a fresh network.

    Args:
        name: The network's name in messages.
        before: The names of its state when it was built.
        network: The network, after a call.

    Raises:
        Unfit: If the names differ.
    """
    names, known = list(network.state_dict()), set(before)
    changed = [f"its forward adds {key!r}" for key in names if key not in known]
    changed += [f"its forward takes {key!r} away" for key in known.difference(names)]
    if changed:
        raise Unfit(
            f"{name} must have the same state_dict before and after a call, but {changed[0]}",
            "register the buffer with its size when the network is built, or with persistent=False",
        )


def _is_quantized(kind: type) -> bool:
    """Return whether a class is one of torch's quantized modules; FloatFunctional and its like compute in floats."""
    return bool(_QUANTIZED.match(f"{kind.__module__}.")) and "FloatFunctional" not in kind.__name__
