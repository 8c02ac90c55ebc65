"""The ``training`` group of a space: what varies of how students are trained, beside the task's ``Training``."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from harness.core.choices import chosen, storable
from harness.core.errors import did_you_mean, one_line
from harness.space_ranges import bounds_of, hold, middle_of
from lightning_modules.training import Training
from lightning_modules.training.settings import without_effect
from lightning_modules.training.values import KEYWORDS, checked

Distributions = Mapping[str, BaseDistribution]

_DECIDING = ("optimizer", "schedule", "weight_decay")
"""Keywords that may leave others without effect."""

_EPOCHS = (
    "training must not vary 'epochs': all trials of a study have the same number, which makes them comparable; set "
    "SearchSpace(epochs=…) or --epochs."
)


def check_task_training(training: object) -> None:
    """Check that a task's ``training`` is one.

    Raises:
        ValueError: If it is not.
    """
    if not isinstance(training, Training):
        raise ValueError(
            f"training of a task must be a Training(…) of lightning_modules.training, but got {training!r}."
        )


def storable_training(group: Distributions) -> dict[str, BaseDistribution]:
    """Return the distributions of a group that any storage keeps exactly.

    Raises:
        ValueError: If a storage can't keep the values of one.
    """
    factories = group.get("optimizer")
    if isinstance(factories, CategoricalDistribution) and any(map(callable, factories.choices)):
        raise ValueError(
            "optimizer must be searched by name, for a study can't store a factory; give one as "
            "Training(optimizer=…), which holds for all trials."
        )
    return {name: storable(name, distribution) for name, distribution in group.items()}


def check_training_names(group: Distributions) -> None:
    """Check that a group names keywords of ``Training``.

    Raises:
        ValueError: If a name is another one.
    """
    for name in group:
        if name == "epochs":
            raise ValueError(_EPOCHS)
        if name not in KEYWORDS:
            raise ValueError(
                f"training must name some of {', '.join(KEYWORDS)}, but got {name!r}, which would reach nothing"
                f"{did_you_mean(name, KEYWORDS, otherwise='.')}"
            )


def check_training_group(training: Training, group: Distributions) -> None:
    """Check that a training takes every value of a group, and that each parameter has an effect with some of them.

    Args:
        training: The task's.
        group: The ``training`` group of its space, as storages keep it.

    Raises:
        ValueError: If it does not, or one has none.
    """
    for name, distribution in group.items():
        for value in bounds_of(distribution):
            try:
                checked(name, chosen(distribution, value))
            except ValueError as error:
                raise ValueError(
                    f"the training must take all that its ranges hold, but does not take {name}={value!r}: "
                    f"{one_line(error)}"
                ) from error
    for name, reason in _always_idle(training, group).items():
        if name in group and not group[name].single():
            raise ValueError(f"training must not vary {name!r}: {reason}.")


def training_with(training: Training, group: Distributions, values: Mapping[str, Any]) -> Training:
    """Return the training of a configuration: its own values win over the task's.

    Args:
        training: The task's.
        group: The ``training`` group of its space.
        values: A value for each of its parameters, as storages keep them.
    """
    return training.varied({name: chosen(group[name], value) for name, value in values.items()})


def hold_idle(training: Training, group: Distributions) -> dict[str, BaseDistribution]:
    """Return a group with what has no effect held in the middle of its range: trials must not differ by it."""
    idle = _always_idle(training, group)
    return {
        name: hold(name, distribution, str(middle_of(distribution))) if name in idle else distribution
        for name, distribution in group.items()
    }


def idle_warnings(training: Training, group: Distributions) -> list[str]:
    """Return warnings about keywords that are set or searched, and have no effect in some trials, a phrase each."""
    always = _always_idle(training, group)
    found = [f"the training's {reason}" for name, reason in always.items()]
    partly: dict[str, str] = {}
    for idle in _idle_by_choice(training, group):
        partly |= {name: reason for name, reason in idle.items() if name in group and name not in always}
    return [*found, *(f"{name} is searched in all trials, but {reason}" for name, reason in partly.items())]


def batch_sizes(training: Training, group: Distributions, own: int) -> list[int]:
    """Return the batch sizes at which students may be trained, ascending: every choice, or the ends of the range.

    Args:
        training: The task's.
        group: The ``training`` group of its space.
        own: The batch size of its data.
    """
    given = bounds_of(group["batch_size"]) if "batch_size" in group else (training.batch_size,)
    return sorted({size or training.batch_size or own for size in given})


def _always_idle(training: Training, group: Distributions) -> dict[str, str]:
    """Return the keywords, set or searched, that have no effect in any trial, each with a reason."""
    first, *others = _idle_by_choice(training, group)
    return {name: reason for name, reason in first.items() if all(name in other for other in others)}


def _idle_by_choice(training: Training, group: Distributions) -> Iterator[dict[str, str]]:
    """Yield the keywords without effect for each combination of the choices that decide on others."""
    given = {**training.given(), **{name: middle_of(distribution) for name, distribution in group.items()}}
    deciding = {name: _values(group[name]) for name in _DECIDING if name in group}
    for values in itertools.product(*deciding.values()):
        yield without_effect({**given, **dict(zip(deciding, values, strict=True))})


def _values(distribution: BaseDistribution) -> tuple[Any, ...]:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return (distribution.high,)  # a range from 0 has other values too


def training_variants(training: Training, group: Distributions) -> list[Training]:
    """Return the trainings in the middle of a group's ranges, and with each choice, or end, of each parameter."""
    middle = {name: middle_of(distribution) for name, distribution in group.items()}
    rows = [middle, *({**middle, name: value} for name, dist in group.items() for value in bounds_of(dist))]
    return [training_with(training, group, row) for row in rows]


def beside_effect(training: Training, group: Distributions, name: str) -> dict[str, Any]:
    """Return choices of other parameters beside which one has an effect, such as a momentum's optimizer.

    Args:
        training: The task's.
        group: The ``training`` group of its space.
        name: The parameter, which has an effect beside some.
    """
    given = {**training.given(), **{other: middle_of(distribution) for other, distribution in group.items()}}
    deciding = {other: _values(group[other]) for other in _DECIDING if other in group and other != name}
    rows = [dict(zip(deciding, values, strict=True)) for values in itertools.product(*deciding.values())]
    return next((row for row in rows if name not in without_effect({**given, **row})), {})
