"""Directions of vectors, deviations from a mean, and inner products, where there is nothing to divide by."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_modules.losses._numeric import centred, inner_products, unit


def test_unit_vectors_have_length_1_along_their_dimension() -> None:
    vectors = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for dim in (0, 1, 2, -1):
        expected = vectors.numpy() / np.linalg.norm(vectors.numpy(), axis=dim, keepdims=True)
        np.testing.assert_allclose(unit(vectors, dim), expected, rtol=1e-14)


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1.0, 1e20, 5e37])
def test_no_length_of_fp32_overflows_or_vanishes(scale: float) -> None:
    vectors = (scale * torch.tensor([[3.0, -4.0]])).requires_grad_()
    directions = unit(vectors)
    torch.testing.assert_close(directions.detach(), torch.tensor([[0.6, -0.8]]))
    directions[0, 0].backward()
    assert vectors.grad is not None
    # By hand: (1 - 0.6²) / 5 and 0.6 · 0.8 / 5.
    torch.testing.assert_close(scale * vectors.grad, torch.tensor([[0.128, 0.096]]))


def test_a_zero_vector_stays_zero_and_gets_no_gradient() -> None:
    vectors = torch.tensor([[0.0, 0.0], [1e-40, 0.0], [0.0, 2.0]], requires_grad=True)
    directions = unit(vectors)
    assert directions.tolist() == [[0, 0], [0, 0], [0, 1]]
    directions.sum().backward()
    assert vectors.grad is not None and vectors.grad.tolist() == [[0, 0], [0, 0], [0.5, 0]]


def test_deviations_are_from_the_mean_along_their_dimension() -> None:
    values = torch.tensor([[1.0, 2.0], [3.0, 8.0]])
    assert centred(values, dim=0).tolist() == [[-1, -3], [1, 3]]
    assert centred(values, dim=1).tolist() == [[-0.5, 0.5], [-2.5, 2.5]]


@pytest.mark.parametrize("value", [1e-30, 0.1, -7e3])
def test_equal_values_have_no_deviation_even_if_their_mean_is_rounded(value: float) -> None:
    values = torch.full((2, 1000), value)
    values[0, ::3] = values[0, ::3].nextafter(torch.ones(()))
    values.requires_grad_()
    deviations = centred(values, dim=1)
    assert not deviations.any()
    deviations.square().sum().backward()
    assert values.grad is not None and not values.grad.any()


def test_a_small_variation_beside_a_large_mean_is_kept() -> None:
    deviations = centred(torch.tensor([[1000.0, 1000.01]]), dim=1)
    torch.testing.assert_close(deviations, torch.tensor([[-0.005, 0.005]]), rtol=0.02, atol=0)


def test_inner_products_keep_their_precision_under_autocast() -> None:
    left, right = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    expected = np.einsum("bmd,bnd->bmn", left.double(), right.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        products = inner_products(left, right)
    assert products.dtype == torch.float32
    np.testing.assert_allclose(products, expected, rtol=1e-5, atol=1e-6)
