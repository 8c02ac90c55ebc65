"""Optimizer steps from the losses of batches: one gradient for several, of the right size."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lightning_modules.training import Training
from lightning_modules.training.updates import Updates


class Counting:
    steps = 0

    def step(self) -> None:
        self.steps += 1


def one_step(training: Training, batches: list[Tensor], start: float = 0.0) -> tuple[float, int]:
    """The weight after batches of samples x with the loss mean(x) · w, and the number of steps. SGD's rate is 1."""
    weight = nn.Parameter(torch.tensor([start]))
    optimizer, schedule, updates = torch.optim.SGD([weight], lr=1.0), Counting(), Updates(training)
    taken = [updates.add((batch.mean() * weight).sum(), len(batch), optimizer, schedule) for batch in batches]
    taken.append(updates.finish(optimizer, schedule))
    assert sum(taken) == schedule.steps
    return float(weight.detach()), schedule.steps


def test_a_step_has_the_gradient_of_the_mean_over_the_samples_of_its_batches() -> None:
    # Three samples of 1 and one of 9: their mean is 3, where the mean of the batches' means would be 5.
    batches = [torch.tensor([1.0, 1.0, 1.0]), torch.tensor([9.0])]
    assert one_step(Training(accumulate=2), batches) == (-3.0, 1)


def test_the_batches_that_are_left_are_divided_by_their_own_number_of_samples() -> None:
    batches = [torch.tensor([2.0, 2.0])] * 4 + [torch.tensor([6.0])]
    # Two whole groups of gradient 2, and one of a single sample of gradient 6.
    assert one_step(Training(accumulate=2), batches) == (-10.0, 3)


def test_every_batch_is_a_step_by_default() -> None:
    assert one_step(Training(), [torch.tensor([1.0, 3.0]), torch.tensor([5.0])]) == (-7.0, 2)


def test_a_long_gradient_is_scaled_down_to_the_norm_and_a_short_one_is_not() -> None:
    assert one_step(Training(clip_norm=2.0), [torch.tensor([8.0])])[0] == pytest.approx(-2.0, rel=1e-5)
    assert one_step(Training(clip_norm=2.0), [torch.tensor([0.5])])[0] == -0.5


def test_what_is_clipped_is_the_gradient_of_the_whole_step() -> None:
    # Gradients 6 and -2 of one sample each: their mean is 2, which is not clipped at 3, as 6 alone would be.
    assert one_step(Training(accumulate=2, clip_norm=3.0), [torch.tensor([6.0]), torch.tensor([-2.0])])[0] == -2.0


def test_the_norm_is_that_of_all_parameters_together() -> None:
    first, second = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([{"params": [first]}, {"params": [second]}], lr=1.0)
    Updates(Training(clip_norm=1.0)).add((3 * first + 4 * second).sum(), 1, optimizer, Counting())
    assert (float(first.detach()), float(second.detach())) == pytest.approx((-0.6, -0.8), rel=1e-5)


def test_nothing_is_left_after_a_whole_group() -> None:
    weight = nn.Parameter(torch.zeros(1))
    optimizer, schedule, updates = torch.optim.SGD([weight], lr=1.0), Counting(), Updates(Training(accumulate=2))
    assert not updates.finish(optimizer, schedule)
    assert [updates.add(weight.sum(), 1, optimizer, schedule) for _ in range(2)] == [False, True]
    assert not updates.finish(optimizer, schedule) and schedule.steps == 1
