"""Budgets such as ``--max parameters=2000``: costs are known beforehand, so a student over one is never trained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from optuna.distributions import BaseDistribution, IntDistribution

from harness.core.errors import HarnessError
from harness.core.metric import Costs
from harness.cost.table import MOST_ARCHITECTURES, CostTable, key_of
from harness.metrics import METRICS, budget_names, unknown_for_some
from harness.space import SearchSpace


def check_counted(uncounted: Sequence[str], budgets: Iterable[str], objectives: Iterable[str] = ()) -> None:
    """Check that costs that may be unknown, such as MACs, are asked for only where they can be counted.

    Args:
        uncounted: Operations of students that multiply and have no formula.
        budgets: Names of the costs that have a budget.
        objectives: Names of the objectives.

    Raises:
        HarnessError: If they can't be counted.
    """
    for flag, names in (("--max", unknown_for_some(budgets)), ("--objectives", unknown_for_some(objectives))):
        if names and uncounted:
            raise HarnessError(
                f"{flag} must ask for costs that are known, but {', '.join(names)} can't be counted of students: no "
                f"formula for {', '.join(uncounted)}; ask for {always_known()} instead."
            )


def always_known() -> str:
    """Return the budgets whose cost is known of every student, as ``parameters, size_mb or ...``."""
    *names, last = (name for name in budget_names() if not METRICS[name].may_be_unknown)
    return f"{', '.join(names)} or {last}"


def check_compared(teacher: Costs, objectives: Sequence[str]) -> None:
    """Check that students' costs are compared only with what the teacher has.

    Args:
        teacher: Its costs as far as they will be known, each some number above 0; one that it has not is 0 or missing.
        objectives: Names of the objectives.

    Raises:
        HarnessError: If it lacks one.
    """
    student = {name: 1.0 for name, metric in METRICS.items() if metric.is_measured}
    for name in objectives:
        if name in METRICS and METRICS[name].derive and METRICS[name].of_costs(student, teacher) is None:
            lacking = "parameters" if METRICS[name].is_timed is False else "known latency"
            instead = ("parameters", "size_mb") if lacking == "parameters" else ("latency_p50_ms", "latency_p95_ms")
            raise HarnessError(
                f"--objectives must ask for costs that are known, but there is no {name} of a teacher that has no "
                f"{lacking}; ask for {' or '.join(instead)} instead."
            )


def over(costs: Mapping[str, float], budgets: Mapping[str, float]) -> bool:
    """Return whether costs exceed one of the budgets."""
    return any(costs[name] > budget for name, budget in budgets.items())


def within(space: SearchSpace, budgets: Mapping[str, float], costs: CostTable) -> SearchSpace:
    """Return the space with its ranges narrowed to the architectures that are within every budget.

    Ranges of whole numbers can't exclude an expensive architecture between cheap ones: the sampler skips those.

    Args:
        space: The space.
        budgets: The most that a student may cost, by name of the cost.
        costs: Costs of every architecture that memory suffices for. A space of too many to be measured is not
            narrowed.

    Raises:
        HarnessError: If no student is within every budget.
    """
    listed = space.architectures(limit=MOST_ARCHITECTURES) or []
    architectures = [architecture for architecture in listed if key_of(architecture) in costs.students]
    if not budgets or not architectures:
        return space
    kept = [architecture for architecture in architectures if not over(costs.metrics(architecture), budgets)]
    if not kept:
        raise HarnessError(_none_within(architectures, budgets, costs))

    def narrowed(name: str, distribution: BaseDistribution) -> BaseDistribution:
        values = [architecture[name] for architecture in kept if name in architecture]
        if values and isinstance(distribution, IntDistribution):
            low, high = min(values), max(values)
            return IntDistribution(low, high, log=distribution.log, step=distribution.step)
        return distribution  # steps of decimals would not meet their old grid again

    return replace(space, student={name: narrowed(name, dist) for name, dist in space.student.items()})


def _none_within(architectures: list[dict[str, Any]], budgets: Mapping[str, float], costs: CostTable) -> str:
    # The cheapest is the one that misses its budgets by the smallest factor.
    cheapest = min(
        architectures, key=lambda architecture: max(costs.metrics(architecture)[n] / b for n, b in budgets.items())
    )
    named = ", ".join(f"{name}={value}" for name, value in cheapest.items())
    asked = ", ".join(f"{name}={budget:g}" for name, budget in budgets.items())
    has = ", ".join(f"{name} {costs.metrics(cheapest)[name]:.4g}" for name in budgets)
    return f"--max must leave a student to be trained, but none is within {asked}; the cheapest, {named}, has {has}."
