"""Criteria: their terms and weights are the loss."""

from __future__ import annotations

import math

import pytest
import torch
from test_every_method import PARAMETERS

from lightning_modules.batch import Batch
from lightning_modules.classifier import weighted_sum
from lightning_modules.losses import (
    correlation_loss,
    decoupled_loss,
    distillation_loss,
    generalized_jsd_loss,
    hard_label_loss,
    skewed_kl_loss,
    smoothed_label_loss,
    standardized_soft_target_loss,
)
from lightning_modules.methods import METHODS, DistillationCriterion, HardLabelCriterion, make_criterion


def a_batch(rows: int = 6, classes: int = 4) -> tuple[torch.Tensor, Batch]:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(rows, classes, generator=generator, dtype=torch.float64)
    teacher = 4 * torch.randn(rows, classes, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (rows,), generator=generator)
    return logits, Batch(torch.arange(rows), torch.zeros(rows, 1), labels, {"logits": teacher})


@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 8.0])
def test_weighted_terms_sum_to_the_distillation_loss(alpha: float, temperature: float) -> None:
    logits, batch = a_batch()
    terms = DistillationCriterion(temperature=temperature, alpha=alpha)(logits, batch)
    loss = distillation_loss(logits, batch.teacher["logits"], batch.target, alpha=alpha, temperature=temperature)
    assert set(terms) == {"hard_loss", "soft_loss"}
    assert (terms["hard_loss"].weight, terms["soft_loss"].weight) == (alpha, 1 - alpha)
    assert sum(term.weight * float(term.value) for term in terms.values()) == pytest.approx(float(loss), rel=1e-12)


def test_terms_are_logged_before_weighting() -> None:
    # Even student, certain teacher of the right class, two classes: both terms are ln 2 at T = 1, whatever alpha is.
    logits = torch.zeros(3, 2, dtype=torch.float64)
    teacher = torch.tensor([[1e3, 0.0]] * 3, dtype=torch.float64)
    batch = Batch(torch.arange(3), torch.zeros(3, 1), torch.zeros(3, dtype=torch.long), {"logits": teacher})
    for alpha in (0.0, 0.5, 1.0):
        terms = DistillationCriterion(temperature=1.0, alpha=alpha)(logits, batch)
        assert [float(term.value) for term in terms.values()] == pytest.approx([math.log(2)] * 2, rel=1e-12)


def test_a_teacher_is_trained_on_the_labels_alone() -> None:
    logits, batch = torch.zeros(4, 10), Batch(torch.arange(4), torch.zeros(4, 1), torch.arange(4))
    terms = HardLabelCriterion()(logits, batch)
    assert set(terms) == {"hard_loss"} and terms["hard_loss"].weight == 1
    assert float(terms["hard_loss"].value) == pytest.approx(math.log(10), rel=1e-6)


@pytest.mark.parametrize("temperature", [0.0, -2.0, math.nan])
def test_a_temperature_that_is_not_positive_is_refused_before_training(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature must be positive"):
        DistillationCriterion(temperature=temperature, alpha=0.5)


@pytest.mark.parametrize("alpha", [-0.01, 1.01, math.nan])
def test_an_alpha_outside_its_range_is_refused_before_training(alpha: float) -> None:
    with pytest.raises(ValueError, match=r"alpha must lie in \[0, 1\]"):
        DistillationCriterion(temperature=1.0, alpha=alpha)


def test_a_method_without_parameters_adds_nothing_to_a_checkpoint() -> None:
    criterion = DistillationCriterion(temperature=4.0, alpha=0.1)
    assert not criterion.state_dict() and not list(criterion.parameters())


def test_each_method_is_the_loss_of_its_paper_beside_the_labels() -> None:
    logits, batch = a_batch()
    teacher, labels = batch.teacher["logits"], batch.target
    hard = hard_label_loss(logits, labels)

    def softened(divergence: torch.Tensor) -> torch.Tensor:
        return 0.3 * hard + 0.7 * 3.0**2 * divergence

    expected = {
        "reverse_kl": softened(generalized_jsd_loss(logits, teacher, beta=1, temperature=3.0)),
        "jsd": softened(generalized_jsd_loss(logits, teacher, beta=0.7, temperature=3.0)),
        "skewed_kl": softened(skewed_kl_loss(logits, teacher, skew=0.2, temperature=3.0)),
        "soft_target": distillation_loss(logits, teacher, labels, alpha=0.3, temperature=3.0),
        "standardized": 0.3 * hard + 0.7 * standardized_soft_target_loss(logits, teacher, temperature=3.0),
        "decoupled": hard
        + decoupled_loss(logits, teacher, labels, temperature=3.0, target_weight=1.5, non_target_weight=4.0),
        "correlation": hard + correlation_loss(logits, teacher, temperature=3.0, inter_weight=2.0, intra_weight=0.5),
        "label_smoothing": smoothed_label_loss(logits, labels, smoothing=0.1),
    }
    assert set(expected) == {name for name, one in METHODS.items() if one.needs_classes and not one.needs_one_row}
    found = {method: weighted_sum(make_criterion(method, **PARAMETERS[method])(logits, batch)) for method in expected}
    assert {m: float(v) for m, v in found.items()} == pytest.approx({m: float(v) for m, v in expected.items()})
