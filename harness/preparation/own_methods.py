"""Checks of methods that a space brings: their terms can be trained for and resumed, and use the true labels."""

from __future__ import annotations

import copy
import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, SupportsFloat

import numpy as np
import torch
from optuna.distributions import CategoricalDistribution
from torch import Tensor, nn

from harness.core.content import tensors_digest
from harness.core.errors import HarnessError, one_line
from harness.networks.students import build_student
from harness.space import SearchSpace
from harness.space_training import training_variants
from lightning_modules.batch import Batch, call, select
from lightning_modules.data.loading import GivenOrder
from lightning_modules.data.tensors import TensorDataModule
from lightning_modules.data.unlabelled import output_for_training, spread_over_both, unlabelled_count
from lightning_modules.features import capture_features
from lightning_modules.methods import Criterion, Term
from lightning_modules.methods.base import with_targets_of

_MODULE_ATTRIBUTES = frozenset(vars(nn.Module()))
_PROBED_SMOOTHING = 0.25
_PROBED = 8  # training samples, where some have no label


def check_own_methods(
    space: SearchSpace,
    data: TensorDataModule,
    user_code: Callable[[str], AbstractContextManager[None]],
    *,
    classes: int,
) -> None:
    """Call each of the user's own methods with a fresh student of each family, and check the terms that it returns.

    Args:
        space: The space, with fixed parameters.
        data: The data, with the teacher's outputs.
        user_code: Attributes errors in the task's own code.
        classes: Number of classes C, labels or values of the output.

    Raises:
        HarnessError: If a method fails, or returns no terms that can be minimised.
    """
    for method in space.own_methods:
        for family, values in itertools.product(space.student_groups, _each_choice(space, method)):
            architecture = space.architecture_of(space.middle(family=family))
            with user_code(f"method {method!r}"):
                fault = _own_method_fault(space, method, values, architecture, data, classes)
            if fault:
                raise HarnessError(f"method {method!r} {fault}")


def _each_choice(space: SearchSpace, method: str) -> Iterator[dict[str, Any]]:
    """Yield the middle of a method's ranges, and variants of it with each other choice of each parameter."""
    middle = {name: space.middle(method)[name] for name in space.methods[method]}
    yield middle
    for name, distribution in space.methods[method].items():
        if isinstance(distribution, CategoricalDistribution):
            yield from ({**middle, name: choice} for choice in distribution.choices if choice != middle[name])


def _own_method_fault(
    space: SearchSpace,
    method: str,
    values: Mapping[str, Any],
    architecture: Mapping[str, Any],
    data: TensorDataModule,
    classes: int,
) -> str | None:
    """Return why a method of the user's own can't be searched with these values, as a clause; ``None`` if it can."""
    student = build_student(space, architecture, data).to(data.device)
    criterion = space.criteria[method](**values)
    criterion.layer_names = space.layer_names(architecture)
    criterion.output = output = output_for_training(space.task.output, data, classes)
    criterion.setup(student, data, epochs=space.epochs)
    criterion.to(data.device)
    data.teacher_layers = criterion.teacher_layers
    state = set(criterion.state_dict())

    def terms(batch: Batch) -> Any:
        with capture_features(student, criterion.student_layers, criterion.layer_names) as features:
            logits = call(student, batch.inputs)
        rows, of_rows = (output.taught_rows if output.has_unlabelled else output.as_rows)(logits, batch)
        return criterion(rows, with_targets_of(criterion, rows, of_rows), features)

    batch = next(iter(data.ordered("val")))[0]
    if fault := _terms_fault(terms(batch)):
        return (
            "must give a dict of names to Term(weight, value), each value a finite scalar tensor with a gradient, but "
            f"{fault}."
        )
    if lost := _lost_on_resume(criterion, state, lambda: terms(_half(batch))):
        return f"can't be resumed: {lost}."
    variants = training_variants(space.task.training, space.varied_training)
    if any(one.label_smoothing for one in variants) and _ignores_smoothing(criterion, terms, batch):
        return (
            "ignores the label_smoothing of the training: take its loss from the labels from self.hard_loss(logits, "
            "batch)."
        )
    if fault := _unlabelled_fault(terms, data):
        return fault
    return None if criterion.needs_labels else _mixed_targets_fault(terms, data)


