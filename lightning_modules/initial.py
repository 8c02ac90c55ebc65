"""Start weights of a student: copied from its teacher by name, layer by layer or cut to its width, or from a file."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.batch import Inputs
from lightning_modules.pruning import Cutting, cut
from lightning_modules.units import state_of

SCRATCH, LAYERS, PRUNED = "scratch", "layers", "pruned"
"""Start weights as ``student()`` gives them; copied by name; copied by name and cut to the student's width."""
OF_TEACHER = (LAYERS, PRUNED)
"""Those that need a teacher's weights."""

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass(frozen=True, eq=False)
class Origins:
    """What students may start from.

    Attributes:
        teacher: The frozen teacher, in eval mode, on the CPU; ``None`` where no student needs it.
        files: Tensors by name, by the name of their file.
    """

    teacher: nn.Module | None = None
    files: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)


@dataclass(frozen=True)
class Started:
    """What of a student began with weights that were not drawn.

    Attributes:
        tensors: How many of its tensors began so, parameters and buffers.
        of_tensors: How many tensors it has.
        numbers: How many of its parameters' numbers began so.
        of_numbers: How many numbers its parameters have.
        layers: By the name of a stack of numbered layers, which ones of the teacher a student with fewer took.
        unmatched: Names of the tensors that kept their fresh weights.
    """

    tensors: int
    of_tensors: int
    numbers: int
    of_numbers: int
    layers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unmatched: tuple[str, ...] = ()

    def __str__(self) -> str:
        told = f"{self.numbers:,} of {self.of_numbers:,} parameters, {self.tensors} of {self.of_tensors} tensors"
        stacks = "".join(
            f"; {stack or 'layers'} from the teacher's {', '.join(taken)}" for stack, taken in self.layers.items()
        )
        return f"{told}{stacks}"


def start_from(student: nn.Module, start: str, origins: Origins, inputs: Inputs) -> Started:
    """Copy start weights into a student.

    Args:
        student: With fresh weights, on the CPU.
        start: ``"scratch"``, ``"layers"``, ``"pruned"`` or the name of a file.
        origins: What it may start from.
        inputs: Inputs of a batch, on the CPU: a network is called with them to see which units belong together.

    Raises:
        ValueError: If nothing of the student matches, a file's names are not the student's, or heads would be torn.
    """
    if start == SCRATCH:
        return _copied(student, {})
    if start not in OF_TEACHER:
        return copy_named(student, origins.files[start], start)
    assert origins.teacher is not None
    return copy_from_teacher(student, origins.teacher, inputs if start == PRUNED else None)


def copy_named(student: nn.Module, tensors: Mapping[str, Tensor], source: str) -> Started:
    """Copy tensors into a student by name and shape; those that the file lacks keep their fresh weights.

    Raises:
        ValueError: If a name is unknown to the student, a shape is another, or the file has none of its tensors.
    """
    own = state_of(student)
    unknown = [name for name in tensors if name not in own]
    if unknown:
        more = f" and {len(unknown) - 1} more are" if len(unknown) > 1 else " is"
        raise ValueError(
            f"start weights in {source} must have the student's names, but {unknown[0]!r}{more} none of "
            f"{', '.join(list(own)[:4])}, .."
        )
    for name, value in tensors.items():
        if value.shape != own[name].shape:
            raise ValueError(
                f"start weights in {source} must have the student's shapes, but {name!r} is {list(value.shape)}, and "
                f"the student's {list(own[name].shape)}; hold the architecture, or leave the file out"
            )
    if not tensors:
        raise ValueError(f"start weights in {source} must name tensors of the student, but it holds none")
    return _copied(student, tensors)


def copy_from_teacher(student: nn.Module, teacher: nn.Module, inputs: Inputs | None = None) -> Started:
    """Copy the teacher's tensors that have the name of a student's, numbered layers evenly spaced (``Matching``).

    Tensors of the same shape are copied as they are. With ``inputs``, the others are cut to the student's shape
    (``lightning_modules.pruning``).

    Args:
        student: With fresh weights, on the CPU.
        teacher: On the CPU.
        inputs: Inputs of a batch, to cut tensors; ``None`` copies those of the same shape alone.

    Raises:
        ValueError: If no tensor can be copied, or heads of attention would be torn.

    References:
        Every second layer: Sanh et al. (2019), arXiv:1910.01108; Sun et al. (2019), arXiv:1908.09355.
    """
    matching = match(state_of(student), state_of(teacher))
    own, theirs = state_of(student), state_of(teacher)
    pairs = {name: theirs[other] for name, other in matching.names.items()}
    taken = {name: value for name, value in pairs.items() if value.shape == own[name].shape}
    if inputs is not None and len(taken) < len(pairs):
        taken = cut(Cutting(student, teacher, matching.names), inputs)
    if not taken:
        shown = ", ".join(list(own)[:3])
        raise ValueError(
            "a student that starts from its teacher must have tensors of the same name"
            f"{'' if inputs is not None else ' and shape'}, but none of {shown}, .. is in the teacher, which has "
            f"{', '.join(list(theirs)[:3])}, ..; give its layers the teacher's names, or hold start=scratch"
        )
    started = _copied(student, taken)
    return replace(started, layers=matching.fewer)


