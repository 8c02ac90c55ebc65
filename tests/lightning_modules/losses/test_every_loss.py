"""What holds for every loss: its gradient, its precision, its extremes, and a teacher that learns nothing."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lightning_modules import losses

Loss = Callable[[Tensor, Tensor], Tensor]
"""Of what the student says and what the teacher says."""


def labels_of(student: Tensor) -> Tensor:
    return torch.arange(len(student)) % student.shape[1]


OF_LABELS: dict[str, Loss] = {
    "hard_label_loss": lambda s, _: losses.hard_label_loss(s, labels_of(s)),
    "smoothed_label_loss": lambda s, _: losses.smoothed_label_loss(s, labels_of(s), smoothing=0.2),
}
OF_LOGITS: dict[str, Loss] = {
    "soft_target_loss": lambda s, t: losses.soft_target_loss(s, t, temperature=4.0),
    "distillation_loss": lambda s, t: losses.distillation_loss(s, t, labels_of(s), alpha=0.3, temperature=4.0),
    "self_distillation_loss": lambda s, t: losses.self_distillation_loss(s, t, labels_of(s), trust=0.6),
    "decoupled_loss": lambda s, t: losses.decoupled_loss(
        s, t, labels_of(s), temperature=4.0, target_weight=1.0, non_target_weight=8.0
    ),
    "correlation_loss": lambda s, t: losses.correlation_loss(s, t, temperature=4.0, inter_weight=2.0, intra_weight=3.0),
    "standardized_soft_target_loss": lambda s, t: losses.standardized_soft_target_loss(s, t, temperature=2.0),
    "generalized_jsd_loss": lambda s, t: losses.generalized_jsd_loss(s, t, beta=0.3, temperature=4.0),
    "skewed_kl_loss": lambda s, t: losses.skewed_kl_loss(s, t, skew=0.1, temperature=4.0),
}
OF_MAPS: dict[str, Loss] = {"attention_transfer_loss": losses.attention_transfer_loss}
OF_FEATURES: dict[str, Loss] = {
    "hint_loss": losses.hint_loss,
    "distance_relation_loss": losses.distance_relation_loss,
    "angle_relation_loss": losses.angle_relation_loss,
    "similarity_preserving_loss": losses.similarity_preserving_loss,
    "probabilistic_transfer_loss": losses.probabilistic_transfer_loss,
    # Negatives are the teacher's embeddings of the whole batch, in two copies.
    "contrastive_representation_loss": lambda s, t: losses.contrastive_representation_loss(
        s, t, t.repeat(2, 1).expand(len(t), -1, -1), temperature=0.1, samples=50
    ),
}
OF_VALUES: dict[str, Loss] = {
    "value_loss": losses.value_loss,
    "bounded_regression_loss": lambda s, t: losses.bounded_regression_loss(s, t, torch.zeros_like(s), margin=100.0),
}
WITH_TEACHER = OF_LOGITS | OF_MAPS | OF_FEATURES | OF_VALUES
EVERY = OF_LABELS | WITH_TEACHER
ZERO_WHERE_EQUAL = set(WITH_TEACHER) - {
    "distillation_loss",
    "self_distillation_loss",
    "contrastive_representation_loss",
    "bounded_regression_loss",
}


def shape_of(name: str, rows: int, width: int) -> tuple[int, ...]:
    return (rows, 3, width, 2) if name in OF_MAPS else (rows, width)


def sides(name: str, rows: int = 4, width: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, *shape_of(name, rows, width), generator=generator, dtype=torch.float64)
    return 2 * student, 3 * teacher


def loss_and_gradient(name: str, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    student = student.clone().requires_grad_()
    loss = EVERY[name](student, teacher)
    loss.backward()
    assert student.grad is not None
    return loss.detach(), student.grad


def extremes(shape: tuple[int, ...]) -> dict[str, tuple[Tensor, Tensor]]:
    """Sides whose norms, variances, probabilities or differences vanish or are huge."""
    generator = torch.Generator().manual_seed(1)
    signs = torch.randn(2, *shape, generator=generator).sign()
    student, teacher = torch.randn(2, *shape, generator=generator)
    alternating = torch.ones(shape)
    alternating[::2] = -1
    return {
        "huge": (1e4 * signs[0], 1e4 * signs[1]),
        "huge and alike": (1e4 * signs[0], 1e4 * signs[0]),
        "huge and opposite": (1e4 * signs[0], -1e4 * signs[0]),
        "huge student": (1e4 * student, teacher),
        "huge teacher": (student, 1e4 * teacher),
        "zero student": (torch.zeros(shape), teacher),
        "zero teacher": (student, torch.zeros(shape)),
        "zero": (torch.zeros(shape), torch.zeros(shape)),
        "student of equal rows": (student[:1].expand(shape).clone(), teacher),
        "teacher of equal rows": (student, teacher[:1].expand(shape).clone()),
        "equal rows": (student[:1].expand(shape).clone(), teacher[:1].expand(shape).clone()),
        "student of equal entries": (torch.full(shape, 0.1), teacher),
        "teacher of equal entries": (student, torch.full(shape, 0.1)),
        "opposite rows": (alternating * student[:1], teacher),
        "opposite rows of both": (alternating * student[:1], alternating * teacher[:1]),
        "one row of zeros": (student * torch.arange(shape[0]).sign().view(-1, *[1] * (len(shape) - 1)), teacher),
        "identical": (student, student),
    }


def test_every_public_loss_is_tested_here() -> None:
    assert set(EVERY) == set(losses.__all__)
    assert all(getattr(losses, name).__name__ == name for name in losses.__all__)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize(("rows", "width"), [(1, 4), (3, 3), (4, 6)])
def test_the_gradient_is_that_of_finite_differences(name: str, rows: int, width: int) -> None:
    student, teacher = sides(name, rows, width)
    assert torch.autograd.gradcheck(lambda s: EVERY[name](s, teacher), student.requires_grad_())


@pytest.mark.parametrize("name", EVERY)
def test_the_student_gets_a_gradient(name: str) -> None:
    _, gradient = loss_and_gradient(name, *sides(name))
    assert (gradient.flatten(1).norm(dim=1) > 1e-6).all()  # each sample's


# The contrastive loss is of embeddings that are learned on both sides.
@pytest.mark.parametrize("name", sorted(set(WITH_TEACHER) - {"contrastive_representation_loss"}))
def test_no_gradient_flows_into_the_teacher(name: str) -> None:
    student, teacher = (side.requires_grad_() for side in sides(name))
    WITH_TEACHER[name](student, teacher).backward()
    assert student.grad is not None and teacher.grad is None


@pytest.mark.parametrize("name", sorted(ZERO_WHERE_EQUAL))
@pytest.mark.parametrize(("rows", "width"), [(3, 3), (5, 7)])
def test_a_student_that_equals_its_teacher_has_no_loss_and_no_gradient(name: str, rows: int, width: int) -> None:
    student, teacher = sides(name, rows, width)
    loss, gradient = loss_and_gradient(name, teacher, teacher)
    assert abs(float(loss)) < 1e-13
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-13)
    assert float(WITH_TEACHER[name](student, teacher)) > 1e-3  # another has one


# The square of an extreme number is infinite.
@pytest.mark.parametrize("name", [name for name in EVERY if name not in OF_VALUES])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_loss_and_gradient_are_finite_at_extremes(name: str, dtype: torch.dtype) -> None:
    for rows, width in [(1, 2), (1, 5), (2, 2), (6, 2), (5, 7)]:
        if name == "decoupled_loss":
            width = max(width, 3)  # it is undefined for two classes
        for extreme, (student, teacher) in extremes(shape_of(name, rows, width)).items():
            loss, gradient = loss_and_gradient(name, student.to(dtype), teacher.to(dtype))
            value, largest = float(loss), float(gradient.abs().max())
            assert math.isfinite(value) and value >= -1e-5, (extreme, rows, width, value)
            # Nothing is divided by what is only rounding; hint_loss's gradient is rightly 2 · 2e4 / (B D).
            assert largest <= (2e4 if name == "hint_loss" else 2e2), (extreme, rows, width, largest)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_inputs_are_computed_in_fp32(name: str, dtype: torch.dtype) -> None:
    student, teacher = (side.to(dtype) for side in sides(name))
    loss = EVERY[name](student, teacher)
    assert loss.dtype == torch.float32
    assert float(loss) == float(EVERY[name](student.float(), teacher.float()))
    assert float(loss) == pytest.approx(float(EVERY[name](student.double(), teacher.double())), rel=1e-5)


@pytest.mark.parametrize("name", EVERY)
def test_autocast_does_not_lower_the_precision(name: str) -> None:
    student, teacher = (side.float() for side in sides(name))
    expected, gradient = loss_and_gradient(name, student, teacher)
    student.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = EVERY[name](student, teacher)
    loss.backward()
    assert float(loss.detach()) == float(expected)
    torch.testing.assert_close(student.grad, gradient, rtol=0, atol=0)


@pytest.mark.parametrize("name", sorted(set(EVERY) - set(OF_MAPS)))
def test_the_order_of_the_batch_does_not_matter(name: str) -> None:
    student, teacher = sides(name, rows=5, width=5)
    order = torch.tensor([3, 0, 4, 2, 1])
    loss = EVERY[name](student, teacher)
    # Labels are by position, so classes move along with the rows: label i of row i becomes label i of row order[i].
    if name in OF_LABELS | OF_LOGITS:
        student, teacher = student[:, order], teacher[:, order]
    assert float(EVERY[name](student[order], teacher[order])) == pytest.approx(float(loss), rel=1e-12)


MASKED = {**OF_LABELS, **OF_LOGITS}


@pytest.mark.parametrize("name", MASKED)
def test_a_class_masked_on_both_sides_gives_finite_values_and_no_gradient(name: str) -> None:
    student, teacher = sides(name)
    student[:, 4], teacher[:, 4] = -math.inf, -math.inf
    loss, gradient = loss_and_gradient(name, student, teacher)
    assert loss.isfinite() and gradient.isfinite().all()
    assert gradient[:, 4].eq(0).all() and gradient[:, :4].ne(0).any()


@pytest.mark.parametrize("name", sorted(set(MASKED) - {"correlation_loss"}))  # which averages over the classes
def test_a_class_masked_on_both_sides_adds_nothing_to_the_loss(name: str) -> None:
    student, teacher = sides(name)
    student[:, 4], teacher[:, 4] = -math.inf, -math.inf
    loss, gradient = loss_and_gradient(name, student, teacher)
    expected, its_gradient = loss_and_gradient(name, student[:, :4], teacher[:, :4])
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient[:, :4], its_gradient)


def test_a_class_masked_by_the_teacher_alone_adds_0_log_0() -> None:
    # By hand: KL of (1/2, 1/2, 0) from (1/3, 1/3, 1/3) is log 3 - log 2.
    teacher = torch.tensor([[0.0, 0.0, -math.inf]])
    loss = losses.soft_target_loss(torch.zeros(1, 3), teacher, temperature=1)
    torch.testing.assert_close(loss, torch.tensor(math.log(1.5)))
    # What the student alone holds impossible is infinitely far, and is not passed over.
    assert losses.soft_target_loss(teacher, torch.zeros(1, 3), temperature=1).isinf()
    assert losses.soft_target_loss(torch.full((1, 3), math.nan), teacher, temperature=1).isnan()
