"""Checks that a space's methods fit its task, its teachers and their layers, before a trial trains."""

from __future__ import annotations

import copy
import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, SupportsFloat

import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution
from torch import Tensor, nn

from harness.core.errors import HarnessError, one_line
from harness.networks.student_checks import Students
from harness.networks.students import build_student, middle_architecture
from harness.space import METHOD, SearchSpace
from harness.space_ranges import listed
from lightning_modules.batch import Batch, call, select
from lightning_modules.data.tensors import TensorDataModule
from lightning_modules.features import capture_features
from lightning_modules.methods import Criterion, Term
from lightning_modules.methods.feature import FeatureCriterion

_STUDENT, _TEACHER = "student_layer", "teacher_layer"
_MOST_COMBINATIONS = 1_000  # of a method's values, each of which may name other layers
_MODULE_ATTRIBUTES = frozenset(vars(nn.Module()))


def teacher_layers(space: SearchSpace) -> list[str]:
    """Return the names of the teacher's layers that trials of the space may need, each once."""
    return list(dict.fromkeys(layer for _, layers in _layered(space) for layer in layers[_TEACHER]))


def check_teachers(space: SearchSpace, teachers: int) -> None:
    """Check that the outputs of teachers can be averaged, before one is made: layers of several have no common axes.

    Args:
        space: The space, with fixed parameters.
        teachers: Number of teachers.

    Raises:
        HarnessError: If there are several, and a method compares layers.
    """
    comparing = [method for method, _ in _layered(space)]
    if teachers > 1 and comparing:
        raise HarnessError(
            f"one teacher must be left where layers teach, as {comparing[0]!r} has it, but there are {teachers}: "
            f"features of several have no mean. {_remedy(space, comparing) or 'Name one teacher'}."
        )


def check_classes(space: SearchSpace, classes: int) -> None:
    """Check that each method has a meaning for this number of classes.

    Args:
        space: The space, with fixed parameters.
        classes: Number of classes C.

    Raises:
        HarnessError: If one has none.
    """
    faults = {method: fault for method in space.methods if (fault := classes_fault(method, space, classes))}
    if faults:
        unfit = list(faults)
        raise HarnessError(
            f"{faults[unfit[0]]}. {_remedy(space, unfit) or 'Name another method in the space, as soft_target'}."
        )


def check_targets(space: SearchSpace, are_mixed: bool) -> None:
    """Check that each method accepts targets in place of labels, where views give targets.

    Args:
        space: The space, with fixed parameters.
        are_mixed: Whether views give targets.

    Raises:
        HarnessError: If one does not.
    """
    unfit = [method for method in space.methods if are_mixed and targets_fault(method, space)]
    if unfit:
        raise HarnessError(
            f"{targets_fault(unfit[0], space)}. "
            f"{_remedy(space, unfit) or 'Name another method in the space, as soft_target'}."
        )


def targets_fault(method: str, space: SearchSpace) -> str | None:
    """Return why a method can't be trained with mixed targets; ``None`` if it can."""
    if not space.criteria[method].needs_labels:
        return None
    return f"method {method!r} can't be searched: it needs one class for each sample, but the views give mixed targets"


def classes_fault(method: str, space: SearchSpace, classes: int) -> str | None:
    """Return why a method has no meaning for this number of classes; ``None`` if it has."""
    least = space.criteria[method].least_classes
    if classes >= least:
        return None
    return f"method {method!r} can't be searched: it needs {least} classes or more, but the task has {classes}"


def student_layers(space: SearchSpace) -> list[str]:
    """Return the names of the students' layers that trials of the space may need, each once."""
    return list(dict.fromkeys(layer for _, layers in _layered(space) for layer in layers[_STUDENT]))


def check_student_layers(space: SearchSpace, students: Students) -> None:
    """Check that students of every kind have the layers that the methods compare, before a teacher is made.

    Args:
        space: The space, with fixed parameters.
        students: What students of every kind have in common.

    Raises:
        HarnessError: If one has not.
    """
    for method, layers in _layered(space):
        _check_student_layers_of(method, layers[_STUDENT], students)


