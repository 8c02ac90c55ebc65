"""Wall times of networks beside one another, in rounds: as many as there is time for, kept so that a cut loses none."""

from __future__ import annotations

import contextlib
import json
import math
import random
import time
import timeit
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from harness.core.content import write_atomically
from harness.core.errors import if_memory_suffices
from lightning_modules.batch import Inputs, call

ROUNDS = 30  # over all networks, where there is time; so often is each measured
FEWEST_ROUNDS = 5  # of a student that is measured by itself, when a trial asks for it
_CALLS_A_ROUND = 5
_KEPT_APART_S = 0.5  # between two writings of what was measured: rounds of small networks take less
_PATIENCE_S = 0.3  # with batches that grow, before the time of larger ones is told from theirs
_FORWARD_AND_BACKWARD = 3  # calls that a training step takes as long as: a backward pass is two
_SHARE = 1 / 20  # of unpruned training that measuring may take: a tenth, where half of the epochs are pruned
_LEAST_S = 5.0


class Rounds:
    """Wall times by network and round, kept in a file as they are measured.

    Args:
        file: Where they are kept, and found if a measuring was cut; ``None`` keeps them nowhere.

    Attributes:
        throughput_batch: Samples in the larger of the two batches, once it is chosen.
        calls: Wall times of single calls, s: for each network, for each round, some.
        batches: Those of a larger batch: for each network, for each round, one.
        spent_s: How long measuring has taken.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._kept_at = time.monotonic()
        self.throughput_batch: int | None = None
        self.calls: dict[str, list[list[float]]] = {}
        self.batches: dict[str, list[float]] = {}
        self.spent_s = 0.0
        if file is not None:
            # What is missing or was damaged is measured anew.
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                kept = json.loads(file.read_text(encoding="utf-8"))
                self.calls, self.batches = dict(kept["calls"]), dict(kept["batches"])
                self.throughput_batch, self.spent_s = int(kept["throughput_batch"]), float(kept["spent_s"])

    def done(self, names: Sequence[str]) -> int:
        """Return how many rounds all of these networks have had."""
        return min(self.single(names), *(len(self.batches.get(name, ())) for name in names))

    def single(self, names: Sequence[str]) -> int:
        """Return in how many rounds single calls of all these networks were measured, with whatever larger batch."""
        return min(len(self.calls.get(name, ())) for name in names)

    def choose_batch(self, size: int) -> None:
        """Measure a larger batch of ``size`` from now on; single calls are kept, batches of another size dropped."""
        if size != self.throughput_batch:
            self.throughput_batch, self.batches = size, {}

    def could_go_on(self, names: Sequence[str], limit_s: float) -> bool:
        """Return whether there is time for another round over all of these networks."""
        return self.done(names) < ROUNDS and self.spent_s + self._round_s(names) <= limit_s

    def could_take_more(self, names: Sequence[str], limit_s: float, *, most: int) -> bool:
        """Whether a round with twice the larger batch, up to ``most``, takes at most half of the time that is left."""
        size = 2 * (self.throughput_batch or most)
        return size <= most and self._round_s(names, larger=2) <= (limit_s - self.spent_s) / 2

    def _round_s(self, names: Sequence[str], *, larger: float = 1) -> float:
        """Return about how long a round takes, if its larger batch were so many times as large; infinity before any."""
        if not self.done(names):
            return math.inf
        return sum(
            (1 + _CALLS_A_ROUND) * float(np.mean(np.concatenate(self.calls[name])))
            + 2 * larger * float(np.mean(self.batches[name]))
            for name in names
        )

    def add(self, name: str, calls: list[float], batch: float, *, number: int) -> None:
        """Add a network's round ``number``, over what a cut left of it."""
        self.calls.setdefault(name, [])[number : number + 1] = [calls]
        self.batches.setdefault(name, [])[number : number + 1] = [batch]

    def keep(self, *, at_once: bool = False) -> None:
        """Write what was measured, unless that was done a moment ago."""
        if self._file is None or not (at_once or time.monotonic() - self._kept_at > _KEPT_APART_S):
            return
        kept = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        write_atomically(self._file, lambda path: path.write_text(json.dumps(kept), encoding="utf-8"))
        self._kept_at = time.monotonic()

    @property
    def spread(self) -> float | None:
        """Return how far the quartiles of the rounds' medians lie from their middle, at most over all networks.

        A share of the middle, rounded up to whole percents; ``None`` where a single round tells nothing of it.
        """
        if not self.calls or self.single(list(self.calls)) < 2:
            return None
        medians = [np.median(calls, axis=1) for calls in self.calls.values()]
        widest = max(float(np.abs(np.percentile(of, (25, 75)) / np.median(of) - 1).max()) for of in medians)
        return math.ceil(100 * widest) / 100

    def __str__(self) -> str:
        spread = self.spread
        if spread is None:
            return "p50 of 1 round"
        return f"p50 of {self.single(list(self.calls))} rounds, quartiles within {round(100 * spread)} %"


