"""Costs of networks that are kept in the cache, a file for each backend."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType

from torch import nn

from harness.core.content import digest, write_atomically
from harness.core.metric import Costs
from harness.cost.base import Conditions
from harness.cost.counting import trainable_parameters
from harness.networks.shape import shape_of
from lightning_modules.batch import Inputs


@dataclass(frozen=True)
class KeptCosts:
    """What was counted, or measured by one backend, of some networks.

    Attributes:
        costs: Of each network, by metric name.
        conditions: The conditions that they were measured under; ``None`` of what is counted.
        uncounted: Operations that multiply and have no formula.
    """

    costs: Mapping[str, Costs]
    conditions: Conditions | None = None
    uncounted: tuple[str, ...] = field(default=())

    def save(self, file: Path) -> None:
        """Write the costs to a file."""
        content = json.dumps(asdict(self))
        write_atomically(file, lambda path: path.write_text(content, encoding="utf-8"))

    @classmethod
    def load(cls, file: Path) -> KeptCosts:
        """Read the costs that ``save`` wrote.

        Raises:
            ValueError: If the file holds anything else.
        """
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            costs = {name: {**one} for name, one in content["costs"].items()}
            conditions = content["conditions"] and Conditions(**content["conditions"])
            return cls(costs, conditions, tuple(content["uncounted"]))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no costs: {error!r}") from error


def kept_costs_key(
    networks: Mapping[str, nn.Module],
    inputs: Inputs,
    trainable: Mapping[str, int] = MappingProxyType({}),
    code: str = "",
) -> str:
    """Return what tells networks on such inputs from others that may cost something else.

    Args:
        networks: The networks, by name.
        inputs: Of a batch of one.
        trainable: Their trainable parameters, where they were counted before they were deployed.
        code: Key of the code that calls them: the same layers may be called in another way.
    """
    named = inputs if isinstance(inputs, dict) else {"": inputs}
    shapes = {
        name: [*shape_of(network), trainable.get(name, trainable_parameters(network))]
        for name, network in networks.items()
    }
    sizes = {key: list(value.shape) for key, value in named.items()}
    return digest("costs", shapes, sizes, code)


def kept_costs_file(cache_dir: Path, key: str, how: str, version: int, conditions: Conditions | None = None) -> Path:
    """Return where the costs of networks are kept.

    Args:
        cache_dir: The cache.
        key: That of the networks (``kept_costs_key``).
        how: What measures or counts them, by name.
        version: That of the way in which it does.
        conditions: The conditions to measure under; ``None`` of what is counted.
    """
    measured = conditions and asdict(conditions)
    return cache_dir / "costs" / f"{digest(key, how, version, measured)}.{'json' if measured else 'counts'}"
