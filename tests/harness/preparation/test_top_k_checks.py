"""What does not fit the k largest logits is refused in words, before a teacher is made."""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution

from harness.core.errors import HarnessError
from harness.preparation.top_k_checks import check_top_k, temperature_ends, top_k_fault
from harness.settings import Settings
from harness.space import SearchSpace
from harness.task import Task, check_teacher_outputs
from harness.teachers import TopK
from lightning_modules.data.augment import Augment
from lightning_modules.data.tensors import Split, TensorDataModule
from lightning_modules.outputs import MultiLabel, Output, Regression
from search_spaces import digits, digits_methods

ALPHA = FloatDistribution(0.0, 1.0)
TEMPERATURE = FloatDistribution(1.0, 6.0)
SPLIT = Split(torch.rand(6, 3), torch.arange(6) % 3)


def space_with(form: Any, output: Output | None = None, **distillation: Any) -> SearchSpace:
    class Stored(digits.Digits):  # type: ignore[misc]
        teacher_outputs: ClassVar[Any] = form

    task = Stored()
    if output is not None:
        task.output = output  # type: ignore[misc]
    given = distillation or {"temperature": TEMPERATURE, "alpha": ALPHA}
    return replace(digits.SPACE, task=task, distillation=given)


def check(space: SearchSpace, classes: int = 10, augment: Augment | None = None, **settings: Any) -> None:
    data = TensorDataModule(train=SPLIT, val=SPLIT, test=SPLIT, augment=augment)
    given = Settings(space_name="stored", study="s", **settings)
    check_top_k(space, data, classes, given)


def test_a_task_of_classes_with_methods_that_take_them_passes() -> None:
    check(space_with(TopK(4)))
    check(space_with(None), teacher_outputs="live")


@pytest.mark.parametrize(
    ("form", "told", "changes"),
    [
        (TopK(10), "must keep fewer logits than there are, but there are 10", {}),
        (TopK(4), "is a form of stored outputs, but --teacher-outputs live asks for none", {"teacher_outputs": "live"}),
        (TopK(4), "is a form of stored outputs, but .* need a live teacher", {"augment": Augment(abs, views="fresh")}),
        (TopK(4), "is of one teacher, but there are 3", {"trained_teachers": 3}),
    ],
)
def test_what_does_not_fit_is_refused(form: TopK, told: str, changes: dict[str, Any]) -> None:
    with pytest.raises(HarnessError, match=told):
        check(space_with(form), **changes)


def test_a_temperature_below_the_lowest_that_is_stored_is_refused() -> None:
    space = space_with(TopK(4), temperature=FloatDistribution(0.5, 6.0), alpha=ALPHA)
    with pytest.raises(HarnessError, match=r"the temperature must be at least 1, .* give it TopK\(4, temp.*=\(0.5, "):
        check(space)


@pytest.mark.parametrize("output", [Regression(), MultiLabel()])
def test_an_output_without_classes_that_exclude_one_another_is_refused(output: Output) -> None:
    with pytest.raises(HarnessError, match="needs an output whose scores are of classes that exclude one another"):
        check(space_with(TopK(4), output))


def test_a_method_that_needs_all_logits_is_refused_with_the_way_to_hold_another() -> None:
    soft = {"temperature": TEMPERATURE, "alpha": ALPHA}
    space = space_with(TopK(4), soft_target=soft, standardized=soft)
    with pytest.raises(
        HarnessError, match=r"'standardized' can't be searched: it needs all .* --fix method=soft_target"
    ):
        check(space)
    every = replace(digits_methods.SPACE, task=space.task)
    refused = {method for method in every.criteria if top_k_fault(method, every)}
    assert refused == {"standardized", "decoupled", "correlation"}
    assert not any(top_k_fault(method, digits_methods.SPACE) for method in digits_methods.SPACE.criteria)


def test_the_ends_of_the_temperature_are_those_of_its_range_or_of_its_choices() -> None:
    held = {"temperature": CategoricalDistribution([2.0, 9.0]), "alpha": ALPHA}
    assert temperature_ends(space_with(TopK(4), reverse_kl=held)) == (2.0, 9.0)
    assert temperature_ends(space_with(TopK(4))) == (1.0, 6.0)
    assert temperature_ends(space_with(None, label_smoothing={"smoothing": FloatDistribution(0.1, 0.2)})) == (1.0, 1.0)


def test_a_form_that_is_none_is_refused_by_the_task() -> None:
    class Odd(digits.Digits):  # type: ignore[misc]
        teacher_outputs: ClassVar[Any] = 64

    with pytest.raises(ValueError, match=r"teacher_outputs must be TopK\(..\) of harness.teachers, .* but got 64"):
        check_teacher_outputs(Odd())
    task: Task = copy.copy(space_with(TopK(4)).task)
    task.teacher_outputs_dtype = "float16"  # type: ignore[misc]
    with pytest.raises(ValueError, match=r"TopK\(4\) is stored in float16 in any case: leave teacher_outputs_dt"):
        check_teacher_outputs(task)


def test_students_that_train_themselves_are_refused() -> None:
    space: Any = SimpleNamespace(task=space_with(TopK(4)).task, trains_itself=True)
    with pytest.raises(HarnessError, match=r"for students that a method trains, but module\(\) may read all logits"):
        check(space)