def measure_rounds(
    networks: Mapping[str, nn.Module],
    inputs: Callable[[int], Inputs],
    rounds: Rounds,
    *,
    latency_batch: int,
    threads: int,
    limit_s: float,
    on_round: Callable[[], None],
    least: int = 1,
) -> None:
    """Measure networks until each has had ``ROUNDS``, or the time is up; ``least`` are measured in any case.

    Rounds go over all networks, and a network's calls are pooled over the rounds: a machine that is slow for a second
    is slow for each of them a little, not for one of them alone. Each round has an order of its own, so that what comes
    and goes does not meet the same networks again and again.

    Compiled networks share the compiler's caches: after some, it makes shapes dynamic, and after some more compiles no
    further ones. Each is therefore measured by itself, compiled anew, its rounds in a row.

    Args:
        networks: In any mode, by name; all on the device.
        inputs: Gives the inputs of a batch of a stated size, on the same device.
        rounds: What was measured before, and takes what is measured.
        latency_batch: Samples in a single call.
        threads: Threads of a call.
        limit_s: Seconds that all measuring may take, what it took before included.
        on_round: Called after each round over the networks that are not compiled.
        least: Rounds that are measured however long they take.
    """
    single, many = inputs(latency_batch), inputs(rounds.throughput_batch or latency_batch)
    compiled = [name for name, network in networks.items() if is_compiled(network, single)]
    groups = [[name for name in networks if name not in compiled], *([name] for name in compiled)]
    ends_s = rounds.spent_s
    left_s = max(0.0, limit_s - rounds.spent_s)
    for group in filter(None, groups):
        ends_s += left_s * len(group) / len(networks)
        if group[0] in compiled:
            torch.compiler.reset()
        with computing_with(threads), torch.no_grad():  # inference mode spoils tables that code keeps
            _measure_group({name: networks[name] for name in group}, single, many, rounds, ends_s, on_round, least)
    if compiled:
        torch.compiler.reset()


def _measure_group(
    networks: Mapping[str, nn.Module],
    single: Inputs,
    many: Inputs,
    rounds: Rounds,
    ends_s: float,
    on_round: Callable[[], None],
    least: int,
) -> None:
    names, before_s, single_before = list(networks), rounds.spent_s, rounds.single(list(networks))
    for _ in range(rounds.done(names)):
        on_round()
    started = time.perf_counter()
    for number in range(rounds.done(names), ROUNDS):
        begun = time.perf_counter()
        for name in random.Random(number).sample(names, len(names)):  # nosec B311 # an order is no secret
            network = networks[name].eval()
            batch = call_times_s(network, many, 1)[0]
            is_kept = number < single_before  # beside another larger batch
            calls = rounds.calls[name][number] if is_kept else call_times_s(network, single, _CALLS_A_ROUND)
            rounds.add(name, calls, batch, number=number)
            rounds.spent_s = before_s + time.perf_counter() - started
            rounds.keep()
        on_round()
        if number + 1 >= least and rounds.spent_s + time.perf_counter() - begun > ends_s:
            break
    rounds.keep(at_once=True)


