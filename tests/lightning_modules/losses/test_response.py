"""The losses beside SciPy in float64, and beside numbers worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax, rel_entr, softmax
from torch import Tensor

from lightning_modules.losses import distillation_loss, hard_label_loss, soft_target_loss

Array = NDArray[np.float64]


def scipy_hard_loss(student: Array, labels: NDArray[np.int64]) -> float:
    return float(-log_softmax(student, axis=1)[np.arange(len(labels)), labels].mean())


def scipy_soft_loss(student: Array, teacher: Array, temperature: float) -> float:
    target, guess = softmax(teacher / temperature, axis=1), softmax(student / temperature, axis=1)
    return float(temperature**2 * rel_entr(target, guess).sum(axis=1).mean())


def scipy_gradient(
    student: Array, teacher: Array, labels: NDArray[np.int64], alpha: float, temperature: float
) -> Array:
    """By hand: alpha (softmax - onehot) / B + (1 - alpha) T (softmax(s/T) - softmax(t/T)) / B."""
    hard = softmax(student, axis=1) - np.eye(student.shape[1])[labels]
    soft = temperature * (softmax(student / temperature, axis=1) - softmax(teacher / temperature, axis=1))
    gradient: Array = (alpha * hard + (1 - alpha) * soft) / len(labels)
    return gradient


def batch(rows: int, classes: int, seed: int = 0) -> tuple[Array, Array, NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    return 3 * rng.normal(size=(rows, classes)), 5 * rng.normal(size=(rows, classes)), rng.integers(classes, size=rows)


def gradient_of(student: Array, teacher: Array, labels: NDArray[np.int64], alpha: float, temperature: float) -> Array:
    logits = torch.tensor(student, requires_grad=True)
    distillation_loss(
        logits, torch.tensor(teacher), torch.tensor(labels), alpha=alpha, temperature=temperature
    ).backward()
    assert logits.grad is not None
    return logits.grad.numpy()


@pytest.mark.parametrize(("rows", "classes"), [(1, 2), (1, 10), (7, 2), (16, 10)])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
def test_both_losses_agree_with_scipy(rows: int, classes: int, temperature: float) -> None:
    student, teacher, labels = batch(rows, classes)
    s, t, y = torch.tensor(student), torch.tensor(teacher), torch.tensor(labels)
    assert float(hard_label_loss(s, y)) == pytest.approx(scipy_hard_loss(student, labels), rel=1e-12)
    soft = scipy_soft_loss(student, teacher, temperature)
    assert float(soft_target_loss(s, t, temperature=temperature)) == pytest.approx(soft, rel=1e-10)


@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_the_gradient_is_the_one_derived_by_hand(alpha: float, temperature: float) -> None:
    student, teacher, labels = batch(6, 5)
    expected = scipy_gradient(student, teacher, labels, alpha, temperature)
    np.testing.assert_allclose(gradient_of(student, teacher, labels, alpha, temperature), expected, atol=1e-12)


def test_two_classes_give_the_number_worked_by_hand() -> None:
    # The teacher's odds are 3 to 1 after softening, the student's are even: KL = 3/4 ln(3/2) + 1/4 ln(1/2).
    divergence = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    student = torch.zeros(1, 2, dtype=torch.float64)
    for temperature in (1.0, 2.0, 5.0):
        teacher = torch.tensor([[temperature * math.log(3), 0.0]], dtype=torch.float64)
        loss = float(soft_target_loss(student, teacher, temperature=temperature))
        assert loss == pytest.approx(temperature**2 * divergence, rel=1e-12)


def test_the_soft_loss_is_summed_over_the_classes_and_not_averaged() -> None:
    # A certain teacher beside an even student: KL = ln C, whatever C is; a mean over classes would give ln(C) / C.
    for classes in (2, 10, 100):
        teacher = torch.zeros(3, classes, dtype=torch.float64)
        teacher[:, 1] = 1e3
        assert float(soft_target_loss(torch.zeros_like(teacher), teacher, temperature=1.0)) == pytest.approx(
            math.log(classes), rel=1e-12
        )


def test_repeating_a_batch_leaves_every_loss_as_it_was() -> None:
    student, teacher, labels = (torch.tensor(part) for part in batch(3, 4))
    once = distillation_loss(student, teacher, labels, alpha=0.3, temperature=2.0)
    again = distillation_loss(student.repeat(5, 1), teacher.repeat(5, 1), labels.repeat(5), alpha=0.3, temperature=2.0)
    assert float(again) == pytest.approx(float(once), rel=1e-12)


def test_a_student_that_equals_its_teacher_has_no_soft_loss_and_no_gradient() -> None:
    student, _, labels = batch(4, 6)
    gradient = gradient_of(student, student + 7.0, labels, alpha=0.0, temperature=3.0)  # softmax ignores the shift
    np.testing.assert_allclose(gradient, 0, atol=1e-15)
    loss = soft_target_loss(torch.tensor(student), torch.tensor(student + 7.0), temperature=3.0)
    assert float(loss) == pytest.approx(0, abs=1e-14)


def test_alpha_weighs_the_hard_labels() -> None:
    student, teacher, labels = batch(5, 3)
    s, t, y = torch.tensor(student), torch.tensor(teacher), torch.tensor(labels)
    hard, soft = scipy_hard_loss(student, labels), scipy_soft_loss(student, teacher, 4.0)
    for alpha in (0.0, 1e-9, 0.1, 0.5, 1 - 1e-9, 1.0):
        loss = float(distillation_loss(s, t, y, alpha=alpha, temperature=4.0))
        assert loss == pytest.approx(alpha * hard + (1 - alpha) * soft, rel=1e-10)
    assert float(distillation_loss(s, t, y, alpha=1.0, temperature=4.0)) == pytest.approx(hard, rel=1e-12)


def test_temperature_and_alpha_each_move_the_gradient() -> None:
    student, teacher, labels = batch(6, 5)
    base = gradient_of(student, teacher, labels, 0.3, 4.0)
    assert np.abs(gradient_of(student, teacher, labels, 0.3, 5.0) - base).max() > 1e-3
    assert np.abs(gradient_of(student, teacher, labels, 0.4, 4.0) - base).max() > 1e-3


def test_temperature_does_not_reach_the_hard_labels() -> None:
    student, teacher, labels = batch(6, 5)
    np.testing.assert_array_equal(
        gradient_of(student, teacher, labels, 1.0, 20.0), gradient_of(student, teacher, labels, 1.0, 1.0)
    )


def test_no_gradient_flows_into_the_teacher() -> None:
    student, teacher, labels = (torch.tensor(part) for part in batch(4, 3))
    student.requires_grad_()
    teacher.requires_grad_()
    distillation_loss(student, teacher, labels, alpha=0.2, temperature=2.0).backward()
    assert student.grad is not None and student.grad.abs().sum() > 0
    assert teacher.grad is None


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_huge_logits_give_the_finite_number_worked_by_hand(temperature: float) -> None:
    # Student and teacher are certain of opposite classes: KL = 20000 / T, times T^2; the cross-entropy is 20000.
    student = torch.tensor([[1e4, -1e4]])
    teacher, labels = torch.tensor([[-1e4, 1e4]]), torch.tensor([1])
    assert float(hard_label_loss(student, labels)) == pytest.approx(2e4)
    assert float(soft_target_loss(student, teacher, temperature=temperature)) == pytest.approx(2e4 * temperature)
    student.requires_grad_()
    distillation_loss(student, teacher, labels, alpha=0.5, temperature=temperature).backward()
    assert student.grad is not None
    # By hand: 1/2 (1, -1) of the hard labels and 1/2 T (1, -1) of the soft targets.
    np.testing.assert_allclose(student.grad, np.array([[1.0, -1.0]]) * (1 + temperature) / 2, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_worked_out_in_fp32(dtype: torch.dtype) -> None:
    student, teacher, labels = batch(8, 10)
    s, t, y = torch.tensor(student).to(dtype), torch.tensor(teacher).to(dtype), torch.tensor(labels)
    loss = distillation_loss(s, t, y, alpha=0.4, temperature=4.0)
    wide_s, wide_t = s.double().numpy(), t.double().numpy()
    expected = 0.4 * scipy_hard_loss(wide_s, labels) + 0.6 * scipy_soft_loss(wide_s, wide_t, 4.0)
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(expected, rel=2e-6)


@pytest.mark.parametrize(
    ("student", "teacher"), [((4, 3), (4, 2)), ((4, 3), (1, 3)), ((3,), (3,)), ((2, 3, 4), (2, 3, 4))]
)
def test_logits_of_wrong_shapes_are_named_in_the_error(student: tuple[int, ...], teacher: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"must have the same shape \(B, C\)") as caught:
        soft_target_loss(torch.zeros(student), torch.zeros(teacher), temperature=1.0)
    assert str(student) in str(caught.value) and str(teacher) in str(caught.value)


@pytest.mark.parametrize("labels", [torch.zeros(3, dtype=torch.long), torch.zeros(4, 1, dtype=torch.long)])
def test_labels_of_a_wrong_shape_are_named_in_the_error(labels: Tensor) -> None:
    with pytest.raises(ValueError, match="one class index for each row") as caught:
        hard_label_loss(torch.zeros(4, 2), labels)
    assert str(tuple(labels.shape)) in str(caught.value)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_a_temperature_that_is_not_positive_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match=f"temperature must be positive, but got temperature={temperature}"):
        soft_target_loss(torch.zeros(1, 2), torch.zeros(1, 2), temperature=temperature)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, math.nan])
def test_an_alpha_outside_its_range_is_refused(alpha: float) -> None:
    logits, labels = torch.zeros(1, 2), torch.zeros(1, dtype=torch.long)
    with pytest.raises(ValueError, match=rf"alpha must lie in \[0, 1\], but got alpha={alpha}"):
        distillation_loss(logits, logits, labels, alpha=alpha, temperature=1.0)
