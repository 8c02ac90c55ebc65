"""The scale of a teacher's numbers: lines worked by hand, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_modules.outputs import Classification, Regression
from lightning_modules.outputs.scale import fit_affine, scale_fault

CELSIUS = torch.arange(0.0, 41.0)[:, None]
FAHRENHEIT = CELSIUS * 1.8 + 32


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_line_maps_fahrenheit_to_celsius() -> None:
    line = fit_affine(FAHRENHEIT, CELSIUS)
    torch.testing.assert_close(line(torch.tensor([[212.0], [-40.0]])), torch.tensor([[100.0], [-40.0]]))
    assert str(line) == "0.5556 · answer - 17.78"  # 5/9, and 32 · 5/9


def test_a_line_is_that_of_numpy_for_each_value_and_maps_views() -> None:
    answers, targets = noise(50, 2), noise(50, 2, seed=1)
    line = fit_affine(answers, targets)
    for value in range(2):
        slope, intercept = np.polyfit(answers[:, value].numpy(), targets[:, value].numpy(), 1)
        assert line.slope[value] == pytest.approx(slope, rel=1e-4)
        assert line.intercept[value] == pytest.approx(intercept, rel=1e-4)
    views = answers.reshape(25, 2, 2)
    torch.testing.assert_close(line(views), line(answers).reshape(25, 2, 2))
    assert str(line).startswith("value 0: ") and ", value 1: " in str(line)


def test_answers_that_are_all_alike_are_mapped_to_the_mean_target() -> None:
    assert fit_affine(torch.ones(41, 1), CELSIUS)(torch.ones(1, 1)).tolist() == [[20.0]]


def test_a_teacher_of_another_scale_is_found_with_the_line_and_both_errors() -> None:
    # The mean of 0.8 · c + 32 over 0 to 40 is 48, which no line leaves.
    found = scale_fault(FAHRENHEIT, CELSIUS)
    assert found is not None and found.startswith(
        "numbers on another scale than the targets: a target is about 0.5556 · answer - 17.78, which leaves a mean "
        "error of "
    )
    assert found.endswith(" instead of 48")


@pytest.mark.parametrize(
    "answers",
    [
        CELSIUS,
        CELSIUS + 0.01,  # a line would cut its error to nothing, but it is small
        CELSIUS + 5 * noise(41, 1),  # imprecise
        0.8 * CELSIUS + 4 + 5 * noise(41, 1),  # shrunk towards the mean, as of a network that is regularized
        200 * noise(41, 1),  # knows nothing: another warning's matter
        torch.full((41, 1), 300.0),  # the same
    ],
)
def test_teachers_on_the_targets_scale_and_those_that_know_too_little_are_left_alone(answers: Tensor) -> None:
    assert scale_fault(answers, CELSIUS) is None


@pytest.mark.parametrize(
    "answers",
    [
        CELSIUS + 100,
        -CELSIUS,
        CELSIUS / 1000,
        (CELSIUS - 20) / 11.8,  # standardized, by its standard deviation
        FAHRENHEIT + 5 * noise(41, 1),
    ],
)
def test_teachers_that_are_shifted_turned_shrunk_or_standardized_are_found(answers: Tensor) -> None:
    assert scale_fault(answers, CELSIUS) is not None


def test_of_several_values_the_one_that_is_off_is_named() -> None:
    both = torch.cat([CELSIUS, CELSIUS], 1)
    found = scale_fault(torch.cat([CELSIUS, FAHRENHEIT], 1), both)
    assert found is not None and "in 1 of 2 values; value 1 is about 0.5556 · answer - 17.78" in found


def test_too_few_samples_show_nothing() -> None:
    assert scale_fault(FAHRENHEIT[:19], CELSIUS[:19]) is None and scale_fault(FAHRENHEIT[:20], CELSIUS[:20]) is not None


def test_a_regression_refuses_another_scale_unless_that_is_said_and_then_maps_it() -> None:
    fault = Regression(1).teacher_fault(FAHRENHEIT, CELSIUS)
    assert fault is not None and fault.remedy.endswith(
        "say Regression(1, teacher_scale='own') to have its answers mapped"
    )
    assert Regression(1).teacher_map(FAHRENHEIT, CELSIUS) is None
    own = Regression(teacher_scale="own")
    assert own.teacher_fault(FAHRENHEIT, CELSIUS) is None
    line = own.teacher_map(FAHRENHEIT, CELSIUS)
    assert line is not None
    torch.testing.assert_close(line(FAHRENHEIT), CELSIUS, atol=1e-4, rtol=1e-5)


def test_scores_of_classes_have_no_scale_of_labels() -> None:
    assert Classification(2).teacher_fault(torch.zeros(30, 2), torch.zeros(30)) is None
    assert Classification(2).teacher_map(torch.zeros(30, 2), torch.zeros(30)) is None


def test_another_word_for_the_scale_is_refused() -> None:
    with pytest.raises(ValueError, match="teacher_scale must be 'targets' or 'own', but got 'mine'"):
        Regression(1, teacher_scale="mine")  # type: ignore[arg-type]
