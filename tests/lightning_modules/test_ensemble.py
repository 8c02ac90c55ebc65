"""Averages of teachers, against NumPy and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax

from lightning_modules.ensemble import mean_of_logits, mean_of_probabilities

_draw = np.random.default_rng(0)
LOGITS = [4 * _draw.standard_normal((6, 2, 5)) for _ in range(3)]
TENSORS = [torch.from_numpy(logits) for logits in LOGITS]


def test_the_softmax_of_averaged_probabilities_is_their_mean() -> None:
    mean = mean_of_probabilities(TENSORS)
    expected = np.mean([softmax(logits, axis=-1) for logits in LOGITS], axis=0)
    assert mean.shape == (6, 2, 5)
    np.testing.assert_allclose(mean.exp(), expected, rtol=1e-12)
    for temperature in (1, 4):  # any T softens the mean: p^(1/T), normalised
        soft = expected ** (1 / temperature)
        np.testing.assert_allclose(
            softmax(mean.numpy() / temperature, axis=-1), soft / soft.sum(-1, keepdims=True), rtol=1e-12
        )


def test_two_contradicting_teachers_average_to_one_half_each() -> None:
    sure = [torch.tensor([[50.0, 0.0, 0.0]]), torch.tensor([[0.0, 50.0, 0.0]])]
    torch.testing.assert_close(mean_of_probabilities(sure).softmax(-1), torch.tensor([[0.5, 0.5, 0.0]]))


def test_averaged_logits_are_centred_and_their_softmax_is_the_geometric_mean_at_any_temperature() -> None:
    mean = mean_of_logits(TENSORS)
    np.testing.assert_allclose(
        mean, np.mean([logits - logits.mean(-1, keepdims=True) for logits in LOGITS], axis=0), atol=1e-12
    )
    for temperature in (1, 7):
        logs = np.mean([log_softmax(logits / temperature, axis=-1) for logits in LOGITS], axis=0)
        np.testing.assert_allclose(softmax(mean.numpy() / temperature, axis=-1), softmax(logs, axis=-1), rtol=1e-12)


def test_a_constant_added_to_a_teachers_logits_changes_nothing() -> None:
    shifted = [tensor + 100 * place for place, tensor in enumerate(TENSORS)]
    for mean in (mean_of_logits, mean_of_probabilities):
        torch.testing.assert_close(mean(shifted), mean(TENSORS))


@pytest.mark.parametrize("mean", [mean_of_logits, mean_of_probabilities])
def test_averages_are_finite_at_extremes_in_single_precision(mean: object) -> None:
    extreme = [torch.tensor([[1e4, -1e4, 0.0]]), torch.tensor([[-1e4, 1e4, 0.0]])]
    assert callable(mean) and mean(extreme).dtype == torch.float32 and mean(extreme).isfinite().all()


def test_a_class_masked_by_a_teacher_is_masked_in_the_geometric_mean() -> None:
    members = [torch.tensor([[1.0, 3.0, -torch.inf]]), torch.tensor([[0.0, 2.0, 4.0]])]
    # Centred: (-1, 1, -inf) and (-2, 0, 2).
    torch.testing.assert_close(mean_of_logits(members), torch.tensor([[-1.5, 0.5, -torch.inf]]))
    half = torch.tensor([[0.5, 0.5, 0.0]])
    torch.testing.assert_close(mean_of_probabilities([half.log(), half.log()]).exp(), half)


@pytest.mark.parametrize("mean", [mean_of_logits, mean_of_probabilities])
def test_teachers_with_different_numbers_of_classes_are_refused(mean: object) -> None:
    assert callable(mean)
    for members in ([torch.zeros(2, 3), torch.zeros(2, 4)], []):
        with pytest.raises(ValueError, match="members must have logits of one shape"):
            mean(members)
