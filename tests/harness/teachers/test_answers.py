"""What a teacher says in any form becomes logits; what is no such answer is refused by name."""

from __future__ import annotations

import math

import pytest
import torch

from harness.core.errors import HarnessError
from harness.teachers.answers import FLOOR, are_probabilities, from_labels, from_top_k, to_logits

WHO = "the oracle"


def row(place: int) -> str:
    return f"row {place}"


def test_probabilities_become_their_logarithms_and_zeros_are_floored_and_counted() -> None:
    told = to_logits(torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]), "probabilities", WHO, row)
    floor = math.log(FLOOR)
    expected = torch.tensor([[math.log(0.5), math.log(0.5), floor], [0.0, floor, floor]])
    torch.testing.assert_close(told.values, expected)
    assert told.floored == 3


def test_logits_are_unchanged_and_log_probabilities_are_themselves() -> None:
    logits = torch.tensor([[3.0, -1.0, -math.inf]])
    assert torch.equal(to_logits(logits, "logits", WHO, row).values, logits)
    logs = torch.tensor([[0.25, 0.25, 0.5]]).log()
    torch.testing.assert_close(to_logits(logs, "log_probabilities", WHO, row).values, logs)


@pytest.mark.parametrize(
    ("values", "kind", "told"),
    [
        ([[0.5, 0.5], [0.5, math.nan]], "probabilities", "NaN among the probabilities of row 1"),
        ([[0.5, 0.5], [1.5, -0.5]], "probabilities", "negative numbers among the probabilities of row 1"),
        ([[0.5, 0.4], [0.5, 0.5]], "probabilities", "a sum of 0.9 instead of 1 of the probabilities of row 0"),
        ([[0.0, 0.0]], "log_probabilities", "a sum of 2 instead of 1 of the log probabilities of row 0"),
        ([[1.0, math.inf]], "logits", "infinity among the logits of row 0"),
        ([[-math.inf, -math.inf]], "logits", "nothing but -inf for the logits of row 0"),
    ],
)  # fmt: skip
def test_what_is_no_answer_is_refused_by_the_name_of_its_row(values: list[list[float]], kind: str, told: str) -> None:
    with pytest.raises(HarnessError, match=told.replace(".", r"\.")):
        to_logits(torch.tensor(values), kind, WHO, row)


def test_of_many_bad_rows_three_are_named_and_all_are_counted() -> None:
    with pytest.raises(HarnessError, match="of row 0, row 1, row 2 and 7 more"):
        to_logits(torch.full((10, 2), math.nan), "logits", WHO, row)


def test_labels_are_one_class_near_one() -> None:
    shares = from_labels(torch.tensor([2, 0]), 3).double().exp()
    expected = torch.full((2, 3), FLOOR, dtype=torch.float64)
    expected[0, 2] = expected[1, 0] = 1 - 2 * FLOOR
    torch.testing.assert_close(shares, expected, rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(shares.sum(1), torch.ones(2, dtype=torch.float64), rtol=1e-6, atol=0)


def test_what_top_k_leave_is_spread_evenly() -> None:
    indices, shares = torch.tensor([[3, 0], [1, -1]]), torch.tensor([[0.6, 0.2], [0.7, 0.0]])
    found = from_top_k(indices, shares, 4, WHO, row)
    torch.testing.assert_close(found.float(), torch.tensor([[0.2, 0.1, 0.1, 0.6], [0.1, 0.7, 0.1, 0.1]]))


@pytest.mark.parametrize(
    ("indices", "shares", "told"),
    [
        ([[1, 1]], [[0.5, 0.2]], "a class twice"),
        ([[1, 4]], [[0.5, 0.2]], "a class beyond the 4"),
        ([[1, 0]], [[0.9, 0.2]], "sum to more than 1"),
        ([[1, 0]], [[0.9, -0.2]], "negative"),
    ],
)
def test_top_k_that_are_no_probabilities_are_refused(
    indices: list[list[int]], shares: list[list[float]], told: str
) -> None:
    with pytest.raises(HarnessError, match=told):
        from_top_k(torch.tensor(indices), torch.tensor(shares), 4, WHO, row)


def test_probabilities_are_told_from_logits() -> None:
    assert are_probabilities(torch.tensor([[0.2, 0.8], [1.0, 0.0]]))
    assert not are_probabilities(torch.tensor([[0.2, 0.8], [1.0, 0.5]]))
    assert not are_probabilities(torch.tensor([[-1.0, 2.0]]))
