"""What a network costs: known before a trial trains, for temperature and alpha have no say in it."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

from harness.core.content import digest, write_atomically
from harness.cost.latency import Rounds, measure_rounds
from harness.cost.macs import macs_of
from harness.metrics import Cost
from harness.training.tensor_file import cpu_state
from lightning_modules.batch import Inputs

MOST_ARCHITECTURES = 256  # a space of more is measured architecture by architecture, when a trial asks for it
THREADS = 1  # what a student gets on the small device it is made for
THROUGHPUT_BATCH = 64
_HOW = 7  # counts up whenever costs are measured in another way: kept ones are then measured anew


@dataclass(frozen=True)
class Conditions:
    """What a latency holds for.

    Attributes:
        device: Name of the processor or accelerator.
        threads: Threads of a call.
        latency_batch: Samples in a call whose latency is measured.
        throughput_batch: Samples in a call whose throughput is measured.
        torch: Version of the runtime.
        runtime: What executes the networks.
        precision: Of how many rounds a latency is, and how far they are apart.
        spread: Greatest relative difference between latencies of one network (``harness.cost.latency.Rounds``), the
            widest where students were measured one by one; ``None`` where that is not known.
    """

    device: str
    threads: int = THREADS
    latency_batch: int = 1
    throughput_batch: int = THROUGHPUT_BATCH
    torch: str = torch.__version__
    runtime: str = "eager"
    precision: str = ""
    spread: float | None = None

    def __str__(self) -> str:
        return (
            f"{self.device}, {self.threads} thread, latency at batch {self.latency_batch}, "
            f"throughput at batch {self.throughput_batch}, torch {self.torch} {self.runtime}"
            f"{self.precision and f', {self.precision}'}"
        )


def conditions_of(device: torch.device) -> Conditions:
    """Return the conditions under which costs are measured on ``device``."""
    if device.type == "cuda":
        return Conditions(torch.cuda.get_device_name(device))
    return Conditions(_processor() if device.type == "cpu" else device.type)


def measure_costs(
    networks: Mapping[str, nn.Module],
    inputs: Callable[[int], Inputs],
    *,
    conditions: Conditions,
    trainable: Mapping[str, int] = MappingProxyType({}),
    rounds: Rounds | None = None,
    limit_s: float = math.inf,
    on_round: Callable[[], None] = lambda: None,
    least: int = 1,
) -> dict[str, Cost]:
    """Measure networks beside one another, with nothing else running; see ``measure_rounds``.

    Args:
        networks: In any mode, by name; all on the device.
        inputs: Gives the inputs of a batch of a stated size, on the same device.
        conditions: Threads and batch sizes.
        trainable: How many parameters training changes, by name, where that can't be told from the network.
        rounds: What was measured before, and takes what is measured.
        limit_s: Seconds that measuring may take, the least rounds aside.
        on_round: Called after each round.
        least: Rounds that are measured however long they take.
    """
    rounds = rounds or Rounds()
    rounds.choose_batch(conditions.throughput_batch)
    measure_rounds(
        networks,
        inputs,
        rounds,
        latency_batch=conditions.latency_batch,
        threads=conditions.threads,
        limit_s=limit_s,
        on_round=on_round,
        least=least,
    )
    single = inputs(conditions.latency_batch)
    return {
        name: Cost(
            **count_costs(network, single, trainable.get(name))._asdict(),
            latency_p50_ms=_told_ms(np.percentile(np.concatenate(rounds.calls[name]), 50)),
            latency_p95_ms=_told_ms(np.percentile(np.concatenate(rounds.calls[name]), 95)),
            throughput_per_s=conditions.throughput_batch / float(np.median(rounds.batches[name])),
        )
        for name, network in networks.items()
    }


class Counts(NamedTuple):
    """The costs that no clock measures; see ``Cost``."""

    parameters: int
    trainable_parameters: int
    macs: int | None
    size_mb: float


def count_costs(network: nn.Module, inputs: Inputs, trainable: int | None = None) -> Counts:
    """Count what can be counted of a network in eval mode, from a call with a batch.

    Args:
        network: The network.
        inputs: Of the batch.
        trainable: How many parameters training changes; ``None`` takes those of the network that are not frozen.
    """
    macs, uncounted = macs_of(network, inputs)
    return Counts(
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        trainable_parameters=trainable_parameters(network) if trainable is None else trainable,
        macs=None if uncounted else macs // len(_first(inputs)),
        size_mb=len(save(cpu_state(network))) / 1e6,
    )


def trainable_parameters(network: nn.Module) -> int:
    """Return how many numbers a training of ``network`` changes."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def _told_ms(seconds: Any) -> float:
    """Milliseconds to three figures: a clock tells no better, and what a table shows as equal decides no front."""
    return float(f"{seconds * 1e3:.3g}")


def _first(inputs: Inputs) -> Tensor:
    return next(iter(inputs.values())) if isinstance(inputs, dict) else inputs