def _copied(student: nn.Module, tensors: Mapping[str, Tensor]) -> Started:
    """Copy tensors of the right names and shapes into a student."""
    own = state_of(student)
    with torch.no_grad():
        for name, value in tensors.items():
            own[name].copy_(value)
    sizes = {name: value.numel() for name, value in student.named_parameters()}
    return Started(
        tensors=len(tensors),
        of_tensors=len(own),
        numbers=sum(size for name, size in sizes.items() if name in tensors),
        of_numbers=sum(sizes.values()),
        unmatched=tuple(name for name in own if name not in tensors),
    )


@dataclass(frozen=True)
class Matching:
    """Which tensor of the teacher each of the student's belongs to.

    Attributes:
        names: The teacher's name by the student's.
        fewer: By the name of a stack of numbered layers of which the student has fewer, the numbers that it takes of
            the teacher's.
    """

    names: Mapping[str, str]
    fewer: Mapping[str, tuple[str, ...]]


def match(student: Mapping[str, Any], teacher: Mapping[str, Any]) -> Matching:
    """Match tensors by their names. A number within a name counts layers: it is mapped, layer by layer.

    Layers of one stack are told apart by what they hold: a stack of convolutions, norms and a last linear layer is
    three stacks in one. Where a student has fewer layers of a kind, it takes evenly spaced ones, the first and the last
    among them; else those of the same place. A module that holds the whole network under one name of its own, as a
    LightningModule does, is looked into.

    Args:
        student: Tensors by name.
        teacher: Tensors by name.
    """
    best = Matching({}, {})
    for prefix in _wrappers(student):
        inner = {name.removeprefix(prefix): value for name, value in student.items() if name.startswith(prefix)}
        for other in _wrappers(teacher):
            theirs = {name.removeprefix(other): value for name, value in teacher.items() if name.startswith(other)}
            found = _match(inner, theirs)
            if len(found.names) > len(best.names):
                best = Matching({prefix + one: other + two for one, two in found.names.items()}, found.fewer)
        if best.names:
            break
    return best


def _wrappers(tensors: Mapping[str, Any]) -> Iterator[str]:
    """Yield the prefixes under which a network may stand: none, and the first parts of names."""
    yield ""
    yield from dict.fromkeys(f"{name.partition('.')[0]}." for name in tensors if "." in name)


def _match(student: Mapping[str, Any], teacher: Mapping[str, Any]) -> Matching:
    fewer: dict[str, tuple[str, ...]] = {}

    @cache
    def of_stack(stack: str, other: str) -> dict[str, str]:
        mapping: dict[str, str] = {}
        own, theirs = _kinds(student, stack), _kinds(teacher, other)
        for kind, numbers in own.items():
            candidates = theirs.get(kind)
            if candidates is None:
                mapping |= {number: number for number in numbers}
                continue
            count = min(len(numbers), len(candidates))
            places = evenly_spaced(count, len(candidates)) if len(numbers) < len(candidates) else list(range(count))
            mapping |= {number: candidates[place] for number, place in zip(numbers, places, strict=False)}
        taken = tuple(mapping[number] for numbers in own.values() for number in numbers if number in mapping)
        if sum(map(len, own.values())) < sum(map(len, theirs.values())):
            fewer[stack.rstrip(".")] = tuple(sorted(taken, key=int))
        return mapping

    names = {}
    for name in student:
        other, place = "", 0
        for number in _NUMBER.finditer(f".{name}"):  # a leading dot: a Sequential is numbered from its first part on
            stack = name[: number.start() - 1]
            other += name[place : number.start() - 1]
            taken = of_stack(stack, other).get(number.group())
            if taken is None:
                break
            other += taken
            place = number.end() - 1
        else:
            other += name[place:]
            if other in teacher:
                names[name] = other
    return Matching(names, fewer)


def _kinds(tensors: Mapping[str, Any], stack: str) -> dict[tuple[Any, ...], list[str]]:
    """Return the numbers of a stack's layers in order, by what they hold: the names and axes of their tensors."""
    held: dict[str, set[tuple[str, int]]] = {}
    for name, value in tensors.items():
        number, dot, rest = name.removeprefix(stack).partition(".")
        if name.startswith(stack) and dot and number.isdigit():
            held.setdefault(number, set()).add((_NUMBER.sub("*", f".{rest}"), getattr(value, "ndim", 0)))
    found: dict[tuple[Any, ...], list[str]] = {}
    for number in sorted(held, key=int):
        found.setdefault(tuple(sorted(held[number])), []).append(number)
    return found


def evenly_spaced(count: int, of: int) -> list[int]:
    """Return ``count`` evenly spaced places of ``of``, the first and the last among them; of one, the first."""
    if count == 1:
        return [0]
    return [math.floor(place * (of - 1) / (count - 1) + 0.5) for place in range(count)]
