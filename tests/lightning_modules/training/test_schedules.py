"""Schedules: the learning rate at each step, worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

from lightning_modules.training import Training
from lightning_modules.training.optimizers import make_optimizer
from lightning_modules.training.schedules import make_schedule


def optimizer(training: Training, *, factors: tuple[float, ...] = (1.0,)) -> torch.optim.Optimizer:
    groups = [{"params": [nn.Parameter(torch.ones(1))], "lr": training.learning_rate * factor} for factor in factors]
    made = torch.optim.SGD if training.optimizer == "sgd" else torch.optim.AdamW
    return made(groups, lr=training.learning_rate)  # type: ignore[arg-type]


def rates(training: Training, steps: int, *, factors: tuple[float, ...] = (1.0,), group: int = 0) -> list[float]:
    """The learning rate of each step as a share of the peak."""
    made = optimizer(training, factors=factors)
    schedule, seen = make_schedule(training, made, steps), []
    for _ in range(steps):
        seen.append(made.param_groups[group]["lr"] / training.learning_rate)
        made.step()
        schedule.step()
    return seen


def test_constant_stays() -> None:
    assert rates(Training(schedule="constant"), 4) == [1.0] * 4


def test_cosine_falls_from_the_peak_along_a_cosine() -> None:
    expected = [(1 + math.cos(math.pi * step / 4)) / 2 for step in range(4)]
    assert rates(Training(schedule="cosine"), 4) == pytest.approx(expected)
    assert expected[2] == pytest.approx(0.5)


def test_a_warm_up_rises_in_a_line_and_the_rest_follows() -> None:
    # 3 of 10 steps: a quarter, a half, three quarters, then the peak.
    expected = [0.25, 0.5, 0.75, *((1 + math.cos(math.pi * step / 7)) / 2 for step in range(7))]
    assert rates(Training(schedule="cosine", warmup=0.3), 10) == pytest.approx(expected)
    assert rates(Training(schedule="constant", warmup=0.5), 4) == pytest.approx([1 / 3, 2 / 3, 1, 1])
    assert rates(Training(schedule="constant", warmup=0.2), 4) == [1.0] * 4  # less than a step


def test_step_multiplies_at_each_milestone() -> None:
    assert rates(Training(schedule="step"), 8) == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])
    given = Training(schedule="step", milestones=(0.25,), step_factor=0.5, warmup=0.25)
    assert rates(given, 8) == pytest.approx([1 / 3, 2 / 3, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5])


def test_one_cycle_is_pytorchs() -> None:
    made = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.01)
    schedule, expected = OneCycleLR(made, max_lr=0.01, total_steps=10, pct_start=0.4, cycle_momentum=False), []
    for _ in range(10):
        expected.append(made.param_groups[0]["lr"] / 0.01)
        made.step()
        schedule.step()
    assert rates(Training(warmup=0.4), 10) == expected


@pytest.mark.parametrize(("warmup", "steps"), [(0.1, 10), (0.0, 10), (0.3, 3)])
def test_one_cycle_without_a_whole_step_to_warm_up_starts_at_its_peak(warmup: float, steps: int) -> None:
    found = rates(Training(warmup=warmup), steps)
    assert found == pytest.approx([(1 + math.cos(math.pi * step / steps)) / 2 for step in range(steps)])


@pytest.mark.parametrize("schedule", ["one_cycle", "cosine", "step", "constant"])
def test_each_group_has_its_own_peak(schedule: str) -> None:
    training = Training(schedule=schedule, warmup=0.3)
    plain, tenfold = rates(training, 12), rates(training, 12, factors=(1.0, 10.0), group=1)
    assert tenfold == pytest.approx([10 * rate for rate in plain])


def test_one_cycle_moves_adamws_beta_and_leaves_sgds_momentum() -> None:
    for name, moves in (("adamw", True), ("sgd", False)):
        training = Training(optimizer=name)
        made = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.01, momentum=0.7)
        made = made if name == "sgd" else torch.optim.AdamW([nn.Parameter(torch.ones(1))], lr=0.01)
        schedule, seen = make_schedule(training, made, 10), set()
        for _ in range(9):
            made.step()
            schedule.step()
            seen.add(made.param_groups[0]["betas"][0] if moves else made.param_groups[0]["momentum"])
        assert (len(seen) > 5) is moves and (moves or seen == {0.7})


@pytest.mark.parametrize("schedule", ["one_cycle", "cosine", "step", "constant"])
def test_a_schedule_goes_on_from_its_state(schedule: str) -> None:
    training = Training(optimizer="sgd", schedule=schedule, warmup=0.3)
    whole = rates(training, 10)
    first = optimizer(training)
    begun = make_schedule(training, first, 10)
    for _ in range(5):
        first.step()
        begun.step()
    second = optimizer(training)
    resumed = make_schedule(training, second, 10)
    second.load_state_dict(first.state_dict())
    resumed.load_state_dict(begun.state_dict())
    seen = []
    for _ in range(5):
        seen.append(second.param_groups[0]["lr"] / training.learning_rate)
        second.step()
        resumed.step()
    assert seen == whole[5:]


@pytest.mark.parametrize(
    ("settings", "total"),
    [
        ({}, 10),
        ({"schedule": "cosine", "warmup": 0.2}, 10),
        ({"schedule": "constant"}, 10),
        ({"schedule": "step"}, 10),
        ({}, 3),  # of a warm-up below one step
    ],
)
def test_a_frozen_group_has_no_rate_at_first_and_then_that_of_the_schedule(
    settings: dict[str, Any], total: int
) -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    module = nn.ModuleDict({"network": network})
    groups = {"1.*": {"learning_rate": 10.0}, "*": {"frozen": 0.4}}
    training = Training(learning_rate=0.1, groups=groups, optimizer="sgd", **settings)
    free = Training(learning_rate=0.1, groups={"1.*": {"learning_rate": 10.0}}, optimizer="sgd", **settings)
    rates = {}
    for name, one in (("frozen", training), ("free", free)):
        optimizer = make_optimizer(one, module)
        schedule = make_schedule(one, optimizer, total)
        rates[name] = []
        for _ in range(total):
            found = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
            rates[name].append((found[id(network[0].weight)], found[id(network[1].weight)]))
            optimizer.step()
            schedule.step()
    for step, ((trunk, head), (free_trunk, free_head)) in enumerate(zip(rates["frozen"], rates["free"], strict=True)):
        assert head == pytest.approx(free_head)
        assert trunk == (0.0 if step < 0.4 * total else pytest.approx(free_trunk))


def test_a_frozen_trunk_keeps_its_weights_until_its_share_of_the_steps() -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    training = Training(learning_rate=0.1, groups={"1.*": {"learning_rate": 10.0}, "*": {"frozen": 0.5}})
    optimizer = make_optimizer(training, nn.ModuleDict({"network": network}))
    schedule = make_schedule(training, optimizer, 6)
    before, changed = network[0].weight.detach().clone(), []
    for _ in range(6):
        optimizer.zero_grad()
        network(torch.ones(4, 3)).pow(2).sum().backward()
        optimizer.step()
        schedule.step()
        changed.append(not torch.equal(network[0].weight, before))
    assert changed == [False, False, False, True, True, True]


def test_a_share_of_frozen_steps_is_below_1() -> None:
    with pytest.raises(ValueError, match=r"frozen for a share of the steps in \[0, 1\)"):
        Training(groups={"*": {"frozen": 1.0}})
