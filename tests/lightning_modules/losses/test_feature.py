"""Losses of features beside loops in float64, and beside numbers worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lightning_modules.losses import attention_transfer_loss, hint_loss

Array = NDArray[np.float64]


def loop_hint_loss(student: Array, teacher: Array) -> float:
    differences = [(s - t) ** 2 for s, t in zip(student.ravel(), teacher.ravel(), strict=True)]
    return sum(differences) / len(differences)


def loop_attention_loss(student: Array, teacher: Array) -> float:
    total = 0.0
    for maps in zip(student, teacher, strict=True):
        attentions = []
        for sample in maps:
            channels, height, width = sample.shape
            places = [
                sum(sample[c, h, w] ** 2 for c in range(channels)) / channels
                for h in range(height)
                for w in range(width)
            ]
            length = math.sqrt(sum(place**2 for place in places))
            attentions.append([place / length for place in places])
        total += sum((a - b) ** 2 for a, b in zip(*attentions, strict=True)) / len(attentions[0])
    return total / len(student)


def maps(*shape: int, seed: int = 0) -> Array:
    drawn: Array = np.random.default_rng(seed).normal(size=shape)
    return drawn


@pytest.mark.parametrize("shape", [(1, 1), (4, 7), (3, 2, 4, 5)])
def test_the_hint_loss_agrees_with_a_loop(shape: tuple[int, ...]) -> None:
    student, teacher = maps(*shape), 3 * maps(*shape, seed=1)
    loss = float(hint_loss(torch.tensor(student), torch.tensor(teacher)))
    assert loss == pytest.approx(loop_hint_loss(student, teacher), rel=1e-12)


def test_the_hint_loss_is_worked_by_hand() -> None:
    student, teacher = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 0.0], [0.0, 4.0]])
    assert float(hint_loss(student, teacher)) == pytest.approx((2**2 + 3**2) / 4)


@pytest.mark.parametrize(
    ("student", "teacher"), [((1, 1, 1, 1), (1, 4, 1, 1)), ((2, 3, 4, 5), (2, 3, 4, 5)), ((3, 2, 5, 2), (3, 8, 5, 2))]
)
def test_attention_transfer_agrees_with_a_loop(student: tuple[int, ...], teacher: tuple[int, ...]) -> None:
    s, t = maps(*student), 3 * maps(*teacher, seed=1)
    loss = float(attention_transfer_loss(torch.tensor(s), torch.tensor(t)))
    assert loss == pytest.approx(loop_attention_loss(s, t), rel=1e-12, abs=1e-15)


def test_attention_transfer_is_worked_by_hand() -> None:
    # The student looks at both places alike, (1, 1) / √2, the teacher at the first alone.
    student, teacher = torch.tensor([[[[2.0, -2.0]]]]), torch.tensor([[[[5.0, 0.0]], [[-1.0, 0.0]]]])
    expected = ((1 - math.sqrt(0.5)) ** 2 + 0.5) / 2
    assert float(attention_transfer_loss(student, teacher)) == pytest.approx(expected)


def test_attention_ignores_scale_and_signs_of_activations() -> None:
    student, teacher = torch.tensor(maps(2, 3, 4, 4)), torch.tensor(maps(2, 5, 4, 4, seed=1))
    loss = float(attention_transfer_loss(student, teacher))
    assert float(attention_transfer_loss(-20 * student, teacher.abs() / 7)) == pytest.approx(loss, rel=1e-12)


def test_a_zero_map_has_no_attention_and_no_gradient() -> None:
    student, teacher = torch.zeros(2, 3, 4, 4, requires_grad=True), torch.tensor(maps(2, 5, 4, 4))
    loss = attention_transfer_loss(student, teacher)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(1 / 16)  # a vector of length 1 from zero, over 16 places
    assert student.grad is not None and not student.grad.any()


@pytest.mark.parametrize(("student", "teacher"), [((4, 3), (4, 5)), ((4, 3), (1, 3)), ((2, 3, 4), (2, 4, 3))])
def test_hints_of_different_shapes_are_refused(student: tuple[int, ...], teacher: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must have the same shape") as caught:
        hint_loss(torch.zeros(student), torch.zeros(teacher))
    assert str(student) in str(caught.value) and str(teacher) in str(caught.value)


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ((2, 3, 4, 4), (2, 3, 4, 5)),
        ((2, 3, 4, 4), (2, 3, 2, 4)),
        ((2, 3, 4, 4), (1, 3, 4, 4)),
        ((2, 3, 4), (2, 3, 4)),
        ((2, 3, 4, 4, 4), (2, 3, 4, 4, 4)),
    ],
)
def test_maps_of_different_sizes_are_refused(student: tuple[int, ...], teacher: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"must have shape \(B, C, H, W\) and may differ in C alone") as caught:
        attention_transfer_loss(torch.zeros(student), torch.zeros(teacher))
    assert str(student) in str(caught.value) and str(teacher) in str(caught.value)
