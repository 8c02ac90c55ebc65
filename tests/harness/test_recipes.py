"""Published settings: others' losses, written down here from their code and papers in NumPy, are ours."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax

from harness.recipes import DEFAULT_RECIPES, RECIPES, convert_weights
from lightning_modules.losses import distillation_loss
from lightning_modules.methods import DistillationCriterion

Array = NDArray[np.float64]

_draw = np.random.default_rng(0)
STUDENT, TEACHER = 3 * _draw.standard_normal((7, 5)), 3 * _draw.standard_normal((7, 5))
LABELS = _draw.integers(5, size=7)


def cross_entropy(student: Array) -> float:
    return float(-log_softmax(student, axis=1)[np.arange(7), LABELS].mean())


def divergence(student: Array, temperature: float) -> float:
    """KL of the teacher from the student, summed over the classes, averaged over the samples."""
    teacher = log_softmax(TEACHER / temperature, axis=1)
    return float((np.exp(teacher) * (teacher - log_softmax(student / temperature, axis=1))).sum() / 7)


def ours(student: Array, *, temperature: float, alpha: float) -> float:
    logits, labels = (torch.from_numpy(values) for values in (student, LABELS))
    return float(distillation_loss(logits, torch.from_numpy(TEACHER), labels, alpha=alpha, temperature=temperature))


def repdistiller(student: Array) -> float:
    # helper/loops.py: opt.gamma * loss_cls + opt.alpha * loss_div; distiller_zoo/KD.py: the sum times T**2 / batch.
    gamma, alpha, temperature = 0.1, 0.9, 4
    return gamma * cross_entropy(student) + alpha * divergence(student, temperature) * temperature**2


def torchdistill(student: Array) -> float:
    # KDLoss.forward: alpha * hard_loss + beta * temperature ** 2 * soft_loss, where beta = 1 - alpha.
    alpha, temperature = 0.5, 1.0
    return alpha * cross_entropy(student) + (1 - alpha) * temperature**2 * divergence(student, temperature)


def deit(student: Array) -> float:
    # Eq. 2: (1 - lambda) * L_CE + lambda * tau**2 * KL.
    weight, tau = 0.1, 3.0
    return (1 - weight) * cross_entropy(student) + weight * tau**2 * divergence(student, tau)


def distilbert(student: Array) -> float:
    # distiller.py: alpha_ce * KL * temperature**2 + alpha_mlm * cross-entropy, less the term of hidden states.
    return 5.0 * divergence(student, 2.0) * 2.0**2 + 2.0 * cross_entropy(student)


def keras(student: Array) -> float:
    # alpha * student_loss + (1 - alpha) * distillation_loss * temperature**2.
    return 0.1 * cross_entropy(student) + 0.9 * divergence(student, 10) * 10**2


def hinton(student: Array) -> float:
    # Soft cross-entropy times T**2, and half of the hard one beside it; less what the teacher alone decides.
    temperature = 2.0
    teacher = np.exp(log_softmax(TEACHER / temperature, axis=1))
    soft = -(teacher * log_softmax(student / temperature, axis=1)).sum() / 7
    entropy = -(teacher * np.log(teacher)).sum() / 7
    return float(temperature**2 * (soft - entropy) + 0.5 * cross_entropy(student))


PUBLISHED: dict[str, tuple[Callable[[Array], float], float]] = {
    "repdistiller": (repdistiller, 1.0),
    "torchdistill": (torchdistill, 1.0),
    "deit": (deit, 1.0),
    "distilbert": (distilbert, 7.0),
    "keras": (keras, 1.0),
    "hinton": (hinton, 1.5),
}
"""Each project's loss, and what is left over of it."""


def test_every_recipe_has_its_publication_here() -> None:
    assert set(RECIPES) == set(PUBLISHED) and set(DEFAULT_RECIPES) <= set(RECIPES)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_is_the_published_loss_up_to_a_factor(name: str) -> None:
    theirs, factor = PUBLISHED[name]
    for student in (STUDENT, STUDENT / 4, -STUDENT):
        assert theirs(student) == pytest.approx(factor * ours(student, **RECIPES[name]), rel=1e-12)


def test_the_values_are_those_that_are_known() -> None:
    assert {name: (recipe["temperature"], recipe["alpha"]) for name, recipe in RECIPES.items()} == {
        "repdistiller": (4, pytest.approx(0.1)),
        "distilbert": (2, pytest.approx(2 / 7)),
        "keras": (10, pytest.approx(0.1)),
        "torchdistill": (1, 0.5),
        "deit": (3, pytest.approx(0.9)),
        "hinton": (2, pytest.approx(1 / 3)),
    }
    for recipe in RECIPES.values():
        DistillationCriterion(**recipe)  # takes what a recipe says, and nothing else


@pytest.mark.parametrize(("hard", "soft"), [(5.0, 2.0), (0.3, 0.3), (0.0, 4.0), (2.0, 0.0)])
@pytest.mark.parametrize("squared", [True, False])
def test_any_two_weights_are_translated_with_and_without_the_square(hard: float, soft: float, squared: bool) -> None:
    temperature, alpha, factor = convert_weights(hard=hard, soft=soft, temperature=3.0, squared=squared)
    theirs = hard * cross_entropy(STUDENT) + soft * divergence(STUDENT, 3.0) * (9 if squared else 1)
    assert theirs == pytest.approx(factor * ours(STUDENT, temperature=temperature, alpha=alpha), rel=1e-12)


def test_a_divergence_that_is_averaged_over_classes_too_has_a_weight_of_a_share() -> None:
    # DeiT's losses.py: (1 - alpha) * base_loss + alpha * kl_div(reduction="sum") * T * T / outputs.numel().
    temperature, alpha, factor = convert_weights(hard=0.5, soft=0.5 / 5, temperature=2.0)
    theirs = 0.5 * cross_entropy(STUDENT) + 0.5 * divergence(STUDENT, 2.0) * 7 * 4 / STUDENT.size
    assert theirs == pytest.approx(factor * ours(STUDENT, temperature=temperature, alpha=alpha), rel=1e-12)


def test_the_first_keras_example_lacked_the_square_and_was_another_loss() -> None:
    assert convert_weights(hard=0.1, soft=0.9, temperature=10, squared=False).alpha == pytest.approx(0.1 / 0.109)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({"hard": -1.0, "soft": 2.0, "temperature": 1.0}, "weights must be at least 0"),
        ({"hard": 1.0, "soft": -2.0, "temperature": 1.0}, "weights must be at least 0"),
        ({"hard": 0.0, "soft": 0.0, "temperature": 1.0}, "and not both 0"),
        ({"hard": 1.0, "soft": 1.0, "temperature": 0.0}, "temperature must be positive"),
        ({"hard": 1.0, "soft": 1.0, "temperature": float("nan")}, "temperature must be positive"),
    ],
)
def test_weights_that_make_no_loss_are_refused(weights: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        convert_weights(**weights)
