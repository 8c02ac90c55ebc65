"""Checks that a space's methods fit its task, its teachers and their layers, before a trial trains."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import torch

from harness.core.errors import HarnessError, one_line
from harness.networks.student_checks import Students
from harness.space import METHOD, SearchSpace
from harness.space_layers import STUDENT, TEACHER, compared_layers, student_layers_of
from harness.space_training import training_variants
from lightning_modules.data.tensors import TensorDataModule
from lightning_modules.methods.feature import FeatureCriterion


def teacher_layers(space: SearchSpace) -> list[str]:
    """Return the names of the teacher's layers that trials of the space may need, each once."""
    return list(dict.fromkeys(layer for _, layers in _layered(space) for layer in layers[TEACHER]))


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


def check_no_layers(teacher: str, layers: Sequence[str]) -> None:
    """Check that a space compares no layers where the teacher is no PyTorch network, and has none.

    Args:
        teacher: What it is, in the message.
        layers: Names of the teacher's layers that trials may need.

    Raises:
        HarnessError: If it does.
    """
    if layers:
        raise HarnessError(
            f"a teacher whose layers teach must be a PyTorch network, but this is a {teacher}, which has no layer "
            f"{layers[0]!r}; take a method that compares answers, as soft_target: --fix {METHOD}=soft_target."
        )


def check_classes(space: SearchSpace, classes: int) -> None:
    """Check that each method has a meaning for the task's output, and for this number of classes.

    Args:
        space: The space, with fixed parameters.
        classes: Number of classes C, labels or values of the output.

    Raises:
        HarnessError: If one has none.
    """
    refuse_unfit(space, lambda method: classes_fault(method, space, classes))


def check_targets(space: SearchSpace, are_mixed: bool) -> None:
    """Check that each method accepts targets in place of labels, where views give targets.

    Args:
        space: The space, with fixed parameters.
        are_mixed: Whether views give targets.

    Raises:
        HarnessError: If one does not.
    """
    if are_mixed:
        refuse_unfit(space, lambda method: targets_fault(method, space))


def check_live(space: SearchSpace) -> None:
    """Check that each method can be trained with a teacher that is asked live.

    Args:
        space: The space, with fixed parameters.

    Raises:
        HarnessError: If one needs the outputs of all training samples at once.
    """
    refuse_unfit(space, lambda method: live_fault(method, space))


def check_unlabelled(space: SearchSpace, unlabelled: int) -> None:
    """Check that each method can be trained on samples that the teacher alone labels, where there are some.

    Args:
        space: The space, with fixed parameters.
        unlabelled: Number of training samples without a label.

    Raises:
        HarnessError: If one compares with the labels itself.
    """
    refuse_unfit(space, lambda method: unlabelled_fault(method, space, unlabelled))


def unlabelled_fault(method: str, space: SearchSpace, unlabelled: int) -> str | None:
    """Return why a method can't be trained on samples without a label; ``None`` if it can, or there are none."""
    criterion = space.criteria[method]
    if not unlabelled or not criterion.needs_teacher or not (criterion.needs_labels or criterion.reads_labels):
        return None
    return (
        f"method {method!r} can't be searched: it needs a label for each training sample, but {unlabelled:,} have none"
    )


def live_fault(method: str, space: SearchSpace) -> str | None:
    """Return why a method can't be trained with a live teacher; ``None`` if it can."""
    if not space.criteria[method].needs_stored:
        return None
    return f"method {method!r} can't be searched: it needs the teacher's stored outputs, but the teacher is asked live"


def refuse_unfit(space: SearchSpace, fault_of: Callable[[str], str | None]) -> None:
    """Refuse a space if one of its methods has a fault: name the first, and how to leave all such methods out."""
    faults = {method: fault for method in space.criteria if (fault := fault_of(method))}
    if faults:
        unfit = list(faults)
        raise HarnessError(
            f"{faults[unfit[0]]}. {_remedy(space, unfit) or 'Name another method in the space, as soft_target'}."
        )


def targets_fault(method: str, space: SearchSpace) -> str | None:
    """Return why a method can't be trained with mixed targets; ``None`` if it can."""
    if not space.criteria[method].needs_labels:
        return None
    return f"method {method!r} can't be searched: it needs one class for each sample, but the views give mixed targets"


def classes_fault(method: str, space: SearchSpace, classes: int) -> str | None:
    """Return why a method has no meaning for the task's output or this number of classes; ``None`` if it has."""
    output, criterion = space.task.output, space.criteria[method]
    smooths = any(one.label_smoothing for one in training_variants(space.task.training, space.varied_training))
    if smooths and not output.has_classes:
        return f"label_smoothing can't be used: it spreads a label over classes, but the task's output is {output}"
    refused = f"method {method!r} can't be searched: it"
    if criterion.needs_classes and not output.has_classes:
        return f"{refused} compares scores of classes, but the task's output is {output}"
    if criterion.needs_values and output.has_classes:
        return f"{refused} compares numbers, but the task's output is {output}"
    if criterion.needs_one_row and not output.has_one_row:
        return f"{refused} needs one class for each sample, but the task's output is {output}"
    least = criterion.least_classes
    if not output.has_classes or output.row_classes(classes) >= least:
        return None
    return f"{refused} needs {least} classes or more, but the task has {output.row_classes(classes)}"


def student_layers(space: SearchSpace) -> list[str]:
    """Return the names of the students' layers that trials of the space may need, each once."""
    return student_layers_of(space.criteria, space.methods)


def check_student_layers(space: SearchSpace, students: Students) -> None:
    """Check that students of every kind have the layers that the methods compare, before a teacher is made.

    Args:
        space: The space, with fixed parameters.
        students: What students of every kind have in common.

    Raises:
        HarnessError: If one has not.
    """
    for method, layers in _layered(space):
        _check_student_layers_of(space, method, layers[STUDENT], students)


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
    _check_student_layers_of(space, method, layers[STUDENT], students)
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


def _check_student_layers_of(space: SearchSpace, method: str, layers: Sequence[str], students: Students) -> None:
    for layer in layers:
        if layer in students.missing:
            fault = f"method {method!r} can't be searched with {students.missing[layer]}"
            named = f", or name it for its family: layers={{…: {{{layer!r}: …}}}}" if space.chooser else ""
            raise HarnessError(f"{fault}; leave such students, or the layer, out of the space{named}.")


def _remedy(space: SearchSpace, unfit: list[str]) -> str | None:
    """Return the advice that leaves methods out; ``None`` if no method would be left."""
    fit = [method for method in space.criteria if method not in unfit]
    if not fit:
        return None
    return f"Leave {', '.join(unfit)} out of the space, or hold another: --fix {METHOD}={fit[0]}"


def _layered(space: SearchSpace) -> Iterator[tuple[str, dict[str, list[str]]]]:
    """Yield the methods of a space that compare layers, each with the names of its possible layers."""
    return compared_layers(space.criteria, space.methods)
