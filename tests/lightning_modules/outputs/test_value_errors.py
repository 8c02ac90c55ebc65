"""How a student errs beside its teacher in numbers: worked by hand, and beside NumPy and SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr

from lightning_modules.outputs import Classification, Regression
from lightning_modules.outputs.errors import value_errors

TARGETS = torch.arange(20.0)[:, None]
"""Two ranges of ten samples: 0 to 9, and 10 to 19."""

TEACHER = TARGETS + 1
STUDENT = torch.where(TARGETS < 10, TARGETS + 0.5, TARGETS - 3)
"""Closer than the teacher in the lower range, and 3 below in the upper one: 1.75 on average, with a bias of -1.25."""


def test_the_errors_of_a_number_are_those_worked_by_hand() -> None:
    table = value_errors(STUDENT, TEACHER, TARGETS).table
    assert table["part"] == [0, 1, 2] and table["samples"] == [20, 10, 10]
    assert (table["target_from"], table["target_to"]) == ([0, 0, 10], [19, 9, 19])
    assert table["teacher_mae"] == [1, 1, 1] and table["student_mae"] == [1.75, 0.5, 3]
    assert table["teacher_p95"] == [1, 1, 1] and table["student_p95"] == [3, 0.5, 3]
    assert table["teacher_bias"] == [1, 1, 1] and table["student_bias"] == [-1.25, 0.5, -3]
    assert table["student_closer"] == [10, 10, 0]
    assert table["correlation"][1:] == pytest.approx([1, 1])


def test_the_sentence_compares_errors_and_names_the_range_that_loses_most() -> None:
    found = value_errors(STUDENT, TEACHER, TARGETS)
    assert found.sentence == (
        "errs by 1.75 on average, the teacher by 1 (95 % of its errors are at most 3, of the teacher's 1); it is "
        "closer to the target than the teacher on 10 of 20 samples (50.0 %); it loses most at targets from 10 to 19 "
        "(3, the teacher 1, of 10 samples)."
    )
    # Var(y) = 33.25, Cov(y, answer) = 33.25 - 3.5 · 2.5 = 24.5, Var(answer) = 33.25 + 3.5² / 4 - 7 · 2.5 = 18.8125
    assert 24.5 / math.sqrt(33.25 * 18.8125) == pytest.approx(0.98, abs=5e-3)
    assert found.details == (
        "Its bias, the mean of its answers less the targets, is -1.25, the teacher's +1. Its answers correlate with "
        "the teacher's by Pearson's r = 0.98, with the targets 0.98 (the teacher's 1.00)."
    )
    assert {name: values.tolist() for name, values in found.answers.items()} == {
        "labels": TARGETS.tolist(),
        "teacher": TEACHER.tolist(),
        "student": STUDENT.tolist(),
    }


def test_errors_are_those_of_numpy_and_scipy() -> None:
    rng = np.random.default_rng(0)
    targets = rng.normal(size=(500, 1)) * 30
    teacher, student = targets + rng.normal(size=(500, 1)), targets + rng.standard_cauchy(size=(500, 1))
    table = value_errors(*map(torch.from_numpy, (student, teacher, targets))).table
    errors = abs(student - targets)[:, 0]
    assert table["student_p95"][0] == pytest.approx(np.percentile(errors, 95))
    assert table["correlation"][0] == pytest.approx(pearsonr(student[:, 0], teacher[:, 0]).statistic)
    assert table["samples"] == [500, 100, 100, 100, 100, 100]
    order = targets[:, 0].argsort()
    assert table["student_mae"][1:] == pytest.approx([errors[part].mean() for part in np.split(order, 5)])


def test_of_several_values_the_one_that_grows_most_is_told_and_the_others_after_it() -> None:
    targets = torch.zeros(4, 3)
    teacher, student = torch.tensor([[1.0, 2.0, 10.0]]).expand(4, 3), torch.tensor([[1.5, 6.0, 11.0]]).expand(4, 3)
    found = value_errors(student, teacher, targets)
    assert found.sentence.startswith("errs most in value 1: by 6 on average, the teacher by 2")
    assert found.details.endswith("Its mean error is 1.5 in value 0 (the teacher 1), 11 in value 2 (the teacher 10).")
    assert found.table["value"] == [0, 1, 2] and "loses most" not in found.sentence  # the targets have one value


def test_answers_that_are_all_alike_have_no_correlation() -> None:
    found = value_errors(torch.ones(20, 1), TEACHER, TARGETS)
    assert math.isnan(found.table["correlation"][0]) and "correlate" not in found.details  # type: ignore[arg-type]


def test_of_very_many_numbers_an_even_choice_is_kept_and_all_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_modules.outputs.errors._KEPT", 5)
    found = value_errors(STUDENT, TEACHER, TARGETS)
    assert found.answers["labels"].flatten().tolist() == [0, 4, 8, 12, 16] and found.table["samples"][0] == 20


def test_a_student_that_loses_nowhere_has_no_range_that_loses_most() -> None:
    assert "loses most" not in value_errors(TARGETS, TEACHER, TARGETS).sentence


def test_numbers_describe_their_errors_and_classes_are_compared_row_by_row() -> None:
    assert value_errors(STUDENT, TEACHER, TARGETS).table["student_mae"][0] == 1.75
    assert Regression(1).describe_errors(STUDENT, TEACHER, TARGETS).sentence.startswith("errs by 1.75 on average")
    assert Classification(2).describe_errors(torch.zeros(3, 2), torch.zeros(3, 2), torch.zeros(3)) is None
