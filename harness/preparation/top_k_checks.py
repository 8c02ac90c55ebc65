"""Checks that a task whose teacher is stored in the form of ``TopK`` can be searched, before anything trains."""

from __future__ import annotations

from harness.core.errors import HarnessError, Unfit
from harness.preparation.method_checks import refuse_unfit
from harness.settings import Settings
from harness.space import SearchSpace
from harness.space_ranges import bounds_of
from harness.teachers.asking import LIVE, asks_live
from harness.teachers.ensemble import number_of_teachers
from lightning_modules.data.tensors import TensorDataModule
from lightning_modules.outputs import CategoricalOutput

_TEMPERATURE = "temperature"


def check_top_k(space: SearchSpace, data: TensorDataModule, classes: int, settings: Settings) -> None:
    """Check that output, students, methods, temperatures and teachers fit the form, if the task has one.

    Args:
        space: The space, with fixed parameters.
        data: The data.
        classes: Number of classes C, labels or values of the output.
        settings: Name the teachers, and say how they are asked.

    Raises:
        HarnessError: If one does not.
    """
    form, output = space.task.teacher_outputs, space.task.output
    if form is None:
        return
    stored = f"teacher_outputs = TopK({form.k})"
    if not isinstance(output, CategoricalOutput):
        raise Unfit(
            f"{stored} needs an output whose scores are of classes that exclude one another, but the task's output is "
            f"{output}",
            "leave teacher_outputs out",
        )
    if form.k >= classes:
        raise Unfit(f"{stored} must keep fewer logits than there are, but there are {classes}", "leave it out")
    if space.trains_itself:
        raise Unfit(f"{stored} is for students that a method trains, but module() may read all logits", "leave it out")
    if asks_live(data) or settings.teacher_outputs == LIVE:
        why = f"{data.views} need a live teacher" if asks_live(data) else "--teacher-outputs live asks for none"
        raise Unfit(f"{stored} is a form of stored outputs, but {why}", "leave one of the two out")
    if (teachers := number_of_teachers(settings)) > 1:
        raise Unfit(
            f"{stored} is of one teacher, but there are {teachers}, each with other classes among its {form.k}",
            "name one, or leave it out",
        )
    refuse_unfit(space, lambda method: top_k_fault(method, space))
    low, lowest = temperature_ends(space)[0], form.temperatures[0]
    if low < lowest:
        raise HarnessError(
            f"the temperature must be at least {lowest:g}, the lowest at which {stored} keeps the share of the other "
            f"classes, but the space goes down to {low:g}; give it TopK({form.k}, temperatures=({low:g}, ..))."
        )


def top_k_fault(method: str, space: SearchSpace) -> str | None:
    """Return why a method can't be searched beside ``TopK``; ``None`` if it can, or the task stores all logits."""
    form = space.task.teacher_outputs
    if form is None or space.criteria[method].takes_top_k:
        return None
    return (
        f"method {method!r} can't be searched: it needs all of the teacher's logits, but the task stores TopK({form.k})"
    )


def temperature_ends(space: SearchSpace) -> tuple[float, float]:
    """Return the lowest and the highest temperature of the space's methods; 1 where they have none."""
    ends = [
        float(end)
        for parameters in space.methods.values()
        if _TEMPERATURE in parameters
        for end in bounds_of(parameters[_TEMPERATURE])
    ]
    return (min(ends), max(ends)) if ends else (1.0, 1.0)
