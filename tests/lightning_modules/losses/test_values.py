"""Losses of numbers, worked by hand."""

from __future__ import annotations

import pytest
import torch

from lightning_modules.losses import bounded_regression_loss, value_loss

TARGETS = torch.tensor([[0.0], [0.0], [0.0]])
TEACHER = torch.tensor([[1.0], [1.0], [1.0]])  # a squared error of 1
STUDENT = torch.tensor([[0.5], [2.0], [0.95]])  # of 0.25, 4 and 0.9025


def test_the_value_loss_is_the_mean_squared_difference() -> None:
    assert float(value_loss(STUDENT, TEACHER)) == pytest.approx((0.25 + 1.0 + 0.0025) / 3)


@pytest.mark.parametrize(("margin", "counted"), [(0.0, [4.0]), (0.2, [4.0, 0.9025]), (0.8, [0.25, 4.0, 0.9025])])
def test_a_student_that_is_better_than_the_teacher_by_more_than_the_margin_gets_no_loss(
    margin: float, counted: list[float]
) -> None:
    found = bounded_regression_loss(STUDENT, TEACHER, TARGETS, margin=margin)
    assert float(found) == pytest.approx(sum(counted) / 3)


def test_no_gradient_flows_into_the_teacher() -> None:
    teacher, student = TEACHER.clone().requires_grad_(), STUDENT.clone().requires_grad_()
    (value_loss(student, teacher) + bounded_regression_loss(student, teacher, TARGETS, margin=0.2)).backward()
    assert teacher.grad is None and student.grad is not None


def test_other_shapes_and_a_negative_margin_are_refused() -> None:
    with pytest.raises(ValueError, match=r"teacher_values must have the student's shape \(B, V\), but got \(3,\)"):
        value_loss(STUDENT, TEACHER[:, 0])
    with pytest.raises(ValueError, match="margin must be at least 0, but got margin=-1"):
        bounded_regression_loss(STUDENT, TEACHER, TARGETS, margin=-1)
