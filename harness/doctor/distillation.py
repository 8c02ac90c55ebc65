"""Check the distillation methods: their layers, gradients, losses and searched parameters."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from harness.core.errors import HarnessError
from harness.doctor.check import (
    Check,
    CheckFailed,
    CheckNotApplicable,
    CheckSkipped,
    CheckWarning,
    attributing_errors,
)
from harness.doctor.context import CheckContext, format_values, train_steps
from harness.preparation.method_checks import (
    check_layers_of,
    classes_fault,
    live_fault,
    targets_fault,
    unlabelled_fault,
)
from harness.preparation.mixing import mixes_targets, remedy_of
from harness.preparation.own_modules import check_own_training
from harness.preparation.top_k_checks import check_top_k
from harness.space import METHOD, Configuration
from harness.space_ranges import ends
from harness.space_training import batch_sizes
from harness.teachers.asking import asks_live
from harness.training.batches import with_batches_of
from harness.training.fit import seed_draws
from lightning_modules.batch import Batch
from lightning_modules.classifier import weighted_sum
from lightning_modules.data.unlabelled import unlabelled_count
from lightning_modules.training import Training

_INERT = 1e-5  # relative change of a gradient: rounding changes it less, an effective parameter more
_SHOWN = 3


def check_methods_fit(context: CheckContext) -> str:
    """Check that each method supports the task's classes, and each pair of layers that the space offers it."""
    space, faults = context.space, list[str]()
    if space.trains_itself:
        context.methods = list(space.methods)
        return _check_own_training(context)
    context.methods = []
    check_top_k(space, context.data, context.classes, context.settings)
    mixed = mixes_targets(context.data, context.classes, space.task.output)
    for method in space.methods:
        fault = classes_fault(method, space, context.classes) or (targets_fault(method, space) if mixed else None)
        fault = fault or unlabelled_fault(method, space, unlabelled_count(context.data))
        if fault is None and asks_live(context.data):
            fault = live_fault(method, space)
        if fault is None:
            try:
                check_layers_of(method, space, context.kinds, context.sample)
            except HarnessError as error:
                fault = str(error).rstrip(".")
        if fault is None:
            context.methods.append(method)
        else:
            faults.append(fault)
    if faults:
        more = f"; nor can {len(faults) - 1} more" if len(faults) > 1 else ""
        if not context.methods:
            raise CheckFailed(f"{faults[0]}{more}")
        raise CheckFailed(
            f"{faults[0]}{more}; the others are checked on: {', '.join(context.methods)}",
            f"leave it out of the space, name layers that fit, or hold another: --fix {METHOD}={context.methods[0]}",
        )
    return ", ".join(context.methods)


def _check_own_training(context: CheckContext) -> str:
    """Check that students that train themselves can be trained, resumed, and trained as controls."""

    def of_own(what: str) -> AbstractContextManager[None]:
        return attributing_errors(what, context)

    accelerator = context.settings.accelerator
    found = check_own_training(context.space, context.sample, of_own, classes=context.classes, accelerator=accelerator)
    if found.no_control:
        raise CheckWarning(f"{found}; no control possible: {found.no_control}", remedy_of(found.no_control))
    if found.warnings:
        raise CheckWarning("; ".join(found.warnings), "let configure_optimizers() have it, or freeze it")
    return f"{found}; the same when it is resumed; its control reads no teacher"


def _methods(context: CheckContext) -> list[str]:
    if context.space.trains_itself:
        raise CheckNotApplicable("students are trained by their own code")
    if not context.methods:
        raise CheckSkipped("no method fits the task")
    return context.methods


def check_gradients(context: CheckContext) -> str:
    """Check that each trainable parameter of a student has a finite gradient with every method."""
    batch, reached, frozen = context.batches()[0], 0, 0
    for method, (name, architecture) in itertools.product(_methods(context), context.extremes().items()):
        with attributing_errors(f"{method}, student({name})", context):
            module = context.module(context.configuration(method, **architecture))
            weighted_sum(module.terms(batch)).backward()
        parameters = dict(module.named_parameters())
        frozen = sum(not parameter.requires_grad for parameter in parameters.values())
        reached = len(parameters) - frozen
        detached = [key for key, value in parameters.items() if value.requires_grad and value.grad is None]
        if detached:
            shown = ", ".join(key.removeprefix("network.") for key in detached[:_SHOWN])
            raise CheckFailed(
                f"{method}: {len(detached)} of {len(parameters)} parameters of student({name}) have none: {shown}"
                f"{', ..' if len(detached) > _SHOWN else ''}"
            )
        for key, value in parameters.items():
            if value.grad is not None and not value.grad.isfinite().all():
                raise CheckFailed(
                    f"{method}: that of {key.removeprefix('network.')} of student({name}) is not finite at the start",
                    "look for a root, a norm or a logarithm of 0: its value may be finite where its gradient is not",
                )
    return f"reach all {reached} tensors of a student{f'; {frozen} are frozen' if frozen else ''}"


