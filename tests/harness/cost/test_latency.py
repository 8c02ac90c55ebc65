"""Rounds of measuring: bounded by time, kept when they are cut, and fair to what is compiled."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.cost.backends.torch_eager import BACKEND
from harness.cost.base import Conditions
from harness.cost.counting import count_costs
from harness.cost.latency import expected_steps_s, fitting_batch, is_compiled, measure_rounds, time_limit_s
from harness.cost.rounds import ROUNDS, Rounds

CONDITIONS = Conditions("a processor", throughput_batch=4)


class Slow(nn.Module):
    """Multiplies large matrices: some 10 ms a sample."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(600, 600))

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = inputs[:, :1, None] * self.weight
        return (hidden @ self.weight @ self.weight)[:, 0, :2]


def inputs(size: int) -> Tensor:
    return torch.ones(size, 3)


def measure(
    networks: dict[str, Any],
    rounds: Rounds,
    *,
    conditions: Conditions = CONDITIONS,
    limit_s: float = math.inf,
    on_round: Callable[[], None] = lambda: None,
    least: int = 1,
) -> dict[str, dict[str, float]]:
    return BACKEND.measure(
        networks, inputs, conditions=conditions, rounds=rounds, limit_s=limit_s, on_round=on_round, least=least
    )


def test_a_slow_network_has_as_many_rounds_as_there_is_time_for() -> None:
    networks = {"slow": Slow(), "fast": nn.Linear(3, 2)}
    rounds, ticks = Rounds(), list[int]()
    costs = measure(networks, rounds, limit_s=0.5, on_round=lambda: ticks.append(1))
    done = rounds.done(["slow", "fast"])
    assert 1 <= done == len(ticks) < ROUNDS and str(rounds).startswith(f"p50 of {done} round")
    assert done == 1 or (rounds.spent_s < 0.6 and "quartiles within " in str(rounds))
    assert costs["slow"]["latency_p50_ms"] > costs["fast"]["latency_p50_ms"]
    assert len(rounds.calls["fast"]) == done  # each has as many


def test_one_round_is_measured_however_little_time_there_is() -> None:
    rounds = Rounds()
    measure({"a": nn.Linear(3, 2)}, rounds, limit_s=0.0)
    assert rounds.done(["a"]) == 1 and str(rounds) == "p50 of 1 round"


def test_the_least_rounds_are_measured_however_little_time_there_is() -> None:
    rounds = Rounds()
    measure({"a": nn.Linear(3, 2)}, rounds, limit_s=0.0, least=5)
    assert rounds.done(["a"]) == 5


def test_measuring_that_was_cut_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.cost.rounds._KEPT_APART_S", 0)
    networks, file, left = {"a": nn.Linear(3, 2), "b": nn.Linear(3, 4)}, tmp_path / "rounds.json", [7]

    def cut() -> None:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(networks, Rounds(file), on_round=cut)
    again = Rounds(file)
    kept, spent_s = {name: list(calls) for name, calls in again.calls.items()}, again.spent_s
    assert again.done(["a", "b"]) == 7 and again.throughput_batch == 4 and spent_s > 0
    ticks = list[int]()
    measure(networks, again, on_round=lambda: ticks.append(1))
    assert again.done(["a", "b"]) == len(ticks) == ROUNDS and again.spent_s > spent_s
    assert all(calls[:7] == kept[name] for name, calls in again.calls.items())


def test_measuring_that_ended_for_want_of_time_goes_on_where_there_is_more_and_with_larger_batches() -> None:
    networks, names, rounds = {"a": nn.Linear(3, 2), "b": Slow()}, ["a", "b"], Rounds()
    small = replace(CONDITIONS, throughput_batch=2)
    assert not rounds.could_take_more(names, math.inf, most=4)  # nothing is known of their time yet
    measure(networks, rounds, conditions=small, limit_s=0.0)
    calls, spent_s = {name: list(of) for name, of in rounds.calls.items()}, rounds.spent_s
    assert not rounds.could_go_on(names, spent_s) and rounds.could_go_on(names, 9 * spent_s)
    assert not rounds.could_take_more(names, 2 * spent_s, most=4) and rounds.could_take_more(names, math.inf, most=4)
    assert not rounds.could_take_more(names, math.inf, most=3)
    measure(networks, rounds, limit_s=20 * spent_s)
    assert rounds.throughput_batch == 4 and 2 <= rounds.done(names) and rounds.spent_s > spent_s
    assert all(of[:1] == calls[name] for name, of in rounds.calls.items())  # single calls are the same in any batch


