"""Losses of a batch's geometry beside loops in float64, and beside numbers worked by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_modules.losses import (
    angle_relation_loss,
    distance_relation_loss,
    probabilistic_transfer_loss,
    similarity_preserving_loss,
)

Array = NDArray[np.float64]


def huber(difference: float) -> float:
    return difference**2 / 2 if abs(difference) <= 1 else abs(difference) - 0.5


def loop_distance_loss(student: Array, teacher: Array) -> float:
    relative = []
    for rows in (student, teacher):
        distances = [[math.dist(a, b) for b in rows] for a in rows]
        positive = [d for line in distances for d in line if d > 0]
        relative.append([d / np.mean(positive) if positive else 0.0 for line in distances for d in line])
    return float(np.mean([huber(s - t) for s, t in zip(*relative, strict=True)]))


def loop_angle_loss(student: Array, teacher: Array) -> float:
    def cosine(rows: Array, i: int, j: int, k: int) -> float:
        one, other = rows[i] - rows[j], rows[k] - rows[j]
        lengths = math.hypot(*one) * math.hypot(*other)
        return float(one @ other) / lengths if lengths else 0.0

    size = range(len(student))
    return float(
        np.mean([huber(cosine(student, i, j, k) - cosine(teacher, i, j, k)) for i in size for j in size for k in size])
    )


def loop_similarity_loss(student: Array, teacher: Array) -> float:
    total = 0.0
    for i in range(len(student)):
        lines = []
        for rows in (student, teacher):
            line = np.array([rows[i] @ row for row in rows])
            lines.append(line / math.sqrt(sum(line**2)))
        total += sum((lines[0] - lines[1]) ** 2)
    return total / len(student) ** 2


def loop_probabilistic_loss(student: Array, teacher: Array) -> float:
    total = 0.0
    for i in range(len(student)):
        chances = []
        for rows in (student, teacher):
            cosines = [rows[i] @ row / math.hypot(*rows[i]) / math.hypot(*row) for row in rows]
            chances.append([(1 + cosine) / sum(1 + other for other in cosines) for cosine in cosines])
        total += sum(t * math.log(t / s) for s, t in zip(*chances, strict=True))
    return total / len(student) ** 2


LOSSES: dict[Callable[[Tensor, Tensor], Tensor], Callable[[Array, Array], float]] = {
    distance_relation_loss: loop_distance_loss,
    angle_relation_loss: loop_angle_loss,
    similarity_preserving_loss: loop_similarity_loss,
    probabilistic_transfer_loss: loop_probabilistic_loss,
}

each_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)


def rows(*shape: int, seed: int = 0) -> Array:
    drawn: Array = np.random.default_rng(seed).normal(size=shape)
    return drawn


def loss_and_gradient(loss: Callable[[Tensor, Tensor], Tensor], student: Tensor, teacher: Array) -> tuple[float, Array]:
    student = student.clone().requires_grad_()
    value = loss(student, torch.tensor(teacher, dtype=student.dtype))
    value.backward()
    assert student.grad is not None
    return float(value.detach()), student.grad.double().numpy()


@each_loss
@pytest.mark.parametrize(
    ("student", "teacher"), [((1, 3), (1, 3)), ((2, 3), (2, 5)), ((5, 2), (5, 9)), ((9, 6), (9, 6)), ((7, 1), (7, 1))]
)
def test_each_agrees_with_a_loop(
    loss: Callable[[Tensor, Tensor], Tensor], student: tuple[int, ...], teacher: tuple[int, ...]
) -> None:
    s, t = 2 * rows(*student), 5 * rows(*teacher, seed=1) + 1
    if student[1] == 1:
        s, t = abs(s), abs(t)  # of one number, cosines are 1 or -1, and an affinity of 0 has no logarithm
    assert float(loss(torch.tensor(s), torch.tensor(t))) == pytest.approx(LOSSES[loss](s, t), rel=1e-10, abs=1e-15)


@each_loss
def test_features_of_any_shape_are_flattened(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    student, teacher = torch.tensor(rows(4, 2, 3, 3)), torch.tensor(rows(4, 5, 2, seed=1))
    assert float(loss(student, teacher)) == float(loss(student.reshape(4, -1), teacher.reshape(4, -1)))


@each_loss
def test_relation_losses_ignore_scale_and_rotation(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    student, teacher = rows(5, 4), rows(5, 3, seed=1)
    turn = np.linalg.qr(rows(4, 4, seed=2)).Q
    value = float(loss(torch.tensor(student), torch.tensor(teacher)))
    assert float(loss(torch.tensor(100 * student @ turn), torch.tensor(teacher / 9))) == pytest.approx(value, rel=1e-9)
    assert float(loss(torch.tensor(student @ turn), torch.tensor(student))) == pytest.approx(0, abs=1e-13)


def test_distances_are_worked_by_hand() -> None:
    # Points at 0, 1, 2 have distances 1, 1, 2 of mean 4/3: 3/4, 3/4, 3/2. Points at 0, 1, 5: 1, 4, 5 of mean 10/3.
    student, teacher = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[0.0], [1.0], [5.0]])
    differences = [0.75 - 0.3, 0.75 - 1.2, 1.5 - 1.5]
    assert float(distance_relation_loss(student, teacher)) == pytest.approx(
        2 * sum(d**2 / 2 for d in differences) / 9, rel=1e-6
    )


def test_large_differences_of_distances_count_linearly() -> None:
    # Seven samples all but coincide and one is far: 7 of 28 pairs have 4 times the mean distance, the others none. The
    # teacher's are all 1 mean apart. So 7 differ by 3, which counts 2.5, and 21 by 1, which counts 0.5.
    student = 1e-9 * torch.arange(8, dtype=torch.float64)[:, None]
    student[7] = 1
    loss = float(distance_relation_loss(student, torch.eye(8, dtype=torch.float64)))
    assert loss == pytest.approx(2 * (7 * 2.5 + 21 * 0.5) / 64, rel=1e-7)


def test_angles_are_worked_by_hand() -> None:
    # Student: a right angle at 0 and two of 45 degrees; teacher: all 60 degrees. Each angle counts twice of 27 triples.
    student = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    teacher = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(0.75)]])
    differences = [0 - 0.5, math.sqrt(0.5) - 0.5, math.sqrt(0.5) - 0.5]
    assert float(angle_relation_loss(student, teacher)) == pytest.approx(
        2 * sum(d**2 / 2 for d in differences) / 27, rel=1e-5
    )


def test_similarities_are_worked_by_hand() -> None:
    # Student: rows (1, 0) and (0, 1) of G. Teacher: all alike, rows (1, 1) / √2.
    student, teacher = torch.tensor([[3.0, 0.0], [0.0, 5.0]]), torch.tensor([[2.0], [2.0]])
    expected = 2 * ((1 - math.sqrt(0.5)) ** 2 + 0.5) / 4
    assert float(similarity_preserving_loss(student, teacher)) == pytest.approx(expected, rel=1e-6)


def test_probabilities_are_worked_by_hand() -> None:
    # Student at a right angle: affinities 1 and 1/2, so 2/3 and 1/3. Teacher's are alike: 1/2 and 1/2.
    student, teacher = torch.tensor([[3.0, 0.0], [0.0, 5.0]]), torch.tensor([[2.0], [2.0]])
    expected = 2 * (0.5 * math.log(0.75) + 0.5 * math.log(1.5)) / 4
    assert float(probabilistic_transfer_loss(student, teacher)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("loss", [distance_relation_loss, angle_relation_loss], ids=lambda loss: loss.__name__)
def test_a_student_with_equal_samples_gets_no_gradient(
    loss: Callable[[Tensor, Tensor], Tensor],
) -> None:
    teacher = rows(6, 4, seed=1)
    coincident = torch.tensor(rows(1, 8), dtype=torch.float32).repeat(6, 1)
    rounded = coincident.clone()
    rounded[::2] = rounded[::2].nextafter(torch.ones(()))  # a last bit is no distance
    for student in (coincident, rounded, torch.full((6, 8), 0.1), torch.zeros(6, 8)):
        value, gradient = loss_and_gradient(loss, student, teacher)
        assert value == pytest.approx(LOSSES[loss](np.zeros((6, 8)), teacher), rel=1e-5)
        assert not gradient.any()


@each_loss
def test_two_equal_samples_among_others_keep_the_gradient_bounded(
    loss: Callable[[Tensor, Tensor], Tensor],
) -> None:
    student = torch.tensor(rows(5, 4))
    student[1] = student[3]
    value, gradient = loss_and_gradient(loss, student, rows(5, 4, seed=1))
    assert value == pytest.approx(LOSSES[loss](student.numpy(), rows(5, 4, seed=1)), rel=1e-10)
    assert np.isfinite(gradient).all() and 1e-4 < abs(gradient).max() < 1


def test_a_zero_sample_has_uniform_neighbours_and_no_gradient() -> None:
    student = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    value, gradient = loss_and_gradient(probabilistic_transfer_loss, student, np.array([[2.0], [2.0]]))
    # Affinities 1 and 1/2, and 1/2 and 1/2; the teacher's are even.
    assert value == pytest.approx((0.5 * math.log(0.75) + 0.5 * math.log(1.5)) / 4, rel=1e-6)
    assert not gradient[1].any()


def test_a_zero_sample_is_similar_to_no_other() -> None:
    student = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    value, gradient = loss_and_gradient(similarity_preserving_loss, student, np.array([[2.0], [2.0]]))
    # Rows (1, 0) and (0, 0) of the student beside (1, 1) / √2.
    assert value == pytest.approx((2 - math.sqrt(2) + 1) / 4, rel=1e-6)
    # By hand: its product with the first sample, 0, should grow; the derivative of -√2 · G_01 / 4 is -√2 / 4 · (1, 0).
    np.testing.assert_allclose(gradient[1], [-math.sqrt(2) / 4, 0], rtol=1e-6)


def test_the_divergence_of_opposite_samples_is_bounded() -> None:
    # Chances of the student are 1 and, at the rounding of 1, eps; of the teacher 1/2 and 1/2.
    student, teacher = torch.tensor([[1.0, 2.0], [-1.0, -2.0]]), np.array([[2.0], [2.0]])
    value, gradient = loss_and_gradient(probabilistic_transfer_loss, student, teacher)
    eps = float(np.finfo(np.float32).eps)
    assert value == pytest.approx(2 * (0.5 * math.log(0.5) + 0.5 * math.log(0.5 / eps)) / 4, rel=0.05)
    assert abs(gradient).max() < 1e-3


def test_distances_far_from_the_origin_are_not_rounded_away() -> None:
    # By way of inner products, squares of 1e6 would leave nothing of distances near 1e-2.
    student = (torch.tensor(rows(5, 4)) / 100 + 1000).float()
    teacher = rows(5, 4, seed=1)
    for loss in (distance_relation_loss, angle_relation_loss):
        value = float(loss(student, torch.tensor(teacher)))
        assert value == pytest.approx(LOSSES[loss](student.double().numpy(), teacher), rel=1e-3)


@each_loss
@pytest.mark.parametrize(("student", "teacher"), [((4, 3), (5, 3)), ((4,), (4, 3)), ((4, 3), (4,)), ((), ())])
def test_features_of_different_batches_are_refused(
    loss: Callable[[Tensor, Tensor], Tensor], student: tuple[int, ...], teacher: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"must have shapes \(B, ...\) of the same B") as caught:
        loss(torch.zeros(student), torch.zeros(teacher))
    assert f"={student}" in str(caught.value) and f"={teacher}" in str(caught.value)
