"""Checks of a space's declarations: that each parameter reaches something, which accepts all its values."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

from optuna.distributions import BaseDistribution

from harness.core.errors import did_you_mean, one_line
from harness.core.names import check_metric_name
from harness.metrics import METRICS
from harness.space_ranges import bounds_of, middle_of
from harness.space_training import check_task_training
from harness.task import Task, check_teacher_outputs, class_names, declared_metrics, has_own_training
from lightning_modules.methods import METHODS, Criterion
from lightning_modules.outputs import Output
from lightning_modules.training import Training

Distributions = Mapping[str, BaseDistribution]

TEACHER = "teacher"
"""The keyword by which ``student()`` and ``module()`` ask for the frozen teacher: no parameter of a space."""

_KINDS: Mapping[str, tuple[type, str]] = {"float": (Real, "a number"), "str": (str, "a string")}


def check_task(task: Task, *, epochs: int) -> None:
    """Check what a task declares beside its methods.

    Args:
        task: The task.
        epochs: Epochs of a trial.

    Raises:
        ValueError: If a declaration is invalid.
    """
    for name, count in (("epochs", epochs), ("teacher_epochs", task.teacher_epochs)):
        if not isinstance(count, int) or count < 1:
            raise ValueError(f"{name} must be at least 1, a whole number, but got {count!r}.")
    has_own_training(task)
    if not isinstance(task.output, Output):
        raise ValueError(
            f"output must be an output kind, as Classification() of lightning_modules.outputs, but got {task.output!r}."
        )
    check_teacher_outputs(task)
    for metric in declared_metrics(task):
        if metric.direction not in ("maximize", "minimize"):
            raise ValueError(
                f"metric_direction must be 'maximize' or 'minimize', but got {metric.direction!r}"
                f"{did_you_mean(metric.direction, ('maximize', 'minimize'), otherwise='.')}"
            )
        check_metric_name(metric.name, METRICS)
    check_task_training(task.training)
    class_names(task)
    rate = task.teacher_learning_rate
    if not isinstance(rate, Real) or not 0 < rate < math.inf:
        raise ValueError(f"teacher_learning_rate must be a positive number, but got {rate!r}.")
    if task.teacher_training is None:
        return
    if not isinstance(task.teacher_training, Training):
        raise ValueError(f"teacher_training must be Training(…), but got {task.teacher_training!r}.")
    if rate != Task.teacher_learning_rate:
        raise ValueError(
            "a task must set teacher_training or teacher_learning_rate, but has both; give the rate to Training(…)."
        )
    if task.teacher_training.label_smoothing and not task.output.has_classes:
        raise ValueError(
            f"teacher_training can't have label_smoothing, which spreads a label over classes: the output is "
            f"{task.output}."
        )


def check_criterion(method: str, criterion: Any) -> None:
    """Check the criterion of a method: one of ``METHODS``, or the space's own; ``None`` where there is none.

    Raises:
        ValueError: If it is neither.
    """
    if criterion is None:
        raise ValueError(
            f"distillation must name methods among {', '.join(METHODS)}, or give a Method(criterion, parameters), "
            f"but got {method!r}{did_you_mean(method, METHODS, otherwise='.')}"
        )
    if not (isinstance(criterion, type) and issubclass(criterion, Criterion)):
        raise ValueError(f"method {method!r} must have a class of Criterion, but got {criterion!r}.")
    if criterion is not METHODS.get(method, criterion):
        raise ValueError(f"method {method!r} must have another name than those of {', '.join(METHODS)}.")


def keywords_of(function: Any) -> set[str]:
    """Return the names of a function's keyword parameters."""
    parameters = inspect.signature(function).parameters.values()
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {each.name for each in parameters if each.name != "self" and each.kind not in variadic}


def check_names(group: str, given: Distributions, known: set[str], *, all_needed: bool = False) -> None:
    """Check the names of a group's parameters.

    Args:
        group: The group's name.
        given: Its parameters.
        known: Names that reach something.
        all_needed: Whether each of these must be given.

    Raises:
        ValueError: If a name is unknown, or is needed and missing.
    """
    unknown, missing = sorted(set(given) - known), sorted(known - set(given))
    if unknown:
        raise ValueError(
            f"{group} must name some of {sorted(known)}, but got {unknown[0]!r}, which would reach nothing"
            f"{did_you_mean(unknown[0], known, otherwise='.')}"
        )
    if all_needed and missing:
        raise ValueError(
            f"{group} must name {sorted(known)}, but {missing[0]!r} is missing; "
            "a distribution of one value holds it fixed."
        )


def check_kinds(group: Distributions, function: Any) -> None:
    """Check that parameters are the numbers and names of layers that a function is annotated with."""
    for name, distribution in group.items():
        annotation = inspect.signature(function).parameters[name].annotation
        kind, word = _KINDS.get(getattr(annotation, "__name__", annotation), (object, ""))
        for value in bounds_of(distribution):
            if not isinstance(value, kind):
                raise ValueError(f"{name} must be {word}, but {value!r} is one of its values.")


def check_ends(what: str, group: Distributions, make: Callable[..., object]) -> None:
    """Check that ``make`` takes each parameter's ends, or choices, beside the middle of the others."""
    middle = {name: middle_of(distribution) for name, distribution in group.items()}
    for values in (middle, *({**middle, name: end} for name, dist in group.items() for end in bounds_of(dist))):
        try:
            make(**values)
        except (TypeError, ValueError) as error:
            told = ", ".join(f"{name}={value!r}" for name, value in values.items())
            raise ValueError(
                f"{what} must take all that its ranges hold, but does not take {told}: {one_line(error)}"
            ) from error
