"""Reverse, mixed and skewed divergences beside SciPy in float64, and beside TRL's where it is installed."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import rel_entr, softmax
from torch import Tensor

from lightning_modules.losses import generalized_jsd_loss, skewed_kl_loss

Array = NDArray[np.float64]


def logits(*shape: int, seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    return 2 * rng.normal(size=shape), 4 * rng.normal(size=shape)


def kl(one: Array, other: Array) -> float:
    return float(rel_entr(one, other).sum(-1).mean())


def scipy_jsd(student: Array, teacher: Array, beta: float, temperature: float) -> float:
    p, q = softmax(teacher / temperature, axis=-1), softmax(student / temperature, axis=-1)
    if beta in (0, 1):
        return kl(q, p) if beta else kl(p, q)
    m = beta * p + (1 - beta) * q
    return beta * kl(p, m) + (1 - beta) * kl(q, m)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_the_generalized_divergence_agrees_with_scipy(beta: float, temperature: float) -> None:
    student, teacher = logits(3, 7, 11)
    found = generalized_jsd_loss(torch.tensor(student), torch.tensor(teacher), beta=beta, temperature=temperature)
    assert float(found) == pytest.approx(scipy_jsd(student, teacher, beta, temperature), rel=1e-12)


def test_the_divergences_of_two_classes_by_hand() -> None:
    # Teacher (3/4, 1/4), student (1/2, 1/2), and their even mixture (5/8, 3/8).
    teacher, student = torch.tensor([[math.log(3.0), 0.0]], dtype=torch.float64), torch.zeros(1, 2, dtype=torch.float64)
    of_teacher = 0.75 * math.log(6 / 5) + 0.25 * math.log(2 / 3)
    of_student = 0.5 * math.log(4 / 5) + 0.5 * math.log(4 / 3)
    jsd = generalized_jsd_loss(student, teacher, beta=0.5, temperature=1)
    assert float(jsd) == pytest.approx((of_teacher + of_student) / 2, rel=1e-12)
    forward = generalized_jsd_loss(student, teacher, beta=0, temperature=1)
    assert float(forward) == pytest.approx(0.75 * math.log(3 / 2) + 0.25 * math.log(1 / 2), rel=1e-12)
    reverse = generalized_jsd_loss(student, teacher, beta=1, temperature=1)
    assert float(reverse) == pytest.approx(0.5 * math.log(2 / 3) + 0.5 * math.log(2), rel=1e-12)
    assert float(skewed_kl_loss(student, teacher, skew=0.5, temperature=1)) == pytest.approx(of_teacher, rel=1e-12)


def test_the_ends_are_special_cases_and_no_limits() -> None:
    student, teacher = map(torch.tensor, logits(4, 6))
    for end, near in ((0.0, 1e-6), (1.0, 1 - 1e-6)):
        assert float(generalized_jsd_loss(student, teacher, beta=near, temperature=1)) < 1e-4
        assert float(generalized_jsd_loss(student, teacher, beta=end, temperature=1)) > 0.5


@pytest.mark.parametrize("skew", [0.0, 0.1, 0.7])
def test_the_skewed_divergence_agrees_with_scipy_and_is_bounded(skew: float) -> None:
    student, teacher = logits(5, 9)
    p, q = softmax(teacher / 2, axis=-1), softmax(student / 2, axis=-1)
    found = skewed_kl_loss(torch.tensor(student), torch.tensor(teacher), skew=skew, temperature=2.0)
    assert float(found) == pytest.approx(kl(p, skew * p + (1 - skew) * q), rel=1e-12)
    apart = torch.tensor([[1e4, 0.0]])
    if skew:
        assert float(skewed_kl_loss(apart.flip(1), apart, skew=skew, temperature=1)) == pytest.approx(-math.log(skew))


@pytest.mark.parametrize("loss", [
    lambda s, t, mask: generalized_jsd_loss(s, t, beta=0.3, temperature=2.0, mask=mask),
    lambda s, t, mask: generalized_jsd_loss(s, t, beta=1, temperature=2.0, mask=mask),
    lambda s, t, mask: skewed_kl_loss(s, t, skew=0.1, temperature=2.0, mask=mask),
])  # fmt: skip
def test_only_valid_tokens_count_and_no_valid_token_gives_0(loss: Callable[..., Tensor]) -> None:
    student, teacher = (torch.tensor(side) for side in logits(2, 3, 5))
    mask = torch.tensor([[True, True, False], [True, False, False]])
    garbage = student.clone()
    garbage[~mask] = math.nan
    garbage.requires_grad_()
    found = loss(garbage, teacher, mask)
    assert float(found.detach()) == pytest.approx(float(loss(student[mask], teacher[mask], None)), rel=1e-12)
    found.backward()
    assert garbage.grad is not None and not garbage.grad[~mask].any() and bool(garbage.grad[mask].any(-1).all())
    student.requires_grad_()
    nothing = loss(student, teacher, torch.zeros_like(mask))
    nothing.backward()
    assert float(nothing.detach()) == 0 and student.grad is not None and not student.grad.any()


@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_the_temperature_changes_the_gradient(beta: float) -> None:
    gradients = []
    for temperature in (1.0, 2.0):
        student, teacher = map(torch.tensor, logits(4, 6))
        generalized_jsd_loss(student.requires_grad_(), teacher, beta=beta, temperature=temperature).backward()
        gradients.append(student.grad)
    assert (gradients[0] - gradients[1]).abs().max() > 1e-3


def test_what_the_teacher_alone_holds_impossible_is_infinitely_far_for_the_reverse_divergence_alone() -> None:
    student, teacher = torch.zeros(1, 3), torch.tensor([[0.0, 0.0, -math.inf]])
    assert generalized_jsd_loss(student, teacher, beta=1, temperature=1).isinf()
    assert generalized_jsd_loss(student, teacher, beta=0.5, temperature=1).isfinite()


def test_values_and_shapes_that_do_not_fit_are_refused() -> None:
    row = torch.zeros(2, 3)
    for bad in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=rf"beta must lie in \[0, 1\], but got beta={bad}"):
            generalized_jsd_loss(row, row, beta=bad, temperature=1)
        with pytest.raises(ValueError, match=rf"skew must lie in \[0, 1\), but got skew={bad}"):
            skewed_kl_loss(row, row, skew=bad, temperature=1)
    with pytest.raises(ValueError, match=r"temperature must be positive, but got temperature=0"):
        skewed_kl_loss(row, row, skew=0.1, temperature=0)
    with pytest.raises(ValueError, match=r"must have the same shape .* \(2, 3\) and \(2, 4\)"):
        generalized_jsd_loss(row, torch.zeros(2, 4), beta=0.5, temperature=1)
    with pytest.raises(ValueError, match=r"mask must be bool, one for each row .* \(3,\)"):
        generalized_jsd_loss(row, row, beta=0.5, temperature=1, mask=torch.ones(3, dtype=torch.bool))


@pytest.mark.parametrize("beta", [0.0, 0.2, 0.5, 1.0])
def test_the_generalized_divergence_is_that_of_trl(beta: float) -> None:
    trainer = pytest.importorskip("trl.experimental.gkd.gkd_trainer", exc_type=ImportError).GKDTrainer
    student, teacher = (torch.tensor(side) for side in logits(2, 5, 9))
    labels = torch.zeros(2, 5, dtype=torch.long)
    labels[1, 2:] = -100
    expected = trainer.generalized_jsd_loss(student, teacher, labels=labels, beta=beta, temperature=3.0)
    found = generalized_jsd_loss(student, teacher, beta=beta, temperature=3.0, mask=labels != -100)
    torch.testing.assert_close(found, expected)