def total_cost(costs: Sequence[Cost]) -> Cost:
    """Return the costs of networks that run one after the other on the same inputs.

    The 95th percentile is the sum of theirs, as if all were slow at once: the most that it can be.
    """
    macs = [cost.macs for cost in costs if cost.macs is not None]
    return Cost(
        parameters=sum(cost.parameters for cost in costs),
        trainable_parameters=sum(cost.trainable_parameters for cost in costs),
        macs=sum(macs) if len(macs) == len(costs) else None,
        size_mb=sum(cost.size_mb for cost in costs),
        latency_p50_ms=sum(cost.latency_p50_ms for cost in costs),
        latency_p95_ms=sum(cost.latency_p95_ms for cost in costs),
        throughput_per_s=1 / sum(1 / cost.throughput_per_s for cost in costs),
    )


class CostTable:
    """The costs of the teacher and of every architecture measured so far, under one set of conditions.

    Args:
        conditions: What the latencies hold for.
        teacher: The teacher's costs.
        students: By architecture, as ``key_of`` names it.
        members: Where several teach as one, the costs of each.
        uncounted: What multiplies in students and has no formula, so that MACs of some can't be counted.
    """

    def __init__(
        self,
        conditions: Conditions,
        teacher: Cost,
        students: dict[str, Cost],
        members: Sequence[Cost] = (),
        uncounted: Sequence[str] = (),
    ) -> None:
        self.conditions = conditions
        self.teacher = teacher
        self.students = students
        self.members = tuple(members)
        self.uncounted = tuple(uncounted)

    def __getitem__(self, architecture: Mapping[str, Any]) -> Cost:
        return self.students[key_of(architecture)]

    def add(self, other: CostTable) -> None:
        """Add the students of another table of the same conditions; the wider spread holds for both."""
        spreads = [one.conditions.spread for one in (self, other) if one.conditions.spread is not None]
        self.conditions = replace(self.conditions, spread=max(spreads, default=None))
        self.students |= other.students

    def metrics(self, architecture: Mapping[str, Any]) -> dict[str, float]:
        """The architecture's costs, as far as they are known, and how it compares with the teacher, by metric name."""
        return self[architecture].metrics(self.teacher)

    def to_json(self) -> str:
        """Return the table as text."""
        return json.dumps(
            {
                "conditions": asdict(self.conditions),
                "teacher": asdict(self.teacher),
                "students": {key: asdict(cost) for key, cost in self.students.items()},
                **({"members": [asdict(cost) for cost in self.members]} if self.members else {}),
                **({"uncounted": self.uncounted} if self.uncounted else {}),
            }
        )

    @classmethod
    def from_json(cls, text: str) -> CostTable:
        """Return the table that ``to_json`` wrote.

        Raises:
            ValueError: If the text is no such table.
        """
        try:
            content = json.loads(text)
            students = {key: Cost(**cost) for key, cost in content["students"].items()}
            members = [Cost(**cost) for cost in content.get("members", ())]
            conditions, teacher = Conditions(**content["conditions"]), Cost(**content["teacher"])
            return cls(conditions, teacher, students, members, content.get("uncounted", ()))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no cost table: {error!r}") from error


def key_of(architecture: Mapping[str, Any]) -> str:
    """Return the name of an architecture in a cost table, as in ``{"width": 8}``."""
    return json.dumps(dict(architecture), sort_keys=True)


def uncounted_of(networks: Mapping[str, nn.Module], costs: Mapping[str, Cost], inputs: Inputs) -> tuple[str, ...]:
    """Return what multiplies in networks whose MACs could not be counted, and has no formula."""
    unknown = [networks[name] for name, cost in costs.items() if cost.macs is None]
    return tuple(sorted({name for network in unknown for name in macs_of(network, inputs).uncounted}))


def cost_cache_file(
    cache_dir: Path,
    networks: Mapping[str, nn.Module],
    inputs: Inputs,
    conditions: Conditions,
    trainable: Mapping[str, int] = MappingProxyType({}),
    code: str = "",
) -> Path:
    """Return where the costs of these very networks on such inputs, measured under these conditions, are kept.

    Args:
        cache_dir: Where costs are kept.
        networks: The networks, by name.
        inputs: Of a batch of one.
        conditions: What they are measured under.
        trainable: Their trainable parameters, where they were counted before they were deployed.
        code: Key of the code that calls them: the same layers may be called in another way.
    """
    named = inputs if isinstance(inputs, dict) else {"": inputs}
    shapes = {
        name: [*shape_of(network), trainable.get(name, trainable_parameters(network))]
        for name, network in networks.items()
    }
    sizes = {key: list(value.shape) for key, value in named.items()}
    return cache_dir / "costs" / f"{digest('costs', _HOW, shapes, sizes, asdict(conditions), code)}.json"


def shape_of(network: nn.Module) -> list[Any]:
    """Return what a network is whatever its weights: its modules, and the names, shapes and types of its state."""
    return [repr(network), [[key, *shape] for key, shape in state_shapes(network).items()]]


def state_shapes(network: nn.Module) -> dict[str, list[Any]]:
    """Return the shapes and types of a network's state by name."""
    return {key: _shape(value) for key, value in network.state_dict().items()}


def _shape(value: Any) -> list[Any]:
    """Return the shape and type of what a state holds: a tensor, or whatever ``get_extra_state`` gives."""
    return [list(value.shape), str(value.dtype)] if isinstance(value, Tensor) else [type(value).__name__]


def save_cost_table(table: CostTable, file: Path) -> None:
    """Write the table where ``cost_cache_file`` says."""
    write_atomically(file, lambda path: path.write_text(table.to_json(), encoding="utf-8"))


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()
