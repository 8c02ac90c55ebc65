"""Cut a teacher's tensors to a student's width, the same units everywhere: what a layer gives, and what the next takes.

Units are kept by the sum of the magnitudes of all weights that share them (Han et al. 2015, arXiv:1506.02626; of
filters, Li et al. 2017, arXiv:1608.08710). Which weights share them is found in ``lightning_modules.units``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_modules.batch import Inputs
from lightning_modules.units import Axis, Group, groups_of, state_of


@dataclass(frozen=True, eq=False)
class Cutting:
    """A student, its teacher, and the teacher's name of each tensor of the student that has one."""

    student: nn.Module
    teacher: nn.Module
    names: Mapping[str, str]


def cut(cutting: Cutting, inputs: Inputs) -> dict[str, Tensor]:
    """Return the teacher's tensors in the student's shapes, by the student's names, as far as they can be cut.

    Tensors of the same shape are returned as they are. A tensor with an axis whose units are not known, or are fewer
    than the student's, is left out.

    Args:
        cutting: The networks, on the CPU.
        inputs: Inputs of a batch, on the CPU.

    Raises:
        ValueError: If heads of attention would be torn, or the teacher can't be called.
    """
    own, theirs = state_of(cutting.student), state_of(cutting.teacher)
    pairs = [(name, other) for name, other in cutting.names.items() if own[name].ndim == theirs[other].ndim]
    students_of = {other: name for name, other in pairs}
    axes = [(other, axis) for name, other in pairs for axis in range(own[name].ndim)]  # those of one size bind others
    kept: dict[Axis, Tensor] = {}
    groups = groups_of(cutting.teacher, axes, inputs)
    for group in groups:
        axes = [axis for axis in group.copies if axis[0] in students_of]
        sizes = {axis: own[students_of[axis[0]]].shape[axis[1]] for axis in axes}
        units = _units_of_student(group, axes, sizes, theirs)
        if all(group.width(axis, theirs[axis[0]].shape[axis[1]]) > 1 for axis in axes) and axes:
            _check_heads(cutting, inputs, group, [(students_of[name], axis) for name, axis in axes], units)
        if units is None or units > group.units:
            continue
        order = _by_importance(group, axes, cutting.teacher)
        for axis in axes:
            width = group.width(axis, theirs[axis[0]].shape[axis[1]])
            kept[axis] = _indices(order[:units].sort().values, group, axis, width)
    found = {}
    for name, other in pairs:
        value = theirs[other]
        for place, size in enumerate(own[name].shape):
            if size != value.shape[place] and (other, place) in kept:
                value = value.index_select(place, kept[other, place])
        if value.shape == own[name].shape:
            found[name] = value
    return found


def _units_of_student(
    group: Group, axes: list[Axis], sizes: Mapping[Axis, int], theirs: Mapping[str, Tensor]
) -> int | None:
    """Return how many units the student has; ``None`` if its axes do not agree on it."""
    found = set()
    for axis in axes:
        each = group.copies[axis] * group.width(axis, theirs[axis[0]].shape[axis[1]])
        found.add(sizes[axis] // each if sizes[axis] % each == 0 else None)
    return found.pop() if len(found) == 1 else None


def _check_heads(cutting: Cutting, inputs: Inputs, group: Group, axes: list[Axis], units: int | None) -> None:
    """Check that the student's heads are as wide as the teacher's: a part of a head is none.

    Raises:
        ValueError: If they are not.
    """
    of_student = [one for one in groups_of(cutting.student, axes, inputs) if any(axis in one.copies for axis in axes)]
    if units is not None and all(one.units == units for one in of_student):
        return
    had = f"{of_student[0].units}" if of_student else "other"
    raise ValueError(
        f"start=pruned must keep whole heads of attention, but the student's {had} heads ({axes[0][0]}) have another "
        f"width than the teacher's {group.units}; build it with fewer heads of the same width, or hold start=layers"
    )


def _by_importance(group: Group, axes: list[Axis], teacher: nn.Module) -> Tensor:
    """Return the units, that of the largest weights first; of equal ones the first."""
    weights = dict(teacher.named_parameters(remove_duplicate=False))
    total = torch.zeros(group.units, dtype=torch.float64)
    for name, axis in axes:
        if name in weights:
            value = weights[name].detach().double().abs().movedim(axis, 0)
            width = group.width((name, axis), len(value))
            total += value.reshape(group.copies[name, axis], group.units, width, -1).sum((0, 2, 3))
    rounded = torch.tensor([float(f"{value:.9g}") for value in total.tolist()])  # threads sum in another order
    return torch.argsort(rounded, descending=True, stable=True)


def _indices(units: Tensor, group: Group, axis: Axis, width: int) -> Tensor:
    """Return the indices along an axis of some of its units."""
    of_copy = (units[:, None] * width + torch.arange(width)).flatten()
    starts = torch.arange(group.copies[axis]) * group.units * width
    return (starts[:, None] + of_copy).flatten()
