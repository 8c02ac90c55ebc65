"""Which layers a space can ask for; whether there are such, before a trial trains."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from harness.errors import HarnessError, one_line
from harness.space import SearchSpace, listed
from lightning_modules.criteria import make_criterion
from lightning_modules.tensors import TensorDataModule

_STUDENT, _TEACHER = "student_layer", "teacher_layer"
_MOST = 10_000


def teacher_layers(space: SearchSpace) -> list[str]:
    """Names of the teacher's layers that a trial of the space may need, each once."""
    return list(dict.fromkeys(layer for _, layers in _layered(space) for layer in layers[_TEACHER]))


def check_layers(space: SearchSpace, data: TensorDataModule) -> None:
    """See that each method can take each pair of layers that the space offers it, with the student of middling size.

    Args:
        space: The space, with what the person holds fixed.
        data: The data, with the teacher's outputs.

    Raises:
        HarnessError: If a method can't.
    """
    for method, layers in _layered(space):
        middle = space.middle(method)
        student = space.task.student(**{name: middle[name] for name in space.student})
        for pair in itertools.product(*layers.values()):
            parameters = {name: middle[name] for name in space.methods[method]} | dict(zip(layers, pair, strict=True))
            try:
                make_criterion(method, **parameters).setup(student, data, epochs=space.epochs)
            except ValueError as error:
                raise HarnessError(f"method {method!r} can't be searched: {one_line(error)}") from error


def _layered(space: SearchSpace) -> Iterator[tuple[str, dict[str, list[Any]]]]:
    """Methods that compare layers, each with the names it may be given."""
    for method, parameters in space.methods.items():
        if _TEACHER in parameters:
            yield method, {name: listed(parameters[name], _MOST) or [] for name in (_STUDENT, _TEACHER)}