def check_distillation_parameters(context: CheckContext) -> str:
    """Check that each parameter of each method changes the gradient of the student between the ends of its range."""
    batch, inert, moving = context.batches()[0], [], 0
    for method in _methods(context):
        for name, distribution in context.space.methods[method].items():
            values = ends(distribution)
            if len(values) < 2:
                continue
            with attributing_errors(f"{method}, {name}", context):
                first, *others = (_gradient(context, context.configuration(method, **{name: v}), batch) for v in values)
            if max(_relative_distance(first, other) for other in others) > _INERT:
                moving += 1
            else:
                inert.append(f"{name} of {method}" if len(context.space.methods) > 1 else name)
    if inert:
        raise CheckFailed(f"the student's gradient does not change with {', '.join(inert)}")
    return f"each of {moving} parameters changes the student's gradient"


def _gradient(context: CheckContext, configuration: Configuration, batch: Batch) -> Tensor:
    """Return the gradient of the student's parameters as one vector, float64."""
    module = context.module(configuration)
    seed_draws(0, context.device)
    module.terms(batch)
    module.criterion.end_epoch()  # a method may use its state of one epoch in the next
    weighted_sum(module.terms(batch)).backward()
    rows = [p.grad.flatten() for p in module.network.parameters() if p.grad is not None]
    return torch.cat(rows).double()


def _relative_distance(one: Tensor, other: Tensor) -> float:
    length = max(float(one.norm()), float(other.norm()))
    return float((one - other).norm()) / length if length else 0.0


def check_losses_finite(context: CheckContext) -> str:
    """Check that the loss is finite in the first steps at the corners of the ranges."""
    batches, broken, count = context.batches(), [], 0
    for method in _methods(context):
        for values in _corners(context, method):
            with attributing_errors(f"{method}, {format_values(values)}", context):
                module = context.module(context.configuration(method, **values))
                losses = [float(loss) for loss in train_steps(module, batches)]
            count += 1
            step = next((step for step, loss in enumerate(losses) if not math.isfinite(loss)), None)
            if step is not None:
                broken.append(f"{losses[step]} after {_counted(step, 'step')} of {method}, {format_values(values)}")
    if broken:
        raise CheckFailed(f"at {len(broken)} of {count} corners it is not finite: {broken[0]}")
    return f"finite for {len(batches)} steps at {count} corners of the ranges"


def _corners(context: CheckContext, method: str) -> Iterator[dict[str, Any]]:
    """Yield the lowest and the highest corner of the ranges, and each with one parameter moved to its other end.

    n ranges have 2^n corners; these are 2 + 2n, where each end occurs beside both low and high ends of the others. The
    student's architecture counts as one range.
    """
    space = context.space
    sides = [tuple(context.extremes().values())]
    for name, distribution in {**space.methods[method], **space.training}.items():
        sides.append(tuple({name: end} for end in ends(distribution)))
    seen = set()
    for base, moved in itertools.product((0, -1), range(-1, len(sides))):
        other = -1 - base
        chosen = [options[other if place == moved else base] for place, options in enumerate(sides)]
        values = {name: value for part in chosen for name, value in part.items()}
        if (corner := format_values(values)) not in seen:
            seen.add(corner)
            yield values


def check_last_batch(context: CheckContext) -> str:
    """Check that the loss of the last training batch, which may be smaller than the others, is finite.

    Where the batch size is searched, there is one for each choice, or end of its range.
    """
    space, samples, found = context.space, len(context.data.splits["train"]), dict[int, int]()
    for batch_size in batch_sizes(space.task.training, space.varied_training, context.data.batch_size):
        data = with_batches_of(context.data, Training(batch_size=batch_size))
        found.setdefault(data.train_dataloader().last_batch_size, batch_size)
    for size in found:
        _check_batch_of(size, context)
    told = (
        f"{_counted(size, 'sample')}: the last of {samples:,} in batches of {batch}" for size, batch in found.items()
    )
    return "; ".join(told)


def _check_batch_of(size: int, context: CheckContext) -> None:
    batch = context.batches(size)[0]
    for method, (name, architecture) in itertools.product(_methods(context), context.extremes().items()):
        with attributing_errors(f"{method}, student({name}), a batch of {size}", context):
            loss = float(weighted_sum(context.module(context.configuration(method, **architecture)).terms(batch)))
        if not math.isfinite(loss):
            raise CheckFailed(
                f"{method}: the loss of student({name}) is {loss} on the last batch, of {_counted(size, 'sample')}"
            )


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


CHECKS = (
    Check(
        "methods",
        check_methods_fit,
        "name layers that the method can compare, or another method in the space, as soft_target",
        needs=("labels", "teacher in eval"),
    ),
    Check(
        "gradients",
        check_gradients,
        "look for detach(), .data, no_grad() or numpy in forward, and for layers that are never called",
        needs=("labels", "teacher in eval"),
    ),
    Check(
        "distillation",
        check_distillation_parameters,
        "take it out of the space, or fix it to one value: an inert parameter costs trials and means nothing",
        needs=("gradients",),
    ),
    Check(
        "losses",
        check_losses_finite,
        "narrow the range whose end is named, or scale the inputs",
        needs=("gradients",),
    ),
    Check(
        "last batch",
        check_last_batch,
        "let the network be trained on a batch of that size, or choose a batch_size that leaves another one: a single "
        "sample that is left over joins the batch before it",
        needs=("gradients",),
    ),
)
