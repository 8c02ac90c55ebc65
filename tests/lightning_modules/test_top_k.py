"""Logits of which the k largest are kept and the rest are one bucket: sizes, rounding, temperatures, losses."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, logsumexp
from torch import Tensor

from lightning_modules.batch import Batch
from lightning_modules.classifier import weighted_sum
from lightning_modules.methods import METHODS, make_criterion
from lightning_modules.outputs import Classification, Segmentation, Tokens
from lightning_modules.top_k import Compared, TopK, TopKLogits, compared, divergence_of_rows

TAKING: dict[str, dict[str, Any]] = {
    "soft_target": {"temperature": 3.0, "alpha": 0.3},
    "reverse_kl": {"temperature": 3.0, "alpha": 0.3},
    "jsd": {"beta": 0.7, "temperature": 3.0, "alpha": 0.3},
    "skewed_kl": {"skew": 0.2, "temperature": 3.0, "alpha": 0.3},
}


def some_logits(rows: int, classes: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(rows, classes, generator=draw) + 2 * torch.rand(classes, generator=draw)


def buckets(theirs: TopKLogits, student: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    found = theirs.compared(student, temperature)
    return found.student, found.teacher


def packed(logits: Tensor, form: TopK, kept: Tensor | None = None) -> TopKLogits:
    return TopKLogits(form.pack(logits, kept), form, logits.shape[-1])


@pytest.mark.parametrize(
    ("k", "classes", "size"), [(64, 49_152, 270), (64, 65_536, 270), (64, 65_537, 398), (16, 49_152, 78), (20, 999, 94)]
)
def test_a_row_takes_270_bytes_for_64_logits_and_less_than_100_for_20(k: int, classes: int, size: int) -> None:
    assert TopK(k).row_bytes(classes) == size
    assert TopK(k).pack(torch.zeros(2, classes)).nbytes == 2 * size


@pytest.mark.parametrize("classes", [1_000, 60_000, 70_000])  # numbers of 16 bits, with a sign or without, and more
def test_the_largest_logits_are_kept_with_their_classes(classes: int) -> None:
    logits = some_logits(5, classes)
    parts = packed(logits, TopK(8, draws=0)).parts()
    values, places = logits.topk(8)
    assert torch.equal(parts.classes, places)
    torch.testing.assert_close(parts.logits, values - values[:, :1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("temperature", [1.0, 4 / 3, 2.0, 3.0, 5.0, 10.0, 1.1, 1.6, 2.4, 4.0, 7.0, 20.0, 1000.0])
def test_the_tails_share_is_that_of_the_temperature(temperature: float) -> None:
    logits = some_logits(20, 3_000)
    _, teacher = buckets(packed(logits, TopK(32, draws=0)), torch.zeros(20, 3_000), temperature)
    known = np.sort(log_softmax(logits.double().numpy() / temperature, 1), 1)
    expected = np.concatenate([known[:, :-33:-1], logsumexp(known[:, :-32], 1, keepdims=True)], 1)
    found = torch.log_softmax(teacher / temperature, 1)
    np.testing.assert_allclose(found, expected, atol=5e-3)


def test_the_students_tail_is_the_sum_of_its_other_probabilities() -> None:
    teacher, student = some_logits(4, 50), some_logits(4, 50, seed=1)
    theirs = packed(teacher, TopK(6, draws=1))
    own, _ = buckets(theirs, student, 2.0)
    probabilities = torch.softmax(student.double() / 2, 1)
    kept = probabilities.gather(1, teacher.topk(5).indices)
    expected = torch.cat([kept, 1 - kept.sum(1, keepdim=True)], 1)
    torch.testing.assert_close(torch.softmax(own.double() / 2, 1), expected, rtol=1e-5, atol=1e-7)
    nearly = torch.full((4, 50), -40.0).scatter(1, teacher.topk(5).indices, 0.0)  # 1 - the others would be 0
    least = torch.log_softmax(buckets(theirs, nearly, 1.0)[0], 1)[:, -1]
    torch.testing.assert_close(least, torch.full((4,), math.log(45 / 5) - 40))


@pytest.mark.parametrize("method", TAKING)
def test_with_all_classes_but_one_kept_loss_and_gradient_are_those_of_all_logits(method: str) -> None:
    teacher = some_logits(6, 9).half().float()
    found = []
    for theirs in (teacher, packed(teacher, TopK(8, draws=0))):
        student = some_logits(6, 9, seed=1).requires_grad_()
        batch = Batch(torch.arange(6), torch.zeros(6, 1), torch.arange(6), {"logits": theirs})
        loss = weighted_sum(make_criterion(method, **TAKING[method])(student, batch))
        loss.backward()
        assert student.grad is not None
        found.append((loss.detach(), student.grad))
    torch.testing.assert_close(found[0], found[1], rtol=5e-3, atol=2e-3)


@pytest.mark.parametrize(("method", "name"), [(m, name) for m, values in TAKING.items() for name in values])
def test_every_parameter_changes_the_gradient_beside_the_largest_logits_too(method: str, name: str) -> None:
    theirs, gradients = packed(some_logits(6, 30), TopK(8)), []
    for factor in (1.0, 0.5):
        student = some_logits(6, 30, seed=1).requires_grad_()
        batch = Batch(torch.arange(6), torch.zeros(6, 1), torch.arange(6), {"logits": theirs})
        values = {**TAKING[method], name: factor * TAKING[method][name]}
        weighted_sum(make_criterion(method, **values)(student, batch)).backward()
        gradients.append(student.grad)
    assert (gradients[0] - gradients[1]).abs().max() > 1e-3


def test_the_methods_that_take_them_are_those_that_are_tested_here_and_those_that_read_no_logits() -> None:
    reading = {name for name, one in METHODS.items() if one.needs_classes and one.needs_teacher and one.takes_top_k}
    assert reading == {*TAKING, "contrastive"}  # which reads a layer
    refused = {name for name, one in METHODS.items() if not one.takes_top_k}
    assert refused == {"standardized", "decoupled", "correlation", "teacher_values", "bounded_regression"}


def test_the_divergence_over_buckets_is_at_most_that_over_all_classes_and_near_it() -> None:
    teacher, student = some_logits(50, 200), some_logits(50, 200, seed=1)
    form = TopK(32, draws=0)
    whole, told = divergence_of_rows(student, teacher), divergence_of_rows(student, packed(teacher, form))
    assert bool((told <= whole + 5e-3).all()) and float(told.mean()) > 0.9 * float(whole.mean())
    assert compared(student, teacher) == Compared(student, teacher, None)


def mean_over_draws(
    student: Tensor, teacher: Tensor, method: str, form: TopK, **changed: float
) -> tuple[Tensor, Tensor]:
    """Return loss and gradient of a method in the mean over many seeds of the draws."""
    values, draws = {**TAKING[method], "alpha": 0.0, **changed}, 3_000
    own = student.clone().requires_grad_()
    theirs = TopKLogits(form.pack(teacher.repeat(draws, 1), seed=1), form, teacher.shape[1])
    rows = own.repeat(draws, 1)
    batch = Batch(torch.arange(len(rows)), torch.zeros(1), torch.zeros(len(rows), dtype=torch.long), {"logits": theirs})
    loss = weighted_sum(make_criterion(method, **values)(rows, batch))
    loss.backward()
    assert own.grad is not None
    return loss.detach(), own.grad


@pytest.mark.parametrize("method", ["soft_target", "skewed_kl", "jsd"])
def test_in_the_mean_over_draws_loss_and_gradient_are_those_of_all_logits(method: str) -> None:
    teacher, student = some_logits(3, 40), some_logits(3, 40, seed=1)
    at: dict[str, float] = {"temperature": 1.0} | ({"beta": 0.0} if method == "jsd" else {})
    loss, gradient = mean_over_draws(student, teacher, method, TopK(6, draws=3), **at)
    own = student.clone().requires_grad_()
    batch = Batch(torch.arange(3), torch.zeros(1), torch.zeros(3, dtype=torch.long), {"logits": teacher})
    whole = weighted_sum(make_criterion(method, **{**TAKING[method], "alpha": 0.0, **at})(own, batch))
    whole.backward()
    assert own.grad is not None
    assert float(loss) == pytest.approx(float(whole.detach()), rel=5e-3)
    assert float((gradient - own.grad).norm() / own.grad.norm()) < 0.02
    _, without = mean_over_draws(student, teacher, method, TopK(3, draws=0), **at)
    assert float((without - own.grad).norm() / own.grad.norm()) > 0.05  # the bucket alone is biased


def test_draws_are_of_the_tail_by_its_probability_and_depend_on_the_seed_alone() -> None:
    logits = some_logits(1, 12)
    form = TopK(7, draws=5)
    many = TopKLogits(form.pack(logits.repeat(4_000, 1), seed=3), form, 12).parts()
    found = torch.bincount(many.drawn.flatten(), minlength=12) / many.drawn.numel()
    tail = logits.index_fill(1, logits.topk(2).indices[0], -math.inf).softmax(1)[0]
    torch.testing.assert_close(found, tail, atol=5e-3, rtol=0)
    same, other = (form.pack(some_logits(50, 12), seed=seed) for seed in (3, 4))
    assert torch.equal(same, form.pack(some_logits(50, 12), seed=3)) and not torch.equal(same, other)


def test_the_true_class_is_kept_in_any_case() -> None:
    teacher = some_logits(5, 40)
    true = teacher.argsort(1)[torch.arange(5), torch.tensor([0, 10, 39, 38, 5])]
    found = packed(teacher, TopK(4, draws=0), true)
    assert bool((found.parts().classes == true[:, None]).any(1).all()) and torch.equal(
        found.argmax(), teacher.argmax(1)
    )
    whole, told = (torch.log_softmax(one, 1).gather(1, true[:, None]) for one in (teacher, found.dense()))
    torch.testing.assert_close(told, whole, rtol=0, atol=5e-3)
    without = packed(teacher, TopK(4), torch.full((5,), -100))
    assert torch.equal(without.packed, packed(teacher, TopK(4)).packed)


def test_spread_over_all_classes_they_have_the_same_largest_one_and_the_same_sum() -> None:
    teacher = some_logits(6, 500)
    found = packed(teacher, TopK(16)).dense()
    centred = teacher - teacher.max(1, keepdim=True).values
    assert torch.equal(found.argmax(1), teacher.argmax(1))
    torch.testing.assert_close(found.logsumexp(1), centred.logsumexp(1), rtol=0, atol=3e-3)


def test_impossible_classes_stay_impossible_and_give_no_nan() -> None:
    teacher = torch.full((2, 6), -math.inf)
    teacher[0, :3], teacher[1, :5] = torch.tensor([1.0, 0.5, 0.0]), 0.0
    for temperature in (1.0, 1.7, 4.0):
        student = torch.randn(2, 6, requires_grad=True)
        theirs = packed(teacher, TopK(5, draws=2))
        shares = torch.softmax(buckets(theirs, student, temperature)[1] / temperature, 1)
        assert float(shares[0, -1]) == 0 and float(shares[1, -1]) == pytest.approx(2 / 5, abs=1e-3)
        divergence_of_rows(student, theirs).sum().backward()
        assert student.grad is not None and bool(student.grad.isfinite().all())
    assert bool((packed(teacher, TopK(5, draws=2)).dense()[0, 3:] == -math.inf).all())


def test_rows_with_a_label_are_taken_as_of_any_logits() -> None:
    labels = torch.tensor([[0, 3, -100], [2, -100, -100]])
    logits = torch.stack([some_logits(3, 12), some_logits(3, 12, seed=1)])
    batch = Batch(torch.arange(2), torch.zeros(2, 1), labels, {"logits": packed(logits, TopK(4))})
    _, of_rows = Tokens().as_rows(torch.zeros(2, 3, 12), batch)
    theirs = of_rows.teacher["logits"]
    assert theirs.shape == (3, 12) and torch.equal(theirs.argmax(), logits[labels >= 0].argmax(-1))
    images = torch.randn(2, 5, 3, 4)
    masks = torch.randint(5, (2, 3, 4))
    stored = packed(images.movedim(1, -1), TopK(2))
    rows, known = Segmentation().rows_of(stored, masks)  # type: ignore[arg-type]
    assert len(rows) == len(known) == 24 and torch.equal(rows.argmax(), images.argmax(1).flatten())
    assert Classification().rows_of(stored[0, 0], masks[0, 0])[0].shape == (4, 5)  # type: ignore[arg-type]


def test_what_is_out_of_its_range_is_refused() -> None:
    for bad in (0, 1, -1, 2.5, True):
        with pytest.raises(ValueError, match="k must be a whole number of at least 2, but got k="):
            TopK(bad)  # type: ignore[arg-type]
    for bad in (-1, 3, 4, 1.0, True):
        with pytest.raises(ValueError, match="draws must be a whole number from 0 to k - 2, but got draws="):
            TopK(4, draws=bad)  # type: ignore[arg-type]
    for temperatures in ((), (2.0, 1.0), (0.0, 1.0), (1.0, math.inf), (1.0, 1.0), (2.0, 4.0)):
        with pytest.raises(
            ValueError, match="temperatures must be ascending and finite, the first above 0 and at most"
        ):
            TopK(4, temperatures=temperatures)
    theirs = packed(some_logits(2, 20), TopK(4))
    with pytest.raises(
        ValueError, match=r"temperature must be at least 1, .* but got temperature=0.5: give TopK\(k, temp"
    ):
        theirs.compared(torch.zeros(2, 20), 0.5)
    with pytest.raises(ValueError, match=r"student_logits must have shape \(2, 20\), but got \(2, 19\)"):
        theirs.compared(torch.zeros(2, 19), 2.0)


def test_draws_are_of_the_tail_however_small_it_is() -> None:
    logits = torch.cat([torch.zeros(3, 2), -150 - torch.rand(3, 30)], 1)  # its probabilities are 0 in float32
    drawn = packed(logits, TopK(4, draws=2)).parts().drawn
    assert bool((drawn >= 2).all()) and len(drawn.unique()) > 2
