"""Wall times of calls of PyTorch modules beside one another, in rounds: as many as there is time for."""

from __future__ import annotations

import contextlib
import math
import platform
import random
import time
import timeit
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from harness.core.errors import if_memory_suffices
from harness.cost.rounds import CALLS_A_ROUND, ROUNDS, Rounds
from lightning_modules.batch import Inputs, call, first_of

_PATIENCE_S = 0.3  # with batches that grow, before the time of larger ones is extrapolated from theirs
_FORWARD_AND_BACKWARD = 3  # calls that a training step takes as long as: a backward pass is two
_SHARE = 1 / 20  # of unpruned training that measuring may take: a tenth, where half of the epochs are pruned
_LEAST_S = 5.0


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
    """Measure networks until each has had ``ROUNDS`` rounds, or the time is up.

    A round calls every network, and a network's calls are pooled over the rounds: a machine that is slow for a second
    then slows each network a little, not one of them alone. Each round has an order of its own, so that periodic load
    does not meet the same networks again and again.

    Compiled networks share the compiler's caches: after some recompilations it makes shapes dynamic, and after some
    more it stops compiling. Each is therefore measured by itself, compiled anew, its rounds in a row.

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
            calls = rounds.calls[name][number] if is_kept else call_times_s(network, single, CALLS_A_ROUND)
            rounds.add(name, calls, batch, number=number)
            rounds.spent_s = before_s + time.perf_counter() - started
            rounds.keep()
        on_round()
        if number + 1 >= least and rounds.spent_s + time.perf_counter() - begun > ends_s:
            break
    rounds.keep(at_once=True)


def is_compiled(network: nn.Module, inputs: Inputs) -> bool:
    """Return whether calling a network makes ``torch.compile`` compile. Resets the compiler.

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
    """Return the largest batch, up to ``most``, with which two rounds fit into the time and into memory.

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
            if (1 + CALLS_A_ROUND) * sum(alone) + 2 * larger_s <= limit_s / 2:
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
    """Estimate from calls of a network how many seconds ``steps`` training steps of it take."""
    with computing_with(threads), torch.no_grad():  # inference mode spoils tables that code keeps
        return steps * _FORWARD_AND_BACKWARD * _expected_call_s(network.eval(), inputs, batch_size)


def time_limit_s(training_s: float) -> float:
    """Return how many seconds measuring may take beside ``training_s`` of training: a twentieth, but at least 5 s."""
    return max(_LEAST_S, _SHARE * training_s)


def _expected_call_s(network: nn.Module, inputs: Callable[[int], Inputs], size: int) -> float:
    """Estimate the seconds of a call with ``size`` samples; where that is long, extrapolate from fewer samples."""
    at, started = 1, time.perf_counter()
    while True:
        seconds = call_times_s(network, inputs(at), 1)[0]
        if at >= size or time.perf_counter() - started > _PATIENCE_S:
            return seconds * size / at
        at = min(4 * at, size)


def call_times_s(network: nn.Module, inputs: Inputs, calls: int) -> list[float]:
    """Return the wall times of single calls, seconds, after a warm-up call that is not counted."""
    times = timeit.repeat(lambda: call(network, inputs), timer=_clock_of(inputs), repeat=1 + calls, number=1)
    return times[1:]


@contextlib.contextmanager
def computing_with(threads: int) -> Iterator[None]:
    """Compute with ``threads`` threads within the context."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _clock_of(inputs: Inputs) -> Callable[[], float]:
    """Return a clock that waits for the device of ``inputs``.

    The timer of ``torch.utils.benchmark`` looks for an accelerator at each end: 0.06 ms in a build for GPUs on a
    machine that has none, as much as a small student's call.
    """
    first = first_of(inputs)
    if first.device.type == "cpu":
        return timeit.default_timer
    wait = torch.get_device_module(first.device).synchronize

    def clock() -> float:
        wait()
        return timeit.default_timer()

    return clock


def device_name(device: torch.device) -> str:
    """Return the name of the processor or accelerator behind a device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return _processor_name() if device.type == "cpu" else device.type


def _processor_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()