def test_each_compiled_network_has_its_share_of_the_time_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    ends_s: list[float] = []
    monkeypatch.setattr(
        "harness.cost.latency._measure_group", lambda group, single, many, rounds, end, *_: ends_s.append(end)
    )
    monkeypatch.setattr("harness.cost.latency.is_compiled", lambda network, inputs: True)
    rounds = Rounds()
    rounds.spent_s = 6.0
    measure_rounds(
        {"a": Slow(), "b": Slow()}, inputs, rounds, latency_batch=1, threads=1, limit_s=10.0, on_round=lambda: None
    )
    assert ends_s == [8.0, 10.0]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"calls": 1}', '{"calls": {}, "batches": {}}'])
def test_rounds_that_can_not_be_read_are_measured_anew(tmp_path: Path, text: str) -> None:
    (tmp_path / "rounds.json").write_text(text)
    rounds = Rounds(tmp_path / "rounds.json")
    measure({"a": nn.Linear(3, 2)}, rounds)
    assert rounds.done(["a"]) == ROUNDS


def test_spread_is_that_of_rounds() -> None:
    rounds = Rounds()
    for number, seconds in enumerate((1.0, 1.0, 1.1, 1.0, 0.9)):
        rounds.add("a", [seconds, seconds, 9.0], 1.0, number=number)
    assert str(rounds) == "p50 of 5 rounds, quartiles within 0 %"  # one of four lies beyond them on either side
    for number, seconds in enumerate((1.0, 1.2, 0.8, 1.2, 0.7)):
        rounds.add("a", [seconds, seconds, 9.0], 1.0, number=number)
    assert str(rounds) == "p50 of 5 rounds, quartiles within 20 %"
    assert rounds.spread == 0.2
    rounds.calls = {"a": rounds.calls["a"][:1]}
    assert rounds.spread is None and Rounds().spread is None  # of one round, and of none


def test_a_batch_fits_the_time() -> None:
    fast, slow = nn.Linear(3, 2), Slow()
    assert fitting_batch([fast, slow], inputs, most=64, threads=1, limit_s=math.inf) == 64
    assert fitting_batch([fast], inputs, most=64, threads=1, limit_s=5) == 64
    assert fitting_batch([fast, slow], inputs, most=64, threads=1, limit_s=0) == 1


def test_a_batch_fits_in_memory() -> None:
    class Large(nn.Linear):
        def forward(self, inputs: Tensor) -> Tensor:
            return super().forward(inputs) + (torch.empty(2**60) if len(inputs) > 8 else 0)

    for networks in ([Large(3, 2)], [Slow(), Large(3, 2)]):  # the slowest is not always the one that does not fit
        assert fitting_batch(networks, inputs, most=64, threads=1, limit_s=math.inf) == 8


def test_time_is_a_share_of_training_and_never_less_than_five_seconds() -> None:
    assert time_limit_s(10) == 5 and time_limit_s(1000) == 50
    steps = [expected_steps_s(Slow(), inputs, batch_size=2, threads=1, steps=steps) for steps in (1, 1000)]
    assert 0 < steps[0] < steps[1] / 50


def test_each_compiled_network_runs_what_it_was_compiled_to() -> None:
    calls: dict[int, int] = {}
    shapes: list[Any] = []

    def backend(graph: torch.fx.GraphModule, example: list[Any]) -> Callable[..., Any]:
        (width,) = {value.shape[0] for value in example if isinstance(value, nn.Parameter) and value.shape[1:] == (3,)}
        shapes.extend(value for value in example if isinstance(value, torch.SymInt))

        def run(*given: Any) -> Any:
            calls[width] = calls.get(width, 0) + 1
            return graph.forward(*given)

        return run

    def network(width: int) -> nn.Module:
        return nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 2))

    widths = range(4, 14)  # more than the compiler keeps of one function
    networks: dict[str, Any] = {str(w): torch.compile(network(w), backend=backend) for w in widths}
    measure(networks | {"eager": network(4)}, Rounds())
    # Of a larger batch one warm and one timed call in each round; five and a warm one of a single sample.
    assert calls == {width: ROUNDS * (1 + 1 + 1 + 5) for width in widths} and not shapes
    assert [count_costs(networks[str(w)].eval(), inputs(1)).macs for w in widths] == [3 * w + 2 * w for w in widths]


def test_what_is_compiled_is_told_however_it_is_compiled() -> None:
    compiled = nn.Linear(3, 2)
    compiled.compile(backend="eager")
    assert is_compiled(nn.Sequential(compiled), inputs(1)) and not is_compiled(nn.Linear(3, 2), inputs(1))
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        is_compiled(nn.Linear(4, 2), inputs(1))
