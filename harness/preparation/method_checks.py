"""Whether the methods of a space fit its task, its teachers and their layers, before a trial trains."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from optuna.distributions import CategoricalDistribution
from torch import Tensor

from harness.core.errors import HarnessError, one_line
from harness.networks.students import Students, build_student, middle_architecture
from harness.space import METHOD, SearchSpace
from lightning_modules.batch import call
from lightning_modules.data.tensors import TensorDataModule
from lightning_modules.features import capture_features
from lightning_modules.methods import Term
from lightning_modules.methods.feature import FeatureCriterion

_STUDENT, _TEACHER = "student_layer", "teacher_layer"


def teacher_layers(space: SearchSpace) -> list[str]:
    """Return names of the teacher's layers that a trial of the space may need, each once."""
    return list(dict.fromkeys(layer for _, layers in _layered(space) for layer in layers[_TEACHER]))


def check_teachers(space: SearchSpace, teachers: int) -> None:
    """Check that what teaches can be averaged, before a teacher is made: layers of several share no axes.

    Args:
        space: The space, with what the person holds fixed.
        teachers: How many teach as one.

    Raises:
        HarnessError: If several are asked for layers.
    """
    comparing = [method for method, _ in _layered(space)]
    if teachers > 1 and comparing:
        raise HarnessError(
            f"one teacher must be left where layers teach, as {comparing[0]!r} has it, but there are {teachers}: "
            f"features of several have no mean. {_remedy(space, comparing) or 'Name one teacher'}."
        )


def check_classes(space: SearchSpace, classes: int) -> None:
    """Check that each method says something of so many classes.

    Args:
        space: The space, with what the person holds fixed.
        classes: Number of classes C.

    Raises:
        HarnessError: If one does not.
    """
    faults = {method: fault for method in space.methods if (fault := classes_fault(method, space, classes))}
    if faults:
        unfit = list(faults)
        raise HarnessError(
            f"{faults[unfit[0]]}. {_remedy(space, unfit) or 'Name another method in the space, as soft_target'}."
        )


def check_targets(space: SearchSpace, are_mixed: bool) -> None:
    """Check that each method can take targets in place of labels, where views give such.

    Args:
        space: The space, with what the person holds fixed.
        are_mixed: Whether views give targets.

    Raises:
        HarnessError: If one can't.
    """
    unfit = [method for method in space.methods if are_mixed and targets_fault(method, space)]
    if unfit:
        raise HarnessError(
            f"{targets_fault(unfit[0], space)}. "
            f"{_remedy(space, unfit) or 'Name another method in the space, as soft_target'}."
        )


def targets_fault(method: str, space: SearchSpace) -> str | None:
    """Return why a method can't take mixed or soft targets; ``None`` if it can."""
    if not space.criteria[method].needs_labels:
        return None
    return f"method {method!r} can't be searched: it needs one class for each sample, but the views give mixed targets"


def classes_fault(method: str, space: SearchSpace, classes: int) -> str | None:
    """Return why a method says nothing of so many classes; ``None`` if it does."""
    least = space.criteria[method].least_classes
    if classes >= least:
        return None
    return f"method {method!r} can't be searched: it needs {least} classes or more, but the task has {classes}"


def student_layers(space: SearchSpace) -> list[str]:
    """Return names of the students' layers that a trial of the space may need, each once."""
    return list(dict.fromkeys(layer for _, layers in _layered(space) for layer in layers[_STUDENT]))


def check_student_layers(space: SearchSpace, students: Students) -> None:
    """Check that students of every kind have the layers that the methods compare, before a teacher is made.

    Args:
        space: The space, with what the person holds fixed.
        students: What students of every kind gave.

    Raises:
        HarnessError: If one has not.
    """
    for method, layers in _layered(space):
        _check_student_layers_of(method, layers[_STUDENT], students)


def check_layers(space: SearchSpace, students: Students, data: TensorDataModule) -> None:
    """Check that each method can take each pair of layers that the space offers it, with students of every kind.

    Args:
        space: The space, with what the person holds fixed.
        students: What the layers of students of every kind gave.
        data: Samples of the data, with the teacher's outputs; of an untrained one, its layers give the same shapes.

    Raises:
        HarnessError: If a method can't.
    """
    for method, _ in _layered(space):
        check_layers_of(method, space, students, data)


def check_layers_of(method: str, space: SearchSpace, students: Students, data: TensorDataModule) -> None:
    """See the same of one method.

    Args:
        method: One of the space's.
        space: The space.
        students: What the layers of students of every kind gave.
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
        return  # a method of the user's, with layers of its own: whether it takes them, ``check_own_methods`` says
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
    """Return what to type to leave methods out; ``None`` if none would be left."""
    fit = [method for method in space.methods if method not in unfit]
    if not fit:
        return None
    return f"Leave {', '.join(unfit)} out of the space, or hold another: --fix {METHOD}={fit[0]}"


def _layered(space: SearchSpace) -> Iterator[tuple[str, dict[str, list[Any]]]]:
    """Yield the methods that compare layers, each with the names it may be given."""
    for method in space.methods:
        made = [space.criteria[method](**values) for values in _each_choice(space, method)]
        layers = {
            _STUDENT: list(dict.fromkeys(layer for one in made for layer in one.student_layers)),
            _TEACHER: list(dict.fromkeys(layer for one in made for layer in one.teacher_layers)),
        }
        if any(layers.values()):
            yield method, layers


def _each_choice(space: SearchSpace, method: str) -> Iterator[dict[str, Any]]:
    """Yield the middle of a method's ranges, and each other choice of each of its parameters beside that."""
    middle = {name: space.middle(method)[name] for name in space.methods[method]}
    yield middle
    for name, distribution in space.methods[method].items():
        if isinstance(distribution, CategoricalDistribution):
            yield from ({**middle, name: choice} for choice in distribution.choices if choice != middle[name])


def check_own_methods(
    space: SearchSpace, data: TensorDataModule, asking: Callable[[str], AbstractContextManager[None]]
) -> None:
    """Ask each method of the user's own once, with fresh students: whether it gives terms that can be trained for.

    Args:
        space: The space, with what the person holds fixed.
        data: The data, with the teacher's outputs.
        asking: Says of an error in a task's code whose it is.

    Raises:
        HarnessError: If a method fails, or gives something else.
    """
    for method in space.own_methods:
        for values in _each_choice(space, method):
            with asking(f"method {method!r}"):
                student = build_student(space, middle_architecture(space), data).to(data.device)
                criterion = space.criteria[method](**values)
                criterion.setup(student, data, epochs=space.epochs)
                data.teacher_layers = criterion.teacher_layers
                batch = next(iter(data.ordered("val")))[0]
                with capture_features(student, criterion.student_layers) as features:
                    logits = call(student, batch.inputs)
                fault = _terms_fault(criterion.to(data.device)(logits, batch, features))
            if fault:
                raise HarnessError(
                    f"method {method!r} must give a dict of names to Term(weight, value), each value a finite scalar "
                    f"tensor with a gradient, but {fault}."
                )


def _terms_fault(terms: object) -> str | None:
    """Return why a criterion's answer can't be trained for; ``None`` if it can."""
    if not isinstance(terms, dict) or not terms:
        return f"gave {terms!r}" if not terms else f"gave {type(terms).__name__}"
    for name, term in terms.items():
        if not isinstance(term, Term):
            return f"gave {type(term).__name__} as {name!r}"
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
