"""Budgets: a student that costs too much is never drawn, and a budget that no student meets is said at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
import torch
from conftest import opened, settings_in
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from harness.core.errors import HarnessError, TrialFailed
from harness.cost import budgets as budget
from harness.cost.base import Conditions
from harness.cost.table import CostTable, key_of
from harness.preparation.student_costs import costs_of, refusal
from harness.sampling.first_trials import first_trials
from harness.sampling.proposal import Proposer
from harness.space import SearchSpace
from lightning_modules.networks import ConvNet
from search_spaces.digits import SPACE, Digits


def cost_of(parameters: int, latency_ms: float) -> dict[str, float]:
    return {
        "parameters": parameters,
        "trainable_parameters": parameters,
        "macs": 10 * parameters,
        "size_mb": parameters / 1e6,
        "latency_p50_ms": latency_ms,
        "latency_p95_ms": 2 * latency_ms,
        "throughput_per_s": 1000 / latency_ms,
    }


def table(space: SearchSpace, parameters: dict[str, int]) -> CostTable:
    costs = {key: cost_of(count, count / 100) for key, count in parameters.items()}
    return CostTable({"torch_eager": Conditions("a processor")}, cost_of(10_000, 9.0), costs)


# A network of width w costs 100·w parameters, and w milliseconds.
WIDTHS = table(SPACE, {key_of({"width": width}): 100 * width for width in range(1, 33)})


def test_a_range_is_narrowed_to_what_a_budget_leaves() -> None:
    space = budget.within(SPACE, {"parameters": 750}, WIDTHS)
    assert space.student == {"width": IntDistribution(1, 7, log=True)}
    assert replace(space, student=SPACE.student) == SPACE
    both = budget.within(SPACE, {"parameters": 750, "latency_p50_ms": 5.0}, WIDTHS)
    assert both.student == {"width": IntDistribution(1, 5, log=True)}  # at most: 5 ms are within 5 ms


def test_without_a_budget_nothing_is_narrowed() -> None:
    assert budget.within(SPACE, {}, WIDTHS) is SPACE


def test_a_budget_that_no_student_meets_names_the_cheapest() -> None:
    with pytest.raises(HarnessError) as raised:
        budget.within(SPACE, {"latency_p50_ms": 0.5, "parameters": 1e6}, WIDTHS)
    assert str(raised.value) == (
        "--max must leave a student to be trained, but none is within latency_p50_ms=0.5, parameters=1e+06; "
        "the cheapest, width=1, has latency_p50_ms 1, parameters 100."
    )


def test_recipes_stay_within_the_budget() -> None:
    space = budget.within(SPACE, {"parameters": 450}, WIDTHS)
    assert {params["width"] for params in first_trials(space).values()} == {2}  # sqrt(1 x 4)


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "gp", "random"])
def test_what_ranges_cannot_say_is_never_drawn(sampler: str) -> None:
    # Wide and shallow, or narrow and deep: the product is the cost, which no range of either says.
    space = replace(
        SPACE,
        student={"width": IntDistribution(1, 6), "depth": IntDistribution(1, 6)},
        distillation={"temperature": CategoricalDistribution([4.0]), "alpha": FloatDistribution(0, 1)},
    )
    costs = table(space, {key_of({"width": w, "depth": d}): 100 * w * d for w in range(1, 7) for d in range(1, 7)})
    budgets = {"parameters": 650.0}
    proposer = Proposer(
        budget.within(space, budgets, costs),
        sampler=sampler,
        seed=0,
        directions=("maximize", "minimize"),
        refusal=lambda architecture: "over --max" if budget.over(costs.metrics(architecture), budgets) else None,
    )
    assert proposer.space.student == space.student
    study = optuna.create_study(directions=["maximize", "minimize"])
    for _ in range(8 if sampler == "gp" else 30):  # a model's fit takes its time
        proposal = proposer.propose(study.get_trials(deepcopy=False))
        assert proposal is not None and proposal.params["width"] * proposal.params["depth"] <= 6
        study.add_trial(
            optuna.trial.create_trial(
                values=[math.sin(proposal.params["alpha"]), proposal.params["width"]],
                params=proposal.params,
                distributions=proposal.distributions,
                system_attrs=proposal.notes,
                user_attrs={} if proposal.recipe is None else {"recipe": proposal.recipe},
            )
        )
    # The middle, four by four, is over the budget; two by three is the nearest that is not.
    tried = [trial for trial in study.trials if "recipe" in trial.user_attrs]
    assert {trial.user_attrs["recipe"] for trial in tried} == {"repdistiller"}
    assert {trial.params["width"] * trial.params["depth"] for trial in tried} == {6}


@pytest.mark.parametrize(
    "space",
    [
        SPACE,
        replace(SPACE, distillation={"label_smoothing": {"smoothing": CategoricalDistribution([0.1])}}, training={}),
    ],
)
def test_a_space_of_which_nothing_may_be_trained_says_why(space: SearchSpace) -> None:
    def proposer(refusal: Callable[[Mapping[str, Any]], str]) -> Proposer:
        return Proposer(space, sampler="random", seed=0, directions=("maximize",), refusal=refusal)

    with pytest.raises(HarnessError, match=r"none may be: [\d,]+ over --max; change --max or its ranges\.$"):
        proposer(lambda architecture: "over --max").propose([])
    words = r"may be: [\d,]+ that lack a layer, [\d,]+ too large; change its ranges or methods\.$"
    with pytest.raises(HarnessError, match=words):
        proposer(lambda architecture: "too large" if architecture["width"] < 4 else "that lack a layer").propose([])


class Large(Digits):
    """Of some widths, students can't be built or asked for want of memory."""

    def student(self, *, width: int) -> ConvNet:
        if width == 900:
            raise MemoryError
        if width == 950:
            torch.empty(2**60)
        return Forward(width, size=8) if width == 3 else ConvNet(width % 100, size=8)


