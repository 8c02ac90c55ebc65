"""What a space may compare: only that is stored, and what can't be compared is said before a trial trains."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution

from harness.core.errors import HarnessError
from harness.networks.student_checks import check_students
from harness.preparation.method_checks import (
    check_classes,
    check_layers,
    check_student_layers,
    check_teachers,
    student_layers,
    teacher_layers,
)
from harness.space import SearchSpace
from lightning_modules.data.tensors import TensorDataModule
from lightning_modules.features import probe_features
from lightning_modules.methods import METHODS
from search_spaces import digits, digits_methods, fashion_mnist_methods

ALPHA, WEIGHT = FloatDistribution(0.0, 1.0), FloatDistribution(1.0, 10.0)


def comparing(student_layers: list[str], teacher_layers: list[str], method: str = "attention_transfer") -> SearchSpace:
    weight = {"attention_transfer": "attention_weight", "hint": "hint_weight"}[method]
    layers = {
        "student_layer": CategoricalDistribution(student_layers),
        "teacher_layer": CategoricalDistribution(teacher_layers),
    }
    methods: dict[str, Any] = {
        "soft_target": {"temperature": FloatDistribution(1.0, 20.0), "alpha": ALPHA},
        method: {weight: WEIGHT, **layers},
    }
    return replace(digits.SPACE, distillation=methods)


@pytest.fixture(scope="module")
def data() -> TensorDataModule:
    """The digits, with what a fresh teacher gives for some of them."""
    made = digits.SPACE.task.data(None)
    teacher, outputs = digits.SPACE.task.teacher(), {}
    for split in ("train", "val"):
        inputs = made.splits[split].inputs
        assert isinstance(inputs, torch.Tensor)
        logits, features = probe_features(teacher, inputs, ["block1", "block2", "flatten"])
        outputs[split] = {"logits": logits, **features}
    made.attach(outputs)
    return made


def test_only_what_a_space_can_ask_for_is_stored() -> None:
    assert teacher_layers(digits.SPACE) == []
    assert teacher_layers(digits_methods.SPACE) == ["block1", "block2"]
    assert teacher_layers(fashion_mnist_methods.SPACE) == ["block2"]


@pytest.mark.parametrize(
    ("fixed", "expected"),
    [
        ({"method": "soft_target"}, []),
        ({"method": "hint"}, ["block1", "block2"]),
        ({"teacher_layer": "block2"}, ["block2"]),
        ({"method": "hint", "teacher_layer": "block1"}, ["block1"]),
        ({"student_layer": "block2"}, ["block1", "block2"]),
    ],
)
def test_what_is_held_fixed_needs_no_other_layer(fixed: dict[str, str], expected: list[str]) -> None:
    assert teacher_layers(digits_methods.SPACE.fixed(fixed)) == expected


def compare(space: SearchSpace, data: TensorDataModule) -> None:
    """Check what a search checks before a teacher is made, and with the teacher's layers."""
    students = check_students(space, data, lambda name: nullcontext(), layers=student_layers(space))
    check_student_layers(space, students)
    check_layers(space, students, data)


def test_the_embedded_methods_can_compare_what_their_spaces_offer(data: TensorDataModule) -> None:
    compare(digits_methods.SPACE, data)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            comparing(["block1", "block7"], ["block1"]),
            r"method 'attention_transfer' can't be searched with student\(width=6\): a layer must be one of block1, "
            "block1.0, .* 'block7'; leave such students, or the layer, out of the space.",
        ),
        (
            comparing(["block1"], ["block1", "flatten"]),
            r"method 'attention_transfer' can't be searched with student\(width=\d+\): student_layer and "
            r"teacher_layer must give maps .*, but 'block1' gives \(B, \d+, 4, 4\) and 'flatten' \(B, 512\); .*",
        ),
        (
            comparing(["flatten"], ["block2"], method="hint"),
            r"method 'hint' can't be searched with .*: .* 'flatten' gives \(B, \d+\) and 'block2' \(B, 128, 2, 2\); .*",
        ),
    ],
)
def test_what_can_not_be_compared_is_one_line(space: SearchSpace, message: str, data: TensorDataModule) -> None:
    with pytest.raises(HarnessError, match=f"^{message}$") as caught:
        compare(space, data)
    assert "\n" not in str(caught.value)


def test_layers_of_several_teachers_are_refused_with_what_to_do() -> None:
    check_teachers(digits.SPACE, 3)
    check_teachers(digits_methods.SPACE, 1)
    check_teachers(digits_methods.SPACE.fixed({"method": "soft_target"}), 3)
    with pytest.raises(HarnessError, match=r"one teacher must .*'hint' .*there are 2: .* --fix method=soft_target\.$"):
        check_teachers(digits_methods.SPACE, 2)
    with pytest.raises(HarnessError, match=r"features of several have no mean\. Name one teacher\.$"):
        check_teachers(digits_methods.SPACE.fixed({"method": "hint"}), 2)


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.least_classes == 3])
def test_methods_that_say_nothing_of_two_classes_are_refused_with_what_to_do(method: str) -> None:
    check_classes(digits_methods.SPACE, 3)
    check_classes(digits_methods.SPACE.fixed({"method": "correlation"}), 2)
    with pytest.raises(HarnessError, match=r"needs 3 classes or more, .* has 2\. .* --fix method=soft_target\.$"):
        check_classes(digits_methods.SPACE, 2)
    with pytest.raises(HarnessError, match=rf"method '{method}' .* has 2\. Name another method in the space"):
        check_classes(digits_methods.SPACE.fixed({"method": method}), 2)
