"""The contract of a cost backend: one runtime in which networks are measured.

Imports nothing heavy: ``--help`` reads what backends declare.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from harness.core.metric import Metric
from harness.core.plugins import modules_of

if TYPE_CHECKING:
    import torch
    from torch import nn

    from harness.cost.rounds import Rounds
    from lightning_modules.batch import Inputs

THREADS = 1  # what a student gets on the small device that it is made for
THROUGHPUT_BATCH = 64


def _torch_version() -> str:
    import torch

    return torch.__version__


@dataclass(frozen=True)
class Conditions:
    """The conditions under which a backend measures.

    Attributes:
        device: Name of the processor or accelerator.
        threads: Threads of a call.
        latency_batch: Samples in a call whose latency is measured.
        throughput_batch: Samples in a call whose throughput is measured.
        torch: Version of torch.
        runtime: What executes the networks.
        precision: Of how many rounds a latency is, and how far they are apart.
        spread: Greatest relative difference between latencies of one network (``harness.cost.rounds.Rounds``), the
            widest where students were measured one by one; ``None`` where that is not known.
    """

    device: str
    threads: int = THREADS
    latency_batch: int = 1
    throughput_batch: int = THROUGHPUT_BATCH
    torch: str = field(default_factory=_torch_version)
    runtime: str = "eager"
    precision: str = ""
    spread: float | None = None

    def __str__(self) -> str:
        return (
            f"{self.device}, {self.threads} thread, latency at batch {self.latency_batch}, "
            f"throughput at batch {self.throughput_batch}, torch {self.torch} {self.runtime}"
            f"{self.precision and f', {self.precision}'}"
        )


class BackendConditions(dict[str, Conditions]):
    """The conditions under which each backend measures, by its name."""

    @property
    def device(self) -> str:
        """Return the devices, each once."""
        return ", ".join(dict.fromkeys(one.device for one in self.values()))

    @property
    def spread(self) -> float | None:
        """Return the widest spread of all backends; ``None`` where none is known."""
        return max((one.spread for one in self.values() if one.spread is not None), default=None)

    def __str__(self) -> str:
        return "; ".join(map(str, self.values()))


class CostBackend(Protocol):
    """A runtime in which networks are measured. A file of ``harness/cost/backends`` has one as its ``BACKEND``.

    The file must not import torch when it is imported: ``metrics`` are read for ``--help``.

    Attributes:
        name: Its name in cost tables and in the cache.
        version: Raised when it measures in another way: kept costs are then measured anew.
        metrics: What it measures, and what it derives from that.
    """

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> int: ...

    @property
    def metrics(self) -> Sequence[Metric]: ...

    def conditions(self, device: torch.device) -> Conditions:
        """Return the conditions to measure under on a device, where time and memory suffice."""

    def fit_conditions(
        self,
        conditions: Conditions,
        networks: Mapping[str, nn.Module],
        inputs: Callable[[int], Inputs],
        *,
        rounds: Rounds,
        limit_s: float,
    ) -> Conditions:
        """Return conditions under which all networks can be measured in the time and in memory.

        Args:
            conditions: What ``conditions`` returned: no batch may be larger than theirs.
            networks: In any mode, by name; all on the device.
            inputs: Gives the inputs of a batch of a stated size, on the same device.
            rounds: What was measured before, with a larger batch that may be kept.
            limit_s: Seconds that all measuring may take, what it took before included.
        """

    def measure(
        self,
        networks: Mapping[str, nn.Module],
        inputs: Callable[[int], Inputs],
        *,
        conditions: Conditions,
        rounds: Rounds,
        limit_s: float,
        on_round: Callable[[], None],
        least: int,
    ) -> dict[str, dict[str, float]]:
        """Measure networks beside one another, in rounds, until each had ``ROUNDS`` or the time is up.

        Args:
            networks: In any mode, by name; all on the device.
            inputs: Gives the inputs of a batch of a stated size, on the same device.
            conditions: Threads and batch sizes.
            rounds: What was measured before, and takes what is measured.
            limit_s: Seconds that all measuring may take, what it took before included.
            on_round: Called after each round.
            least: Rounds that are measured however long they take.

        Returns:
            For each network, the value of each declared metric that is measured.
        """


def backends() -> list[CostBackend]:
    """Return the backends of ``harness/cost/backends``, in the order of their files' names."""
    return [module.BACKEND for module in modules_of("harness.cost.backends")]


def rate_of_all(rates: Iterable[float]) -> float:
    """Return the rate of networks that run one after the other on the same samples, from the rate of each."""
    return 1 / sum(1 / rate for rate in rates)
