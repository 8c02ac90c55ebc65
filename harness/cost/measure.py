"""All costs of networks: what is counted, and what each backend measures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import nn

from harness.core.errors import did_you_mean
from harness.cost.base import BackendConditions, Conditions, backends
from harness.cost.counting import count_costs
from harness.cost.rounds import Rounds
from harness.metrics import METRICS
from lightning_modules.batch import Inputs


class MeasuredCosts(dict[str, float]):
    """Costs of one network by metric name, without those that are not known.

    A metric is also an attribute, ``costs.latency_p50_ms``; one that is not known is ``None`` there.
    """

    def __getattr__(self, name: str) -> float | None:
        if name not in METRICS:
            raise AttributeError(f"there is no metric {name!r}{did_you_mean(name, METRICS)}")
        return self.get(name)


def conditions_of(device: torch.device) -> BackendConditions:
    """Return the conditions under which each backend measures on ``device``."""
    return BackendConditions({backend.name: backend.conditions(device) for backend in backends()})


def measure_costs(
    networks: Mapping[str, nn.Module],
    inputs: Callable[[int], Inputs],
    *,
    conditions: Mapping[str, Conditions],
    trainable: Mapping[str, int] = MappingProxyType({}),
    rounds: Mapping[str, Rounds] = MappingProxyType({}),
    limit_s: float = math.inf,
    on_round: Callable[[], None] = lambda: None,
    least: int = 1,
) -> dict[str, MeasuredCosts]:
    """Count and measure networks beside one another, with nothing else running.

    Args:
        networks: In any mode, by name; all on the device.
        inputs: Gives the inputs of a batch of a stated size, on the same device.
        conditions: Threads and batch sizes, by name of the backend.
        trainable: How many parameters training changes, by name, where that can't be told from the network.
        rounds: What was measured before, and takes what is measured, by name of the backend.
        limit_s: Seconds that measuring may take, the least rounds aside; backends have equal shares.
        on_round: Called after each round of a backend.
        least: Rounds that are measured however long they take.

    Returns:
        The costs of each network.

    Raises:
        KeyError: If there are no conditions for a backend.
    """
    found = backends()
    measured = [
        backend.measure(
            networks,
            inputs,
            conditions=conditions[backend.name],
            rounds=rounds.get(backend.name) or Rounds(),
            limit_s=limit_s / len(found),
            on_round=on_round,
            least=least,
        )
        for backend in found
    ]
    costs = {}
    for name, network in networks.items():
        costs[name] = MeasuredCosts(count_costs(network.eval(), inputs(1), trainable.get(name)).known())
        for by_network in measured:
            costs[name].update(by_network[name])
    return costs
