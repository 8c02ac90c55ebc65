"""Find which axes of a network's tensors count the same units: what one layer gives, and what others take.

Some units of a tensor are set to NaN, the network is called, and each layer's input is looked at. A NaN stays in its
channel through activations, sums, views and pools; each layer that mixes channels (or normalizes over them) takes it as
zero, so that no mark goes further than the next layers. Where a mark comes out as a whole head of attention, heads are
the units.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lightning_modules.batch import Inputs, call, evaluating
from lightning_modules.random_states import random_states_restored

Axis = tuple[str, int]
"""An axis of a tensor: the tensor's name, and the number of the axis."""

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_SECOND_AXIS_NORMS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.GroupNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
)
_LAST_AXIS_NORMS = (nn.LayerNorm, nn.RMSNorm)
_COPIES = (1, 2, 3)  # of an axis in one tensor: a gate beside its values, and queries, keys and values in one matrix


@dataclass(frozen=True)
class Group:
    """Axes that count the same units: unit u is at u * width and the next ones, in each of the axis's copies.

    Attributes:
        units: How many units there are.
        copies: By axis, how often the units are repeated along it.
    """

    units: int
    copies: Mapping[Axis, int]

    def width(self, axis: Axis, size: int) -> int:
        """Return how many indices of an axis of some size belong to a unit."""
        return size // (self.copies[axis] * self.units)


_known: WeakKeyDictionary[nn.Module, dict[tuple[Axis, ...], list[Group]]] = WeakKeyDictionary()


