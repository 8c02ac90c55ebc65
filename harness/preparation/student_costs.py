"""Costs of one student during a search: looked up or measured, and whether a student of such costs is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from harness.core.errors import TrialFailed, if_memory_suffices
from harness.cost import budgets as budget
from harness.cost.base import backends
from harness.cost.counting import count_costs
from harness.cost.macs import macs_of
from harness.cost.measure import measure_costs
from harness.cost.rounds import FEWEST_ROUNDS, Rounds
from harness.cost.table import CostTable, key_of
from harness.metrics import unknown_for_some
from harness.networks.shape import state_shapes
from harness.networks.students import named
from harness.preparation.cost_table import limit_s_of
from harness.preparation.prepared import Prepared
from harness.preparation.user_code import deployed_of
from harness.space import SearchSpace
from harness.studies.study import Study

_OVER, _TOO_LARGE = "over --max", "that memory does not suffice for"


def costs_of(architecture: Mapping[str, Any], space: SearchSpace, study: Study, prepared: Prepared) -> dict[str, float]:
    """Return the costs of one architecture by metric name, measured now if the space was too large to do so before.

    Raises:
        TrialFailed: If the study needs one that can't be counted, as MACs.
    """
    costs = _known_or_measured(architecture, space, study, prepared)
    if unknown := [name for name in _must_be_known(study) if name not in costs]:
        told = f"{' and '.join(unknown)} are asked for, and can't be counted of this student"
        raise TrialFailed(f"{told}: something has no formula")
    return costs


def _known_or_measured(
    architecture: Mapping[str, Any], space: SearchSpace, study: Study, prepared: Prepared
) -> dict[str, float]:
    key, table = key_of(architecture), prepared.costs
    if key not in table.students:
        # Another worker may have measured it, and the study keeps one table.
        with study.exclusive("costs"):
            assert study.costs is not None
            table.add(CostTable.from_json(study.costs))
            if key not in table.students:
                table.add(_measured(architecture, space, study, prepared))
                study.costs = table.to_json()
    return table.metrics(architecture)


def _measured(architecture: Mapping[str, Any], space: SearchSpace, study: Study, prepared: Prepared) -> CostTable:
    """Return a table of one architecture, measured now in this trial's share of the time."""
    key, table = key_of(architecture), prepared.costs
    one = deployed_of(space, architecture, prepared.data, study.settings)
    rounds = {backend.name: Rounds() for backend in backends()}
    costs = measure_costs(
        {key: one.network},
        prepared.data.example_inputs,
        conditions=table.conditions,
        trainable={key: one.trainable_parameters},
        rounds=rounds,
        limit_s=limit_s_of(study.settings, space, prepared.data, one.network) / study.settings.trials,
        least=FEWEST_ROUNDS,
    )
    conditions = {name: replace(table.conditions[name], spread=of_one.spread) for name, of_one in rounds.items()}
    return CostTable(conditions, table.teacher, costs)


def check_as_costed(
    network: nn.Module, architecture: Mapping[str, Any], space: SearchSpace, study: Study, prepared: Prepared
) -> None:
    """Check that what is deployed of a trained student is what was costed, and fits where it will be loaded.

    Raises:
        TrialFailed: If its state has other names, shapes or types than that of what is deployed of a fresh student.
    """
    key = key_of(architecture)
    if key not in prepared.states:
        prepared.states[key] = state_shapes(deployed_of(space, architecture, prepared.data, study.settings).network)
    trained, fresh = state_shapes(network), prepared.states[key]
    for name in fresh | trained:
        if trained.get(name) != fresh.get(name):
            was, now = (" ".join(map(str, of[name])) if name in of else "missing" for of in (fresh, trained))
            raise TrialFailed(
                f"deployed({named(architecture)}) must have the state of a fresh one, which was costed and into which "
                f"it is loaded, but its {name!r} is {now} after training and {was} before; keep names, shapes and "
                "types, as by zeros in place of what is removed"
            )


def refusal(architecture: Mapping[str, Any], space: SearchSpace, study: Study, prepared: Prepared) -> str | None:
    """Return why no student of an architecture is trained, as in ``3 over --max``; ``None`` if one may be.

    What can be counted is counted before anything is measured. Where costs are asked for, as budgets or as an objective
    that may be unknown, memory must suffice for the student, and what is asked for must be known.
    """
    budgets, needed = study.settings.budgets, _must_be_known(study)
    if not budgets and not needed:
        return None

    def say() -> None:
        study.retry.notifier(f"students that memory does not suffice for are not tried ({named(architecture)})")

    with if_memory_suffices(otherwise=say):
        if key_of(architecture) not in prepared.costs.students:
            one = deployed_of(space, architecture, prepared.data, study.settings)
            example = prepared.data.example_inputs(1)
            counts = count_costs(one.network.eval(), example, one.trainable_parameters)
            counted = counts.known()
            if unknown := [name for name in needed if name in counts._fields and name not in counted]:
                _say_uncounted(unknown, macs_of(one.network, example).uncounted, study, prepared.costs)
                return _uncounted(unknown)
            if budget.over(counted, {name: most for name, most in budgets.items() if name in counted}):
                return _OVER
            if {*budgets, *needed} <= counted.keys():
                return None
        costs = _known_or_measured(architecture, space, study, prepared)
        if unknown := [name for name in needed if name not in costs]:
            return _uncounted(unknown)
        return _OVER if budget.over(costs, budgets) else None
    return _TOO_LARGE


def _must_be_known(study: Study) -> list[str]:
    """Return the metrics that a study asks for and that may be unknown: a student without them is not trained."""
    return unknown_for_some([*study.settings.budgets, *study.objectives])


def _uncounted(metrics: Sequence[str]) -> str:
    return f"whose {' and '.join(metrics)} can't be counted"


def _say_uncounted(metrics: Sequence[str], names: Sequence[str], study: Study, costs: CostTable) -> None:
    """Report operations without a formula, each once: students that have them are not tried."""
    new = [name for name in names if name not in costs.uncounted]
    costs.uncounted += tuple(new)
    if new:
        study.retry.notifier(f"students {_uncounted(metrics)} are not tried: no formula for {', '.join(new)}")