def check_layers(space: SearchSpace, students: Students, data: TensorDataModule) -> None:
    """Check that each method accepts each pair of layers that the space offers it, with students of every kind.

    Args:
        space: The space, with fixed parameters.
        students: The shapes of the layers of students of every kind.
        data: Samples of the data, with outputs of the teacher, trained or not: the shapes are the same.

    Raises:
        HarnessError: If a method can't.
    """
    for method, _ in _layered(space):
        check_layers_of(method, space, students, data)


def check_layers_of(method: str, space: SearchSpace, students: Students, data: TensorDataModule) -> None:
    """Check one method like ``check_layers``.

    Args:
        method: One of the space's.
        space: The space.
        students: The shapes of the layers of students of every kind.
        data: Samples of the data, with the teacher's outputs.

    Raises:
        HarnessError: If it can't.
    """
    layers = dict(_layered(space)).get(method, {})
    if not layers:
        return
    _check_student_layers_of(method, layers[_STUDENT], students)
    criterion_class = space.criteria[method]
    if not issubclass(criterion_class, FeatureCriterion) or not layers.keys() <= space.methods[method].keys():
        return  # a user's method with layers of its own: ``check_own_methods`` checks it
    middle = space.middle(method)
    for pair in itertools.product(*layers.values()):
        parameters = {name: middle[name] for name in space.methods[method]} | dict(zip(layers, pair, strict=True))
        criterion = criterion_class(**parameters)
        theirs = data.teacher_outputs["val"][pair[1]]
        for shape, name in students.shapes[pair[0]].items():
            try:
                criterion.set_up_features(torch.zeros(len(theirs), *shape), theirs.cpu(), data)
            except ValueError as error:
                raise HarnessError(f"method {method!r} can't be searched with {name}: {one_line(error)}") from error


def _check_student_layers_of(method: str, layers: Sequence[str], students: Students) -> None:
    for layer in layers:
        if layer in students.missing:
            fault = f"method {method!r} can't be searched with {students.missing[layer]}"
            raise HarnessError(f"{fault}; leave such students, or the layer, out of the space.")


def _remedy(space: SearchSpace, unfit: list[str]) -> str | None:
    """Return the advice that leaves methods out; ``None`` if no method would be left."""
    fit = [method for method in space.methods if method not in unfit]
    if not fit:
        return None
    return f"Leave {', '.join(unfit)} out of the space, or hold another: --fix {METHOD}={fit[0]}"


def _layered(space: SearchSpace) -> Iterator[tuple[str, dict[str, list[Any]]]]:
    """Yield the methods that compare layers, each with the names of its possible layers."""
    for method in space.methods:
        made = [space.criteria[method](**values) for values in _combinations(space, method)]
        layers = {
            _STUDENT: list(dict.fromkeys(layer for one in made for layer in one.student_layers)),
            _TEACHER: list(dict.fromkeys(layer for one in made for layer in one.teacher_layers)),
        }
        if any(layers.values()):
            yield method, layers


def _each_choice(space: SearchSpace, method: str) -> Iterator[dict[str, Any]]:
    """Yield the middle of a method's ranges, and variants of it with each other choice of each parameter."""
    middle = {name: space.middle(method)[name] for name in space.methods[method]}
    yield middle
    for name, distribution in space.methods[method].items():
        if isinstance(distribution, CategoricalDistribution):
            yield from ({**middle, name: choice} for choice in distribution.choices if choice != middle[name])


def _combinations(space: SearchSpace, method: str) -> Iterator[dict[str, Any]]:
    """Yield all combinations of a method's choices and whole numbers, which may name layers together.

    Ranges of real numbers are in their middle. Where there are more than ``_MOST_COMBINATIONS``, each value is combined
    with the middle of the others.
    """
    middle = {name: space.middle(method)[name] for name in space.methods[method]}
    discrete = {
        name: values
        for name, distribution in space.methods[method].items()
        if not isinstance(distribution, FloatDistribution) and (values := listed(distribution, _MOST_COMBINATIONS))
    }
    if math.prod(map(len, discrete.values())) <= _MOST_COMBINATIONS:
        yield from (
            {**middle, **dict(zip(discrete, row, strict=True))} for row in itertools.product(*discrete.values())
        )
        return
    yield middle
    for name, values in discrete.items():
        yield from ({**middle, name: value} for value in values if value != middle[name])


