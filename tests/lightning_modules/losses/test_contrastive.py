"""The contrastive loss beside a loop in float64, and beside numbers worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lightning_modules.losses import contrastive_representation_loss

Array = NDArray[np.float64]


def loop_loss(student: Array, teacher: Array, negatives: Array, temperature: float, samples: int) -> float:
    def critic(s: Array, t: Array, noise: float) -> float:
        cosine = s @ t / math.hypot(*s) / math.hypot(*t)
        return math.exp(cosine / temperature) / (math.exp(cosine / temperature) + noise)

    total = 0.0
    for s, t, others in zip(student, teacher, negatives, strict=True):
        noise = len(others) / samples
        total -= math.log(critic(s, t, noise))
        for other in others:
            total -= math.log(1 - critic(s, other, noise))
    return total / len(student)


def batch(rows: int, count: int, width: int) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(0)
    return 2 * rng.normal(size=(rows, width)), rng.normal(size=(rows, width)), 3 * rng.normal(size=(rows, count, width))


@pytest.mark.parametrize(("rows", "count", "width"), [(1, 1, 2), (3, 5, 4), (6, 40, 8)])
@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("samples", [1, 50, 10_000])
def test_the_loss_agrees_with_a_loop(rows: int, count: int, width: int, temperature: float, samples: int) -> None:
    parts = batch(rows, count, width)
    loss = contrastive_representation_loss(*map(torch.tensor, parts), temperature=temperature, samples=samples)
    assert float(loss) == pytest.approx(loop_loss(*parts, temperature, samples), rel=1e-9)


def test_the_loss_is_worked_by_hand() -> None:
    # Cosines 1 and 0 at T = 1 / ln 3, two negatives of 4 samples: h = 3 / (3 + 1/2) = 6/7, and 1 / (1 + 1/2) = 2/3.
    student = torch.tensor([[5.0, 0.0]])
    teacher, negatives = torch.tensor([[2.0, 0.0]]), torch.tensor([[[0.0, 1.0], [0.0, -7.0]]])
    loss = contrastive_representation_loss(student, teacher, negatives, temperature=1 / math.log(3), samples=4)
    assert float(loss) == pytest.approx(math.log(7 / 6) + 2 * math.log(3), rel=1e-6)


def test_a_critic_that_rounds_to_1_still_has_a_gradient() -> None:
    # h of the negative is 1 - 1e-43 or so: log(1 - h) by way of h would be log 0. By hand: cosine / T + log(N / K).
    student = torch.tensor([[1.0, 0.0]], requires_grad=True)
    teacher, negatives = torch.tensor([[0.0, 1.0]]), torch.tensor([[[1.0, 0.0]]])
    loss = contrastive_representation_loss(student, teacher, negatives, temperature=0.01, samples=100)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(100 + math.log(100) + math.log(101 / 100), rel=1e-6)
    assert student.grad is not None
    # Towards the teacher, by 1 / T · (1 - h) of the positive; along its own direction a length does not matter.
    torch.testing.assert_close(student.grad, torch.tensor([[0.0, -100 / 101]]), rtol=1e-4, atol=1e-6)


def test_the_contrastive_loss_ignores_lengths_of_embeddings() -> None:
    student, teacher, negatives = (torch.tensor(part) for part in batch(3, 5, 4))
    loss = contrastive_representation_loss(student, teacher, negatives, temperature=0.3, samples=20)
    again = contrastive_representation_loss(9 * student, teacher / 8, 7 * negatives, temperature=0.3, samples=20)
    assert float(again) == pytest.approx(float(loss), rel=1e-12)


def test_an_embedding_that_is_zero_gets_no_gradient() -> None:
    student, teacher, negatives = (torch.tensor(part) for part in batch(3, 5, 4))
    student[1] = 0
    student.requires_grad_()
    contrastive_representation_loss(student, teacher, negatives, temperature=0.3, samples=20).backward()
    assert student.grad is not None and student.grad.any(dim=1).tolist() == [True, False, True]


def test_the_teachers_embedding_learns_from_positives_and_negatives() -> None:
    parts = [torch.tensor(part, requires_grad=True) for part in batch(3, 5, 4)]
    assert torch.autograd.gradcheck(
        lambda *sides: contrastive_representation_loss(*sides, temperature=0.3, samples=20), parts
    )
    contrastive_representation_loss(*parts, temperature=0.3, samples=20).backward()
    assert all(part.grad is not None and part.grad.abs().max() > 1e-3 for part in parts)


def test_temperature_and_samples_each_change_the_gradient() -> None:
    gradients = []
    for temperature, samples in [(0.3, 20), (0.4, 20), (0.3, 30)]:
        student, teacher, negatives = (torch.tensor(part) for part in batch(3, 5, 4))
        student.requires_grad_()
        contrastive_representation_loss(
            student, teacher, negatives, temperature=temperature, samples=samples
        ).backward()
        gradients.append(student.grad)
    assert all((gradient - gradients[0]).abs().max() > 1e-3 for gradient in gradients[1:])


@pytest.mark.parametrize(
    "shapes",
    [
        ((4, 3), (4, 2), (4, 5, 3)),
        ((4, 3), (1, 3), (4, 5, 3)),
        ((4, 3), (4, 3), (4, 5, 2)),
        ((4, 3), (4, 3), (1, 5, 3)),
        ((4, 3), (4, 3), (5, 3)),
        ((4, 3), (4, 3), (4, 0, 3)),
        ((3,), (3,), (4, 5, 3)),
    ],
)
def test_embeddings_of_wrong_shapes_are_named_in_the_error(shapes: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(ValueError, match=r"\(B, K, D\) with K at least 1") as caught:
        contrastive_representation_loss(*map(torch.zeros, shapes), temperature=0.1, samples=10)
    assert all(f"={shape}" in str(caught.value) for shape in shapes)


@pytest.mark.parametrize("name", ["temperature", "samples"])
@pytest.mark.parametrize("bad", [0, -1, math.nan])
def test_a_temperature_or_a_number_of_samples_that_is_not_positive_is_refused(name: str, bad: float) -> None:
    values = {"temperature": 0.1, "samples": 10, name: bad}
    with pytest.raises(ValueError, match=f"{name} must be positive, but got {name}={bad}"):
        contrastive_representation_loss(torch.ones(2, 3), torch.ones(2, 3), torch.ones(2, 4, 3), **values)
