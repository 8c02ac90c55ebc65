"""Checks of how students are trained, with students and on the device, before a trial trains."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from harness.core.errors import Unfit
from harness.networks.architectures import corners
from harness.networks.students import build_student, middle_architecture, named
from harness.space import SearchSpace
from harness.space_training import idle_warnings, training_variants
from harness.training.batches import with_batches_of
from lightning_modules.data.tensors import TensorDataModule
from lightning_modules.training import Training
from lightning_modules.training.average import effective_decay
from lightning_modules.training.optimizers import make_optimizer, unmatched_patterns
from lightning_modules.training.precision import used_precision

_SHOWN = 4  # names of parameters
_MIXED = "bf16-mixed"


def check_trainings(space: SearchSpace, data: TensorDataModule) -> None:
    """Check that each optimizer of a space can be built for a student, and that patterns of parameters match some.

    Args:
        space: The space, with fixed parameters.
        data: The data, on the device.

    Raises:
        Unfit: If a pattern matches none, or the precision is searched where the device has only one.
        ValueError: If a factory's optimizer does not fit.
        Exception: What a factory raises.
    """
    variants = training_variants(space.task.training, space.varied_training)
    _check_precision(space, data.device)
    _check_patterns(space, variants, data)
    student = build_student(space, middle_architecture(space), data).to(data.device)
    for training in _each_optimizer(variants):
        make_optimizer(training, nn.ModuleDict({"network": student}))


def training_line(space: SearchSpace, device: torch.device) -> str:
    """Return how all trials are trained, as far as it is not the default; empty where it is."""
    fixed = fixed_training(space, device)
    if not fixed:
        return ""
    searched = f"; searched: {', '.join(space.varied_training)}" if space.varied_training else ""
    return f"{', '.join(f'{name} {value}' for name, value in fixed.items())}{searched}"


def fixed_training(space: SearchSpace, device: torch.device) -> dict[str, str]:
    """Return what a task sets of its trainings, and the space does not vary, as texts by name.

    Args:
        space: The space.
        device: The device, which decides on the precision.
    """
    training = space.task.training
    given = {name: value for name, value in training.texts().items() if name not in space.varied_training}
    if "precision" in given:
        given["precision"] = used_precision(training.precision, device)
    return given


def training_surprises(space: SearchSpace, data: TensorDataModule) -> Iterator[str]:
    """Yield warnings about what is set or searched of a training and is not as it seems, a phrase each."""
    yield from idle_warnings(space.task.training, space.varied_training)
    variants = training_variants(space.task.training, space.varied_training)
    if any(one.precision == _MIXED for one in variants) and used_precision(_MIXED, data.device) != _MIXED:
        yield f"students are trained in precision 32 in place of {_MIXED}, for the {data.device.type} has no bfloat16"
    samples = len(data.splits["train"])
    if (largest := max(one.batch_size or data.batch_size for one in variants)) > samples:
        yield f"a batch_size of {largest} is that of all {samples} training samples in one batch"
    batches = [with_batches_of(data, one).steps_per_epoch for one in variants]
    for one, count in zip(variants, batches, strict=True):
        if one.accumulate > count:
            yield f"accumulate {one.accumulate} takes all batches of an epoch, {count}, into one step"
            break
    yield from _short_averages(space, variants, batches)


def _short_averages(space: SearchSpace, variants: list[Training], batches: list[int]) -> Iterator[str]:
    """Yield a warning if a decay of averaged weights is not reached in the longest of some trainings."""
    decays = sorted({one.ema_decay for one in variants if one.ema_decay is not None})
    steps = max(space.epochs * one.steps_per_epoch(count) for one, count in zip(variants, batches, strict=True))
    missed = [decay for decay in decays if effective_decay(decay, steps) < decay]
    if missed:
        reached = effective_decay(missed[0], steps)
        same = "; all from there on are the same" if len(missed) > 1 else ""
        yield f"ema_decay {missed[0]:g} is not reached: it has grown to {reached:.3g} after {steps:,} steps{same}"


def _check_precision(space: SearchSpace, device: torch.device) -> None:
    searched = space.varied_training.get("precision")
    if searched is not None and not searched.single() and used_precision(_MIXED, device) != _MIXED:
        raise Unfit(
            f"precision can't be searched here, for the {device.type} has no bfloat16: all trials would be the same",
            "hold it: --fix precision=32",
        )


def _check_patterns(space: SearchSpace, variants: list[Training], data: TensorDataModule) -> None:
    checked: list[dict[str, dict[str, float]]] = []
    for training in variants:
        groups = {pattern: dict(factors) for pattern, factors in training.groups.items()}
        if not groups or groups in checked:
            continue
        checked.append(groups)
        students = (build_student(space, architecture, data) for architecture in corners(space))
        if unmatched := unmatched_patterns(training, students):
            middle = middle_architecture(space)
            names = [name for name, _ in build_student(space, middle, data).named_parameters()]
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            raise Unfit(
                f"groups of the training must match parameters of students, but {unmatched[0]!r} matches none, or only "
                f"what another pattern before it matches; {named(middle)} has {', '.join(names[:_SHOWN])}{more}",
                "write a pattern as 'head.*', after a narrower one that it contains",
            )


def _each_optimizer(variants: list[Training]) -> list[Training]:
    """Return the first of some trainings with each optimizer, and with each set of settings that a factory is given."""
    found: dict[Any, Training] = {}
    for one in variants:
        key = one.optimizer, one.momentum is None, one.weight_decay is None
        found.setdefault(key, one)
    return list(found.values())