def is_compiled(network: nn.Module, inputs: Inputs) -> bool:
    """Return whether calling a network makes ``torch.compile`` compile; all that was compiled before is forgotten.

    Raises:
        Exception: What the network raises when it is called by itself.
    """
    torch.compiler.reset()
    try:
        with torch.compiler.set_stance("fail_on_recompile"), torch.no_grad():
            call(network.eval(), inputs)
    except RuntimeError:
        with torch.compiler.set_stance("force_eager"), torch.no_grad():
            call(network, inputs)  # an error of its own is another matter
        return True
    return False


def fitting_batch(
    networks: Sequence[nn.Module], inputs: Callable[[int], Inputs], *, most: int, threads: int, limit_s: float
) -> int:
    """Return the most samples in a call, up to ``most``, with which two rounds are measured in the time and in memory.

    A study of a few short trials of a large network has no time for calls of many samples.
    """
    single = inputs(1)
    networks = [network for network in networks if not is_compiled(network, single)]  # it would be, for each batch
    if not networks:
        return most
    with computing_with(threads), torch.no_grad():  # inference mode spoils tables that code keeps
        alone = [call_times_s(network, single, 1)[0] for network in networks]
        slowest = networks[int(np.argmax(alone))]
        batch = most
        while batch > 1:
            larger_s = math.inf
            with if_memory_suffices():
                larger_s = sum(alone) / max(alone) * _expected_call_s(slowest, inputs, batch)
            if (1 + _CALLS_A_ROUND) * sum(alone) + 2 * larger_s <= limit_s / 2:
                break
            batch //= 2
        while batch > 1 and not all(_fits_in_memory(network, inputs(batch)) for network in networks):
            batch //= 2
    return batch


def _fits_in_memory(network: nn.Module, inputs: Inputs) -> bool:
    with if_memory_suffices():
        call(network.eval(), inputs)
        return True
    return False


def expected_steps_s(
    network: nn.Module, inputs: Callable[[int], Inputs], *, batch_size: int, threads: int, steps: int
) -> float:
    """Return about how long so many training steps of a network take, from calls of it, seconds."""
    with computing_with(threads), torch.no_grad():  # inference mode spoils tables that code keeps
        return steps * _FORWARD_AND_BACKWARD * _expected_call_s(network.eval(), inputs, batch_size)


def time_limit_s(training_s: float) -> float:
    """Return how long measuring may take beside so much training: a twentieth, or 5 s if that is more."""
    return max(_LEAST_S, _SHARE * training_s)


def _expected_call_s(network: nn.Module, inputs: Callable[[int], Inputs], size: int) -> float:
    """Return how long a call with ``size`` samples takes; if that is long, by what fewer take."""
    at, started = 1, time.perf_counter()
    while True:
        seconds = call_times_s(network, inputs(at), 1)[0]
        if at >= size or time.perf_counter() - started > _PATIENCE_S:
            return seconds * size / at
        at = min(4 * at, size)


def call_times_s(network: nn.Module, inputs: Inputs, calls: int) -> list[float]:
    """Wall times of single calls, seconds, after one that is not counted: it meets cold caches."""
    times = timeit.repeat(lambda: call(network, inputs), timer=_clock_of(inputs), repeat=1 + calls, number=1)
    return times[1:]


@contextlib.contextmanager
def computing_with(threads: int) -> Iterator[None]:
    """Compute with so many threads, and with as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _clock_of(inputs: Inputs) -> Callable[[], float]:
    """Return a clock that waits for the device of ``inputs``.

    That of ``torch.utils.benchmark`` asks at each end whether there is an accelerator: 0.06 ms in a build for GPUs on a
    machine that has none, as much as a small student's call.
    """
    first: Any = next(iter(inputs.values())) if isinstance(inputs, Mapping) else inputs
    if first.device.type == "cpu":
        return timeit.default_timer
    wait = torch.get_device_module(first.device).synchronize

    def clock() -> float:
        wait()
        return timeit.default_timer()

    return clock