def state_of(network: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a network's state by name; they share its memory."""
    return {name: value for name, value in network.state_dict().items() if isinstance(value, Tensor)}


def groups_of(network: nn.Module, axes: list[Axis], inputs: Inputs) -> list[Group]:
    """Return which axes of a network count the same units, as far as that is seen of the axes that are given.

    A teacher's are found once in a process, for students that have the same tensors of it.
    """
    known, key = _known.setdefault(network, {}), tuple(axes)
    if key not in known:
        known[key] = _found_groups(network, axes, inputs)
    return known[key]


def _found_groups(network: nn.Module, axes: list[Axis], inputs: Inputs) -> list[Group]:
    with random_states_restored(), evaluating(network), _Marking.of(network, inputs) as marking:
        links = [link for axis in axes for link in marking.links(axis)]
    return _joined([*links, *marking.fixed_links(axes)])


@dataclass(frozen=True)
class _Link:
    """Two axes that count the same units, with how often each repeats them."""

    axes: tuple[Axis, Axis]
    copies: tuple[int, int]
    units: int


def _joined(links: list[_Link]) -> list[Group]:
    """Join links into groups; a group in which an axis is repeated in two ways is left out."""
    groups: list[list[_Link]] = []
    for link in links:
        met = [group for group in groups if any(set(link.axes) & set(other.axes) for other in group)]
        groups = [group for group in groups if all(group is not one for one in met)]
        groups.append([link, *(other for group in met for other in group)])
    found = []
    for group in groups:
        copies: dict[Axis, set[int]] = {}
        for link in group:
            for axis, count in zip(link.axes, link.copies, strict=True):
                copies.setdefault(axis, set()).add(count)
        if all(len(counts) == 1 for counts in copies.values()):
            units = math.gcd(*(link.units for link in group))
            found.append(Group(units, {axis: counts.pop() for axis, counts in copies.items()}))
    return found


@dataclass(frozen=True)
class _Taker:
    """How a layer takes its input: the axis of its weight that counts the channels, and the channels' dimension."""

    axis: Axis | None
    dimension: int = -1
    mixes: bool = True


class _Marking:
    """Marks units of tensors, and sees which layers' inputs they reach.

    Args:
        network: In eval mode, on the CPU; as before once the context ends.
        inputs: Inputs of a batch.
    """

    def __init__(self, network: nn.Module, inputs: Inputs) -> None:
        self._network, self._inputs = network, inputs
        self._state = state_of(network)
        self._takers: dict[str, _Taker] = {}
        self._reached: dict[Axis, Tensor] = {}
        self._attentions = {n: m for n, m in network.named_modules() if isinstance(m, nn.MultiheadAttention)}

    @classmethod
    @contextmanager
    def of(cls, network: nn.Module, inputs: Inputs) -> Iterator[_Marking]:
        """Return a marking, within a context in which the layers are looked into."""
        self = cls(network, inputs)
        with ExitStack() as hooks:
            modules = dict(network.named_modules())
            shapes: dict[str, list[tuple[int, ...]]] = {}
            for name, module in modules.items():
                handle = module.register_forward_hook(self._noting_shape(name, shapes))
                hooks.callback(handle.remove)
            self._call()
            hooks.close()
            for name, module in modules.items():
                if (taker := self._taker_of(name, module, shapes.get(name, []))) is not None:
                    self._takers[name] = taker
                    before = module.register_forward_pre_hook(self._seeing(taker), with_kwargs=True)
                    hooks.callback(before.remove)
            yield self

    def links(self, axis: Axis) -> Iterator[_Link]:
        """Yield what counts the same units as an axis of a tensor: inputs of the layers that its marks reach."""
        name, number = axis
        size = self._state[name].shape[number]
        if axis in self._inputs_alone() or not self._state[name].is_floating_point():
            return
        left: dict[Axis, int] | None = None  # layers that are reached in a way that is not known yet, and their sizes
        for copies in (copies for copies in _COPIES if size % copies == 0):
            for units in _divisors(size // copies):
                if left is not None and not any(length % units == 0 for length in left.values()):
                    continue
                some = _some(units)
                masks = [self._mark(axis, _spread(each, copies, size)) for each in (some, ~some)]
                if left is None:
                    left = {one: len(mask) for one, mask in masks[0].items() if (mask | masks[1][one]).any()}
                for one in [one for one, length in left.items() if length % units == 0]:
                    seen = [mask[one].reshape(units, -1).any(1) for mask in masks]
                    if torch.equal(seen[0], some) and torch.equal(seen[1], ~some):
                        del left[one]
                        yield _Link((axis, one), (copies, 1), units)
                if (copies, units) == (1, size) and left:  # of what a single mark fills whole, no unit is to be told
                    first = self._mark(axis, torch.arange(size) == 0)
                    left = {one: length for one, length in left.items() if not first[one].all()}
                if not left:
                    return

    def fixed_links(self, axes: list[Axis]) -> list[_Link]:
        """Return the links within layers that are known: the heads of ``nn.MultiheadAttention``."""
        found = []
        for name, module in self._attentions.items():
            prefix = f"{name}." if name else ""
            inner = (f"{prefix}out_proj.weight", 1)
            stacked = [(f"{prefix}in_proj_weight", 0), (f"{prefix}in_proj_bias", 0)]
            for one in stacked:
                if one[0] in self._state and one in axes:
                    found.append(_Link((inner, one), (1, 3), module.num_heads))
        return found

    def _inputs_alone(self) -> set[Axis]:
        """Return the axes that count what a layer takes, or what is within it: marks on them are everywhere."""
        taken = {taker.axis for taker in self._takers.values() if taker.mixes and taker.axis is not None}
        within = set()
        for name in self._attentions:
            prefix = f"{name}." if name else ""
            within |= {(f"{prefix}in_proj_weight", 0), (f"{prefix}in_proj_bias", 0), (f"{prefix}out_proj.weight", 1)}
        return taken | within

    def _mark(self, axis: Axis, units: Tensor) -> dict[Axis, Tensor]:
        """Set indices of a tensor's axis to NaN, and return which channels of each layer's input are NaN then."""
        value = self._state[axis[0]]
        before = value.clone()
        with torch.no_grad():
            value.index_fill_(axis[1], units.nonzero().flatten(), math.nan)
            try:
                self._call()
            finally:
                value.copy_(before)
        return dict(self._reached)

    def _call(self) -> None:
        self._reached = {}
        try:
            with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):  # other kernels lose a NaN
                call(self._network, self._inputs)
        except Exception as error:
            raise ValueError(
                "start=pruned must call the network with NaN in some units to see which belong together, but its "
                f"forward fails on it ({type(error).__name__}); hold start=layers"
            ) from error

    def _seeing(self, taker: _Taker) -> Callable[..., Any]:
        def see(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
            given = next(one for one in (*args, *kwargs.values()) if isinstance(one, Tensor))
            if taker.axis is not None and given.is_floating_point():
                channels = given.isnan().movedim(taker.dimension, 0).flatten(1).any(1)
                before = self._reached.get(taker.axis)
                self._reached[taker.axis] = channels if before is None else before | channels
            return tuple(map(_cleaned, args)), {name: _cleaned(one) for name, one in kwargs.items()}

        return see

    @staticmethod
    def _noting_shape(name: str, shapes: dict[str, list[tuple[int, ...]]]) -> Callable[..., None]:
        def note(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            both = [one for one in (*args[:1], output) if isinstance(one, Tensor)]
            if len(both) == 2:
                shapes[name] = [tuple(one.shape) for one in both]

        return note

    def _taker_of(self, name: str, module: nn.Module, shapes: list[tuple[int, ...]]) -> _Taker | None:
        """Return how a layer takes its input; ``None`` if marks are to go through it."""
        prefix = f"{name}." if name else ""
        weight = f"{prefix}weight"
        if isinstance(module, nn.Linear):
            return _Taker((weight, 1))
        if isinstance(module, nn.MultiheadAttention):
            stacked = f"{prefix}in_proj_weight"
            return _Taker((stacked, 1) if stacked in self._state else None)
        if isinstance(module, _CONVOLUTIONS):
            is_depthwise = module.groups == module.in_channels == module.out_channels
            if module.groups == 1 or is_depthwise:
                return _Taker((weight, 0 if is_depthwise and module.groups > 1 else 1), 1, mixes=module.groups == 1)
            return _Taker(None)
        if isinstance(module, _TRANSPOSED):
            return _Taker((weight, 0) if module.groups == 1 else None, 1)
        if isinstance(module, _SECOND_AXIS_NORMS):
            return _Taker((weight, 0) if weight in self._state else None, 1, mixes=False)
        if isinstance(module, _LAST_AXIS_NORMS):
            one_axis = module.elementwise_affine and len(module.normalized_shape) == 1
            return _Taker((weight, 0) if one_axis else None, mixes=False)
        return self._own_norm(prefix, module, shapes)

    def _own_norm(self, prefix: str, module: nn.Module, shapes: list[tuple[int, ...]]) -> _Taker | None:
        """Return how a norm of a person's own takes its input: it has vectors alone, and keeps the input's shape."""
        own = {f"{prefix}{name}": value for name, value in module.named_parameters()}
        sizes = {tuple(value.shape) for value in own.values()}
        if len(sizes) != 1 or len(shapes) != 2 or shapes[0] != shapes[1]:
            return None
        (size,) = sizes
        for dimension in (-1, 1):
            if len(size) == 1 and len(shapes[0]) > 1 and shapes[0][dimension] == size[0]:
                return _Taker((next(iter(own)), 0), dimension, mixes=False)
        return None


def _cleaned(value: Any) -> Any:
    return value.nan_to_num() if isinstance(value, Tensor) and value.is_floating_point() else value


def _divisors(number: int) -> list[int]:
    """Return the divisors of a number from itself down to 2."""
    return [one for one in range(number, 1, -1) if number % one == 0]


def _some(units: int) -> Tensor:
    """Return about half of some units, at random but always the same: the first among them, and not the second."""
    drawn = torch.rand(units, generator=torch.Generator().manual_seed(units)) < 0.5
    drawn[0], drawn[1] = True, False
    return drawn


def _spread(units: Tensor, copies: int, size: int) -> Tensor:
    """Return which indices of an axis of some size belong to some units."""
    return units.repeat_interleave(size // (copies * len(units))).repeat(copies)