def check_own_methods(
    space: SearchSpace, data: TensorDataModule, user_code: Callable[[str], AbstractContextManager[None]]
) -> None:
    """Call each of the user's own methods once, with fresh students, and check the terms that it returns.

    Args:
        space: The space, with fixed parameters.
        data: The data, with the teacher's outputs.
        user_code: Attributes errors in the task's own code.

    Raises:
        HarnessError: If a method fails, or returns no terms that can be minimised.
    """
    for method in space.own_methods:
        for values in _each_choice(space, method):
            with user_code(f"method {method!r}"):
                fault = _own_method_fault(space, method, values, data)
            if fault:
                raise HarnessError(f"method {method!r} {fault}")


def _own_method_fault(space: SearchSpace, method: str, values: Mapping[str, Any], data: TensorDataModule) -> str | None:
    """Return why a method of the user's own can't be searched with these values, as a clause; ``None`` if it can."""
    student = build_student(space, middle_architecture(space), data).to(data.device)
    criterion = space.criteria[method](**values)
    criterion.setup(student, data, epochs=space.epochs)
    criterion.to(data.device)
    data.teacher_layers = criterion.teacher_layers
    state = set(criterion.state_dict())

    def terms(batch: Batch) -> Any:
        with capture_features(student, criterion.student_layers) as features:
            logits = call(student, batch.inputs)
        return criterion(logits, batch, features)

    batch = next(iter(data.ordered("val")))[0]
    if fault := _terms_fault(terms(batch)):
        return (
            "must give a dict of names to Term(weight, value), each value a finite scalar tensor with a gradient, but "
            f"{fault}."
        )
    if lost := _lost_on_resume(criterion, state, lambda: terms(_half(batch))):
        return f"can't be resumed: {lost}."
    if not criterion.needs_labels and _reads_labels(terms, data):
        return (
            "reads batch.labels, but the views mix samples, whose true classes are in batch.truth; read that, or set "
            "needs_labels = True in its class."
        )
    return None


def _half(batch: Batch) -> Batch:
    """Return the first half of a batch, of one sample at least."""
    size = max(1, len(batch.ids) // 2)
    return replace(
        batch,
        ids=batch.ids[:size],
        inputs=select(batch.inputs, slice(size)),
        labels=batch.labels[:size],
        teacher={name: values[:size] for name, values in batch.teacher.items()},
        mask=None if batch.mask is None else batch.mask[:size],
        targets=None if batch.targets is None else batch.targets[:size],
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
    before = {name: copy.deepcopy(value) for name, value in vars(criterion).items() if name not in _MODULE_ATTRIBUTES}
    criterion.end_epoch()
    call_again()
    changed = [name for name, value in before.items() if _differ(value, getattr(criterion, name, None))]
    if not changed:
        return ""
    return (
        f"its attribute {changed[0]!r} changes in training and is in no checkpoint; make it a buffer, or define "
        "get_extra_state() and set_extra_state()"
    )


def _differ(one: object, other: object) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return not torch.equal(one, other)
    try:
        return bool(one != other)
    except (RuntimeError, ValueError):  # lists of tensors or arrays are equal to nothing
        return repr(one) != repr(other)


def _reads_labels(terms: Callable[[Batch], Any], data: TensorDataModule) -> bool:
    """Return whether terms change with the labels although views give targets in their place."""
    if data.views is None:
        return False
    batch = next(iter(data.ordered("train")))[0]
    if batch.targets is None:
        return False
    given, again = terms(batch), terms(batch)
    changed = terms(replace(batch, labels=batch.labels.roll(1)))
    return any(
        torch.equal(given[name].value, again[name].value) and not torch.equal(given[name].value, changed[name].value)
        for name in given
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
            return f"{name!r} is {float(term.value)} with weight {term.weight}"
        if name == "loss" or not re.fullmatch(r"\w+", str(name)):
            return f"a term is called {name!r}, which must be a word, and not the name of their sum"
    if not any(term.value.requires_grad for term in terms.values()):
        return "no term has a gradient"
    return None