def _half(batch: Batch) -> Batch:
    """Return the first half of a batch, of two samples at least, which BatchNorm needs."""
    size = max(2, len(batch.ids) // 2)
    return replace(
        batch,
        ids=batch.ids[:size],
        inputs=select(batch.inputs, slice(size)),
        target=batch.target[:size],
        teacher={name: values[:size] for name, values in batch.teacher.items()},
        mask=None if batch.mask is None else batch.mask[:size],
    )


def _lost_on_resume(criterion: Criterion, state: set[str], call_again: Callable[[], object]) -> str:
    """Return what a checkpoint of a criterion lacks, in one clause; empty if it lacks nothing.

    Args:
        criterion: A criterion that was called once. What it keeps from its first call on, as a mask, is no state.
        state: The names in its state before that call.
        call_again: Calls it with other samples.
    """
    if made := sorted(set(criterion.state_dict()) - state):
        return f"{made[0]!r} is made by its first call, and no optimizer trains it; make it in __init__() or setup()"
    if type(criterion).get_extra_state is not nn.Module.get_extra_state:
        return ""
    plain = [name for name in vars(criterion) if name not in _MODULE_ATTRIBUTES]
    before = {name: content_of(getattr(criterion, name)) for name in plain}
    criterion.end_epoch()
    call_again()
    changed = [name for name in plain if content_of(getattr(criterion, name, None)) != before[name]]
    if not changed:
        return ""
    return (
        f"its attribute {changed[0]!r} changes in training and is in no checkpoint; make it a buffer, or define "
        "get_extra_state() and set_extra_state()"
    )


def content_of(value: object) -> object:
    """Return what an attribute holds, as far as it can be compared: numbers, texts, tensors, arrays and lists of them.

    Generators, which ``begin_epoch`` seeds, functions and objects of any other kind are all alike here.
    """
    if isinstance(value, Tensor):
        return tensors_digest({"": value})
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.shape, value.tobytes()
    if isinstance(value, list | tuple):
        return [content_of(one) for one in value]
    if isinstance(value, dict):
        return {str(name): content_of(one) for name, one in value.items()}
    # As text, for NaN is not equal to itself.
    return repr(value) if isinstance(value, bool | int | float | complex | str | bytes | None) else type(value)


def _unlabelled_fault(terms: Callable[[Batch], Any], data: TensorDataModule) -> str | None:
    """Return why terms can't be computed of training samples without a label; ``None`` if they can."""
    if not unlabelled_count(data):
        return None
    some = spread_over_both(data, _PROBED)
    known = data.is_labelled(data.splits["train"].labels[some.to(data.device)]).cpu() if data.is_labelled else some > -1
    for ids, what in ((some, "samples with and without a label"), (some[~known], "samples without a label")):
        own = copy.copy(data)
        own.sampler, own.batch_size = GivenOrder(ids), len(ids)
        try:
            fault = _terms_fault(terms(next(iter(own.train_dataloader()))[0]))
        except Exception as error:
            fault = f"it raises {type(error).__name__}: {one_line(error)}"
        if fault:
            return (
                f"can't be trained on {what}, whose batch.target is -100 or NaN: {fault}; take the loss of the labels "
                "from self.hard_loss(logits, batch), which leaves them out, or leave the method out."
            )
    return None


def _mixed_targets_fault(terms: Callable[[Batch], Any], data: TensorDataModule) -> str | None:
    """Return why terms can't be computed with the probabilities that views give as targets; ``None`` if they can."""
    if data.views is None:
        return None
    batch = next(iter(data.train_dataloader()))[0]
    if not batch.target.is_floating_point():
        return None
    remedy = "take class probabilities too, or set needs_labels = True in its class"
    try:
        fault = _terms_fault(terms(batch))
    except Exception as error:
        fault = f"it raises {type(error).__name__}: {one_line(error)}"
    return (
        f"can't be trained on the mixed targets of the views, probabilities in batch.target: {fault}; {remedy}."
        if fault
        else None
    )


def _ignores_smoothing(criterion: Criterion, terms: Callable[[Batch], Any], batch: Batch) -> bool:
    """Return whether some term changes with the targets, but none with label smoothing, in training."""
    criterion.train()
    given, again = terms(batch), terms(batch)
    others = terms(replace(batch, target=batch.target.roll(1, 0)))
    criterion.label_smoothing = _PROBED_SMOOTHING
    softer = terms(batch)
    criterion.label_smoothing = 0.0
    settled = [name for name in given if torch.equal(given[name].value, again[name].value)]
    return any(not torch.equal(given[name].value, others[name].value) for name in settled) and all(
        torch.equal(given[name].value, softer[name].value) for name in settled
    )


def _terms_fault(terms: object) -> str | None:
    """Return why a criterion's terms can't be minimised; ``None`` if they can."""
    if not isinstance(terms, dict) or not terms:
        return f"gave {terms!r}" if not terms else f"gave {type(terms).__name__}"
    for name, term in terms.items():
        if not isinstance(term, Term):
            return f"gave {type(term).__name__} as {name!r}"
        if isinstance(term.weight, Tensor) or not isinstance(term.weight, SupportsFloat):
            return f"the weight of {name!r} is no number but {type(term.weight).__name__}"
        if not isinstance(term.value, Tensor) or term.value.numel() != 1 or term.value.ndim:
            shape = list(term.value.shape) if isinstance(term.value, Tensor) else type(term.value).__name__
            return f"the value of {name!r} is {shape}"
        if not term.value.isfinite() or not math.isfinite(term.weight):
            return f"{name!r} is {float(term.value.detach())} with weight {term.weight}"
        if name == "loss" or not re.fullmatch(r"\w+", str(name)):
            return f"a term is called {name!r}, which must be a word, and not the name of their sum"
    if not any(term.value.requires_grad for term in terms.values()):
        return "no term has a gradient"
    return None