class Forward(ConvNet):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return super().forward(inputs) + torch.empty(2**60)


@pytest.mark.parametrize("name", ["parameters", "latency_p50_ms"])
def test_students_that_memory_does_not_suffice_for_are_not_affordable_and_it_is_said(tmp_path: Path, name: str) -> None:
    space = replace(SPACE, task=Large(), student={"width": IntDistribution(1, 1000)})
    study = opened(replace(settings_in(tmp_path, trials=9), budgets={name: 1e9}), space)
    said, costs = list[str](), table(space, {})
    study.retry.notifier.say = said.append
    study.costs = costs.to_json()
    prepared: Any = SimpleNamespace(costs=costs, data=space.task.data(None))
    found = [refusal({"width": width}, space, study, prepared) for width in (900, 950, 3, 4)]
    assert found == ["that memory does not suffice for"] * 3 + [None]
    assert said == ["students that memory does not suffice for are not tried (student(width=900))"]  # once a minute
    with pytest.raises(MemoryError):  # in a trial, which fails by its own doing
        costs_of({"width": 900}, space, study, prepared)


def test_a_range_is_narrowed_where_some_students_could_not_be_measured() -> None:
    costs = table(SPACE, {key_of({"width": width}): 100 * width for width in range(1, 33) if width != 3})
    assert budget.within(SPACE, {"parameters": 750}, costs).student == {"width": IntDistribution(1, 7, log=True)}


class Solving(ConvNet):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return super().forward(inputs) + torch.linalg.solve(torch.eye(2), torch.ones(2)).sum()


ASKED = ("accuracy", "macs")


class Mixed(Digits):
    """Odd students solve equations, whose products can't be counted."""

    def student(self, *, width: int) -> ConvNet:
        return (Solving if width % 2 else ConvNet)(width, size=8)


@pytest.mark.parametrize(
    "asked", [{"budgets": {"macs": 1e9}}, {"objectives": ASKED}, {"objectives": ASKED, "budgets": {"parameters": 1e9}}]
)
def test_in_a_large_space_students_that_can_not_be_counted_are_passed_over_and_it_is_said_once(
    tmp_path: Path, asked: dict[str, Any]
) -> None:
    space = replace(SPACE, task=Mixed(), student={"width": IntDistribution(1, 1000)})
    settings = replace(settings_in(tmp_path, trials=9), **asked)
    study, said, costs = opened(settings, space), list[str](), table(space, {})
    study.retry.notifier.say = said.append
    prepared: Any = SimpleNamespace(costs=costs, data=space.task.data(None))
    found = [refusal({"width": width}, space, study, prepared) for width in (1, 2, 3, 4)]
    assert found == ["whose macs can't be counted", None, "whose macs can't be counted", None]
    assert said == ["students whose macs can't be counted are not tried: no formula for aten._linalg_solve_ex"]
    study.costs = costs.to_json()
    assert costs_of({"width": 2}, space, study, prepared)["macs"] > 0
    with pytest.raises(TrialFailed, match="macs are asked for, and can't be counted"):  # one that was enqueued
        costs_of({"width": 1}, space, study, prepared)
    assert refusal({"width": 1}, space, study, prepared) == "whose macs can't be counted"  # measured, and not counted
