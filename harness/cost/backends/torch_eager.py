"""Eager PyTorch: latency and throughput of a network as it is called in Python, compiled parts of it compiled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from harness.core.metric import Costs, Metric
from harness.cost.base import Conditions, rate_of_all

if TYPE_CHECKING:
    import torch
    from torch import nn

    from harness.cost.rounds import Rounds
    from lightning_modules.batch import Inputs


def _speedup(student: Costs, teacher: Costs) -> float | None:
    """Return how many times faster a student is than its teacher by median latency; ``None`` if that is not known."""
    if "latency_p50_ms" not in teacher:
        return None
    return teacher["latency_p50_ms"] / student["latency_p50_ms"]


class TorchEager:
    """Measures networks in eager PyTorch."""

    name: ClassVar[str] = "torch_eager"
    version: ClassVar[int] = 7
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(
            "latency_p50_ms",
            "minimize",
            unit="ms",
            label="latency p50, batch 1",
            heading="p50 ms",
            is_timed=True,
            is_default_objective=True,
        ),
        # Of networks one after the other, the sum is the most that it can be: as if all were slow at once.
        Metric("latency_p95_ms", "minimize", unit="ms", label="latency p95, batch 1", heading="p95 ms", is_timed=True),
        Metric(
            "throughput_per_s",
            "maximize",
            unit="samples/s",
            label="throughput",
            heading="samples/s",
            format="{:,.0f}",
            is_timed=True,
            combine=rate_of_all,
        ),
        Metric(
            "speedup",
            "maximize",
            heading="faster",
            format="{:.1f}x",
            in_every_table=True,
            is_timed=True,
            derive=_speedup,
        ),
    )

    def conditions(self, device: torch.device) -> Conditions:
        """Return the conditions to measure under on a device: one thread, a batch of 1 and one of 64."""
        from harness.cost.latency import device_name

        return Conditions(device_name(device))

    def fit_conditions(
        self,
        conditions: Conditions,
        networks: Mapping[str, nn.Module],
        inputs: Callable[[int], Inputs],
        *,
        rounds: Rounds,
        limit_s: float,
    ) -> Conditions:
        """Return the conditions with the largest batch that time and memory allow, and with what is compiled."""
        from harness.cost.latency import fitting_batch, is_compiled

        batch, most = rounds.throughput_batch, conditions.throughput_batch
        if batch is None or rounds.could_take_more(list(networks), limit_s, most=most):
            fitting = fitting_batch(
                list(networks.values()),
                inputs,
                most=most,
                threads=conditions.threads,
                limit_s=limit_s - rounds.spent_s,
            )
            batch = max(batch or 1, fitting)
        single = inputs(conditions.latency_batch)
        compiled = [is_compiled(network, single) for network in networks.values()]
        runtime = "compiled" if all(compiled) else "eager or compiled, as built" if any(compiled) else "eager"
        return replace(conditions, throughput_batch=batch, runtime=runtime)

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
        """Measure networks beside one another, with nothing else running; see ``measure_rounds``."""
        import numpy as np

        from harness.cost.latency import measure_rounds

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
        costs = {}
        for name in networks:
            p50_s, p95_s = np.percentile(np.concatenate(rounds.calls[name]), (50, 95))
            costs[name] = {
                "latency_p50_ms": _three_figures(p50_s * 1e3),
                "latency_p95_ms": _three_figures(p95_s * 1e3),
                "throughput_per_s": conditions.throughput_batch / float(np.median(rounds.batches[name])),
            }
        return costs


def _three_figures(value: Any) -> float:
    """Round to three figures: a clock resolves no more, and what a table shows as equal must decide no front."""
    return float(f"{value:.3g}")


BACKEND = TorchEager()
