"""Declarations of a space whose students train themselves: every parameter reaches ``Task.module``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution

from harness.core.errors import did_you_mean
from harness.space_checks import TEACHER, keywords_of
from harness.task import Task

Distributions = Mapping[str, BaseDistribution]

OWN_TRAINING = "module"
"""Stands for the method of such a space, which has none to choose."""
LABELS = "alpha"
"""The weight of the true labels: a module that is built with 1 is its own control."""


def check_module_space(task: Task, groups: Mapping[str, Mapping[str, Any]]) -> None:
    """Check the groups of a space against the keywords of ``module()``, and that nothing declared is ignored.

    Args:
        task: The task, which has ``module``.
        groups: ``student``, ``distillation`` and ``training``, as they are declared.

    Raises:
        ValueError: If a name is unknown, missing or in several groups, or something would reach nothing.
    """
    for name, given in groups["distillation"].items():
        if not isinstance(given, BaseDistribution):
            raise ValueError(
                f"distillation must give each parameter of module() a distribution, for students that train themselves "
                f"have no method, but {name!r} is {type(given).__name__}."
            )
    known = keywords_of(task.module) - {TEACHER}
    for group, parameters in groups.items():
        for name in parameters:
            if name == "method":
                raise ValueError("a parameter of module() must have another name than 'method'; rename it.")
            if name not in known:
                raise ValueError(
                    f"{group} must name keywords of module(), {', '.join(sorted(known))}, but got {name!r}, which "
                    f"would reach nothing{did_you_mean(name, known, otherwise='.')}"
                )
    names = [name for parameters in groups.values() for name in parameters]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"a parameter must stand in one group only, but got {', '.join(twice)} in several.")
    if missing := sorted(known - set(names)):
        raise ValueError(
            f"a space must name every keyword of module(), but {missing[0]!r} is missing; a distribution of one value "
            "holds it fixed."
        )
    if LABELS in names and LABELS not in groups["distillation"]:
        raise ValueError(f"{LABELS!r} must stand in distillation: it weighs the true labels, and controls set it to 1.")
    _check_nothing_ignored(task)


def _check_nothing_ignored(task: Task) -> None:
    """Check that a task declares nothing of how students are trained beside ``module()``."""
    if given := task.training.given():
        raise ValueError(
            f"training = Training(…) reaches nothing beside module(), which trains itself, but sets "
            f"{', '.join(given)}; let module() do it, and give a batch size to the data."
        )
    if getattr(task.output, "class_weights", None) is not None:
        raise ValueError(
            "class_weights of the output reach nothing beside module(), whose loss is its own; weigh the classes there."
        )
