"""Losses of logits beside SciPy in float64, and beside numbers worked by hand."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.special import log_softmax, rel_entr, softmax
from scipy.stats import pearsonr
from torch import Tensor

from lightning_modules import losses
from lightning_modules.losses import (
    correlation_loss,
    decoupled_loss,
    distillation_loss,
    hard_label_loss,
    response,
    self_distillation_loss,
    smoothed_label_loss,
    soft_target_loss,
    standardized_soft_target_loss,
)

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


def test_repeating_a_batch_does_not_change_any_loss() -> None:
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


def test_temperature_and_alpha_each_change_the_gradient() -> None:
    student, teacher, labels = batch(6, 5)
    base = gradient_of(student, teacher, labels, 0.3, 4.0)
    assert np.abs(gradient_of(student, teacher, labels, 0.3, 5.0) - base).max() > 1e-3
    assert np.abs(gradient_of(student, teacher, labels, 0.4, 4.0) - base).max() > 1e-3


def test_temperature_does_not_change_the_hard_label_loss() -> None:
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
def test_half_precision_logits_are_computed_in_fp32(dtype: torch.dtype) -> None:
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


def cross_entropy(student: Array, targets: Array) -> float:
    rows = [
        -sum(q * lp for q, lp in zip(*pair, strict=True))
        for pair in zip(targets, log_softmax(student, axis=1), strict=True)
    ]
    return float(np.mean(rows))


def loop_decoupled_loss(
    student: Array, teacher: Array, labels: NDArray[np.int64], temperature: float, alpha: float, beta: float
) -> float:
    total = 0.0
    for z_s, z_t, y in zip(student, teacher, labels, strict=True):
        p_s, p_t = softmax(z_s / temperature), softmax(z_t / temperature)
        rest_s, rest_t = np.delete(p_s, y), np.delete(p_t, y)
        target = rel_entr([p_t[y], rest_t.sum()], [p_s[y], rest_s.sum()]).sum()
        non_target = rel_entr(rest_t / rest_t.sum(), rest_s / rest_s.sum()).sum()
        total += temperature**2 * (alpha * target + beta * non_target)
    return total / len(student)


def scipy_correlation_loss(student: Array, teacher: Array, temperature: float, beta: float, gamma: float) -> float:
    p, q = softmax(student / temperature, axis=1), softmax(teacher / temperature, axis=1)
    inter = np.mean([1 - pearsonr(p[b], q[b]).statistic for b in range(len(p))])
    intra = np.mean([1 - pearsonr(p[:, c], q[:, c]).statistic for c in range(p.shape[1])])
    return float(temperature**2 * (beta * inter + gamma * intra))


def standardized(logits: Array) -> Array:
    rows: Array = np.array([(row - row.mean()) / row.std(ddof=1) for row in logits])
    return rows


@pytest.mark.parametrize(("rows", "classes"), [(1, 2), (7, 3), (16, 10)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_smoothed_labels_agree_with_a_loop(rows: int, classes: int, smoothing: float) -> None:
    student, _, labels = batch(rows, classes)
    targets = (1 - smoothing) * np.eye(classes)[labels] + smoothing / classes
    loss = float(smoothed_label_loss(torch.tensor(student), torch.tensor(labels), smoothing=smoothing))
    assert loss == pytest.approx(cross_entropy(student, targets), rel=1e-12)


def test_smoothing_is_worked_by_hand() -> None:
    # Odds 3 to 1 for the label, and a third is smoothed over two classes: 5/6 ln(4/3) + 1/6 ln 4.
    student = torch.tensor([[math.log(3), 0.0]], dtype=torch.float64)
    loss = float(smoothed_label_loss(student, torch.tensor([0]), smoothing=1 / 3))
    assert loss == pytest.approx(5 / 6 * math.log(4 / 3) + 1 / 6 * math.log(4), rel=1e-12)


@pytest.mark.parametrize(("rows", "classes"), [(1, 2), (7, 3), (16, 10)])
@pytest.mark.parametrize("trust", [0.0, 0.3, 1.0])
def test_self_distillation_and_its_gradient_agree_with_the_written_out_target(
    rows: int, classes: int, trust: float
) -> None:
    student, earlier, labels = batch(rows, classes)
    targets = (1 - trust) * np.eye(classes)[labels] + trust * softmax(earlier, axis=1)
    logits = torch.tensor(student, requires_grad=True)
    loss = self_distillation_loss(logits, torch.tensor(earlier), torch.tensor(labels), trust=trust)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(cross_entropy(student, targets), rel=1e-12)
    assert logits.grad is not None
    np.testing.assert_allclose(logits.grad, (softmax(student, axis=1) - targets) / rows, atol=1e-14)


@pytest.mark.parametrize(("rows", "classes"), [(1, 3), (7, 4), (16, 10)])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("weights", [(1.0, 8.0), (0.0, 1.0), (1.0, 0.0), (0.5, 2.0)])
def test_the_decoupled_loss_agrees_with_a_loop(
    rows: int, classes: int, temperature: float, weights: tuple[float, float]
) -> None:
    student, teacher, labels = batch(rows, classes)
    loss = decoupled_loss(
        torch.tensor(student),
        torch.tensor(teacher),
        torch.tensor(labels),
        temperature=temperature,
        target_weight=weights[0],
        non_target_weight=weights[1],
    )
    expected = loop_decoupled_loss(student, teacher, labels, temperature, *weights)
    assert float(loss) == pytest.approx(expected, rel=1e-9)


def test_decoupled_with_the_weight_that_hinton_implies_is_the_soft_target_loss() -> None:
    student, teacher, labels = batch(1, 6)
    rest = 1 - softmax(teacher[0] / 3.0)[labels[0]]
    s, t, y = torch.tensor(student), torch.tensor(teacher), torch.tensor(labels)
    loss = decoupled_loss(s, t, y, temperature=3.0, target_weight=1.0, non_target_weight=float(rest))
    assert float(loss) == pytest.approx(scipy_soft_loss(student, teacher, 3.0), rel=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_a_confident_teacher_still_ranks_the_other_classes(temperature: float) -> None:
    # log(softmax) of the rest would be log 0. Both rests, by hand, are certain of opposite classes: 1e4 / T each.
    teacher = torch.tensor([[1e4, 0.0, -1e4]])
    student = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    loss = decoupled_loss(
        student, teacher, torch.tensor([0]), temperature=temperature, target_weight=1.0, non_target_weight=2.0
    )
    loss.backward()
    assert float(loss.detach()) == pytest.approx(2 * temperature * 1e4)
    assert student.grad is not None
    np.testing.assert_allclose(student.grad, 2 * temperature * np.array([[0.0, -1.0, 1.0]]), rtol=1e-6)


@pytest.mark.parametrize("classes", [1, 2])
def test_the_decoupled_loss_refuses_two_classes(classes: int) -> None:
    logits = torch.zeros(4, classes)
    with pytest.raises(ValueError, match="at least 3 classes") as caught:
        decoupled_loss(
            logits, logits, torch.zeros(4, dtype=torch.long), temperature=1.0, target_weight=1.0, non_target_weight=1.0
        )
    assert str((4, classes)) in str(caught.value)


@pytest.mark.parametrize(("rows", "classes"), [(2, 2), (7, 3), (16, 10)])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.0, 1.0), (2.0, 3.0)])
@pytest.mark.filterwarnings("ignore:An input array is nearly constant")
def test_the_correlation_loss_agrees_with_scipy(
    rows: int, classes: int, temperature: float, weights: tuple[float, float]
) -> None:
    student, teacher, _ = batch(rows, classes)
    loss = correlation_loss(
        torch.tensor(student),
        torch.tensor(teacher),
        temperature=temperature,
        inter_weight=weights[0],
        intra_weight=weights[1],
    )
    expected = scipy_correlation_loss(student, teacher, temperature, *weights)
    assert float(loss) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_a_class_of_tiny_probability_correlates_in_fp32() -> None:
    # Its probabilities are near 1e-30, whose squares vanish in fp32.
    student, teacher, _ = batch(8, 4)
    student, teacher = student.astype(np.float32).astype(float), teacher.astype(np.float32).astype(float)
    student[:, 2] -= 64
    loss = correlation_loss(
        torch.tensor(student, dtype=torch.float32),
        torch.tensor(teacher, dtype=torch.float32),
        temperature=1.0,
        inter_weight=0.0,
        intra_weight=1.0,
    )
    assert float(loss) == pytest.approx(scipy_correlation_loss(student, teacher, 1.0, 0.0, 1.0), rel=1e-5)


def test_constant_rows_and_columns_have_correlation_0_and_no_gradient() -> None:
    _, teacher, _ = batch(5, 10)
    for student in (torch.zeros(5, 10), torch.full((5, 10), 0.7)):
        student[::2].nextafter_(torch.ones(()))  # a last bit is no variance
        student.requires_grad_()
        loss = correlation_loss(student, torch.tensor(teacher), temperature=2.0, inter_weight=2.0, intra_weight=3.0)
        loss.backward()
        assert float(loss.detach()) == pytest.approx(4 * (2 + 3))
        assert student.grad is not None and not student.grad.any()


def test_one_sample_has_no_intra_class_relation() -> None:
    student, teacher, _ = batch(1, 6)
    s, t = torch.tensor(student), torch.tensor(teacher)
    inter, both = (
        float(correlation_loss(s, t, temperature=2.0, inter_weight=1.0, intra_weight=weight)) for weight in (0.0, 1.0)
    )
    p, q = softmax(student[0] / 2), softmax(teacher[0] / 2)
    assert inter == pytest.approx(4 * (1 - pearsonr(p, q).statistic), rel=1e-12)
    assert both - inter == pytest.approx(4)


@pytest.mark.parametrize(("rows", "classes"), [(1, 2), (7, 3), (16, 10)])
@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_standardized_soft_targets_agree_with_scipy(rows: int, classes: int, temperature: float) -> None:
    student, teacher, _ = batch(rows, classes)
    loss = float(standardized_soft_target_loss(torch.tensor(student), torch.tensor(teacher), temperature=temperature))
    expected = scipy_soft_loss(standardized(student), standardized(teacher), temperature)
    assert loss == pytest.approx(expected, rel=1e-10, abs=1e-15)


def test_standardized_soft_targets_ignore_scale_and_mean_of_logits() -> None:
    student, teacher, _ = batch(4, 6)
    s, t = torch.tensor(student), torch.tensor(teacher)
    loss = float(standardized_soft_target_loss(s, t, temperature=2.0))
    assert float(standardized_soft_target_loss(30 * s - 7, t / 50 + 2, temperature=2.0)) == pytest.approx(loss)
    assert float(standardized_soft_target_loss(-s, t, temperature=2.0)) != pytest.approx(loss)


def test_a_constant_row_is_standardized_to_a_uniform_prediction_without_gradient() -> None:
    _, teacher, _ = batch(3, 10)
    student = torch.full((3, 10), 0.1)  # whose mean in fp32 is not 0.1
    student[1, ::2] = student[1, ::2].nextafter(torch.ones(()))
    student.requires_grad_()
    loss = standardized_soft_target_loss(student, torch.tensor(teacher), temperature=2.0)
    loss.backward()
    expected = scipy_soft_loss(np.zeros((3, 10)), standardized(teacher), 2.0)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-6)
    assert student.grad is not None and not student.grad.any()


OF_LOGITS = [loss for name, loss in vars(response).items() if name in losses.__all__]
KNOBS: dict[Callable[..., Tensor], dict[str, tuple[float, float]]] = {
    soft_target_loss: {"temperature": (2.0, 3.0)},
    distillation_loss: {"alpha": (0.3, 0.4), "temperature": (2.0, 3.0)},
    smoothed_label_loss: {"smoothing": (0.1, 0.2)},
    self_distillation_loss: {"trust": (0.3, 0.4)},
    decoupled_loss: {"temperature": (2.0, 3.0), "target_weight": (1.0, 2.0), "non_target_weight": (4.0, 5.0)},
    correlation_loss: {"temperature": (2.0, 3.0), "inter_weight": (1.0, 2.0), "intra_weight": (1.0, 2.0)},
    standardized_soft_target_loss: {"temperature": (2.0, 3.0)},
}


def test_every_parameter_of_every_loss_of_logits_is_tested_below() -> None:
    given = {loss: inspect.signature(loss).parameters.values() for loss in OF_LOGITS}
    knobs = {loss: {one.name for one in given[loss] if one.kind == one.KEYWORD_ONLY} for loss in OF_LOGITS}
    tested = {loss: set(values) for loss, values in KNOBS.items()}
    assert tested == {loss: names for loss, names in knobs.items() if names}


@pytest.mark.parametrize(
    ("loss", "knob"),
    [(loss, knob) for loss, knobs in KNOBS.items() for knob in knobs],
    ids=lambda it: getattr(it, "__name__", it),
)
def test_every_parameter_changes_the_gradient(loss: Callable[..., Tensor], knob: str) -> None:
    student, teacher, labels = (torch.tensor(part) for part in batch(6, 5))
    inputs = {"student_logits": student, "teacher_logits": teacher, "earlier_logits": teacher, "labels": labels}
    gradients = []
    for moved in (False, True):
        values = {name: values[moved and name == knob] for name, values in KNOBS[loss].items()}
        logits = student.clone().requires_grad_()
        wanted = {name: inputs[name] for name in inspect.signature(loss).parameters if name in inputs}
        loss(**{**wanted, "student_logits": logits}, **values).backward()
        gradients.append(logits.grad)
    assert (gradients[0] - gradients[1]).abs().max() > 1e-3


def refused(match: str, loss: Callable[..., Tensor], *inputs: Tensor, **values: float) -> str:
    with pytest.raises(ValueError, match=match) as caught:
        loss(*inputs, **values)
    return str(caught.value)


@pytest.mark.parametrize(
    ("student", "teacher"), [((4, 3), (4, 4)), ((4, 3), (1, 3)), ((3,), (3,)), ((2, 3, 4), (2, 3, 4))]
)
def test_every_pair_of_logits_must_have_one_shape(student: tuple[int, ...], teacher: tuple[int, ...]) -> None:
    s, t, y = torch.zeros(student), torch.zeros(teacher), torch.zeros(student[0], dtype=torch.long)
    same = r"must have the same shape \(B, C\)"
    messages = [
        refused("earlier_logits " + same, self_distillation_loss, s, t, y, trust=0.5),
        refused(same, decoupled_loss, s, t, y, temperature=1.0, target_weight=1.0, non_target_weight=1.0),
        refused(same, correlation_loss, s, t, temperature=1.0, inter_weight=1.0, intra_weight=1.0),
        refused(same, standardized_soft_target_loss, s, t, temperature=1.0),
    ]
    assert all(str(student) in message and str(teacher) in message for message in messages)


def test_every_loss_with_labels_needs_one_for_each_row() -> None:
    s, y = torch.zeros(4, 3), torch.zeros(3, dtype=torch.long)
    one = "one class index for each row"
    messages = [
        refused(one, smoothed_label_loss, s, y, smoothing=0.1),
        refused(one, self_distillation_loss, s, s, y, trust=0.5),
        refused(one, decoupled_loss, s, s, y, temperature=1.0, target_weight=1.0, non_target_weight=1.0),
    ]
    assert all("(3,)" in message and "(4, 3)" in message for message in messages)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, math.nan])
def test_a_smoothing_outside_its_range_is_refused(smoothing: float) -> None:
    match = rf"smoothing must lie in \[0, 1\), but got smoothing={smoothing}"
    refused(match, smoothed_label_loss, torch.zeros(1, 2), torch.zeros(1, dtype=torch.long), smoothing=smoothing)


@pytest.mark.parametrize("trust", [-0.1, 1.1, math.nan])
def test_a_trust_outside_its_range_is_refused(trust: float) -> None:
    logits, labels = torch.zeros(1, 2), torch.zeros(1, dtype=torch.long)
    match = rf"trust must lie in \[0, 1\], but got trust={trust}"
    refused(match, self_distillation_loss, logits, logits, labels, trust=trust)


@pytest.mark.parametrize("bad", [-0.5, math.nan])
@pytest.mark.parametrize("name", ["target_weight", "non_target_weight", "inter_weight", "intra_weight", "temperature"])
def test_a_negative_weight_or_temperature_is_refused(name: str, bad: float) -> None:
    logits, labels = torch.zeros(2, 3), torch.zeros(2, dtype=torch.long)
    match = f"{name} must be (at least 0|positive), but got {name}={bad}"
    decoupled = {"temperature": 1.0, "target_weight": 1.0, "non_target_weight": 1.0}
    correlation = {"temperature": 1.0, "inter_weight": 1.0, "intra_weight": 1.0}
    if name in decoupled:
        refused(match, decoupled_loss, logits, logits, labels, **{**decoupled, name: bad})
    if name in correlation:
        refused(match, correlation_loss, logits, logits, **{**correlation, name: bad})
    if name == "temperature":
        refused(match, standardized_soft_target_loss, logits, logits, temperature=bad)


def test_a_hard_loss_with_probabilities_is_the_weighted_mean_over_the_classes() -> None:
    logits = torch.tensor([[1.0, -0.5, 2.0], [0.0, 3.0, -math.inf]])
    targets = torch.tensor([[0.7, 0.3, 0.0], [0.25, 0.75, 0.0]])
    by_class = [hard_label_loss(logits[[row]], torch.tensor([label])) for row in (0, 1) for label in (0, 1)]
    expected = (0.7 * by_class[0] + 0.3 * by_class[1] + 0.25 * by_class[2] + 0.75 * by_class[3]) / 2
    torch.testing.assert_close(hard_label_loss(logits, targets), expected)
    soft = F.cross_entropy(logits[:1], targets[:1], label_smoothing=0.2)
    torch.testing.assert_close(smoothed_label_loss(logits[:1], targets[:1], smoothing=0.2), soft)
    with pytest.raises(ValueError, match="a probability for each of student_logits"):
        hard_label_loss(logits, targets[:, :2])
