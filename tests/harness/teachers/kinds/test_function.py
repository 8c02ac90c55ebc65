"""A function teaches: it is called once for every sample, and known by the name that it is given."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from grounds import clusters, ground, outputs

from harness.core.errors import HarnessError
from harness.teachers import FunctionTeacher

DATA = clusters()


def test_each_sample_is_asked_about_once() -> None:
    calls: list[int] = []

    def ask(inputs: torch.Tensor) -> torch.Tensor:
        calls.append(len(inputs))
        return inputs[:, :3] * 2

    found = outputs(FunctionTeacher(ask, digest="doubler, 1"), ground(DATA))
    assert sum(calls) == 45 + 15
    for split, logits in found.items():
        inputs = DATA.splits[split].inputs
        assert isinstance(inputs, torch.Tensor)
        torch.testing.assert_close(logits, inputs[:, :3] * 2)


def test_its_name_is_its_identity_and_it_is_not_called_for_it() -> None:
    def never(inputs: Any) -> Any:
        raise AssertionError

    def digest(name: str, **more: Any) -> str:
        teacher = FunctionTeacher(never, digest=name, **more)
        teacher.prepare(ground(DATA))
        assert teacher.network() is None
        return teacher.start(DATA).digest

    assert digest("a") == digest("a") != digest("b")
    assert digest("a") != digest("a", kind="probabilities")


@pytest.mark.parametrize("give", [np.asarray, np.ndarray.tolist, torch.from_numpy])
def test_probabilities_come_in_any_container(give: Any) -> None:
    def ask(inputs: Any) -> Any:
        return give(np.tile([0.7, 0.3, 0.0], (len(inputs), 1)))

    teacher = FunctionTeacher(ask, digest="constant", kind="probabilities", inputs=lambda inputs: inputs.numpy())
    found = outputs(teacher, ground(DATA))["val"][0]
    torch.testing.assert_close(found, torch.tensor([math.log(0.7), math.log(0.3), math.log(1e-6)]))
    assert teacher.floored == 60


def test_labels_are_class_indices() -> None:
    teacher = FunctionTeacher(lambda inputs: [2] * len(inputs), digest="always cats", kind="labels")
    assert outputs(teacher, ground(DATA))["val"].argmax(1).unique().tolist() == [2]


@pytest.mark.parametrize(
    ("answer", "kind", "told"),
    [
        (lambda inputs: "text", "logits", "must return a tensor, an array or lists of numbers, but returns a str"),
        (lambda inputs: inputs[:, :2], "logits", r"one row of 3 numbers each, .* but gives shape \(10, 2\)"),
        (lambda inputs: inputs[:5, :3], "logits", r"must answer 10 samples with shape \(10, 3\), but gives shape"),
        (lambda inputs: inputs[:, :3], "probabilities", "negative numbers among .* of train sample"),
        (lambda inputs: [3] * len(inputs), "labels", "as many class indices below 3"),
    ],
)
def test_answers_that_do_not_fit_are_refused_at_the_first_batch(answer: Any, kind: str, told: str) -> None:
    calls: list[int] = []

    def ask(inputs: Any) -> Any:
        calls.append(len(inputs))
        return answer(inputs)

    with pytest.raises(HarnessError, match=told):
        outputs(FunctionTeacher(ask, digest="some", kind=kind), ground(DATA))
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"function": 3, "digest": "a"}, "must get a function"),
        ({"function": len, "digest": " "}, "digest must name what answers"),
        ({"function": len, "digest": "a", "kind": "top_k"}, "kind must be one of"),
    ],
)
def test_wrong_arguments_are_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        FunctionTeacher(**given)
