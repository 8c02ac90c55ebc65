"""What tells teachers apart: also where what they know is in no tensor; and not what one start has beyond another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.tree import DecisionTreeClassifier
from torch import Tensor, nn

from harness.networks.digest import answers_of, network_digest, rounded_answers, sampled_answers, start_of
from harness.studies.start import Start

INPUTS = torch.linspace(-1, 1, 60).reshape(20, 3)
LABELS = (INPUTS.sum(1) > 0).long()
FACTOR = {"now": 1.0}


class Knowing(nn.Module):
    """A network of one weight that knows something else."""

    def __init__(self, knows: Any) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.knows = knows

    def forward(self, inputs: Tensor) -> Tensor:
        return self.scale * torch.stack([inputs.sum(1), -inputs.sum(1)], 1)


class Multiplied(Knowing):
    def forward(self, inputs: Tensor) -> Tensor:
        factor = self.knows() if callable(self.knows) else 1
        return super().forward(inputs) * factor * FACTOR["now"]


class Unsaved(Knowing):
    def __init__(self, knows: float) -> None:
        super().__init__(None)
        self.register_buffer("table", torch.full((2,), knows), persistent=False)


def digest_of(network: nn.Module) -> str:
    return network_digest(network, answers_of(network, [INPUTS[:15], INPUTS[15:]]))


def tree(depth: int) -> DecisionTreeClassifier:
    return DecisionTreeClassifier(max_depth=depth, random_state=0).fit(INPUTS.numpy(), LABELS.numpy())


def layers(seed: int) -> list[nn.Module]:
    torch.manual_seed(seed)
    return [nn.Linear(3, 2)]


@pytest.mark.parametrize(
    ("make", "one", "other"),
    [
        (lambda x: Knowing(tree(x)), 1, 2),
        (lambda x: Knowing(np.arange(3) * x), 1, 2),
        (lambda x: Knowing(torch.arange(3) * x), 1, 2),
        (lambda x: Knowing({"slopes": [x, {"b": (x,)}]}), 1, 2),
        (lambda x: Knowing({str(n) for n in range(x)}), 20, 21),
        (lambda x: Knowing(layers(x)), 1, 2),
        (lambda x: Multiplied(lambda: x), 1.0, 2.0),
        (Unsaved, 1.0, 2.0),
        (lambda x: nn.MultiheadAttention(4, x), 1, 2),
    ],
)
def test_networks_that_know_something_else_differ_and_equal_ones_do_not(
    make: Callable[[Any], nn.Module], one: Any, other: Any
) -> None:
    def digest(value: Any) -> str:
        torch.manual_seed(0)
        network = make(value)
        if isinstance(network, nn.MultiheadAttention):
            return network_digest(network, torch.zeros(0))
        return digest_of(network)

    assert digest(one) == digest(one) != digest(other)


def test_code_that_answers_otherwise_is_another_network(monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest_of(Multiplied(None))
    monkeypatch.setitem(FACTOR, "now", 1.1)
    assert digest_of(Multiplied(None)) != before


def test_modes_stay_as_they_are_and_answers_are_those_of_evaluation() -> None:
    network = nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 2))
    network[0].eval()
    answers = answers_of(network, [INPUTS])
    assert torch.equal(answers, network[1](INPUTS)) and not answers.requires_grad
    assert network.training and network[1].training and not network[0].training


def test_what_is_not_finite_is_told_apart_too() -> None:
    infinite = Multiplied(lambda: torch.tensor([1.0, float("inf")]))
    assert len({digest_of(infinite), digest_of(Multiplied(lambda: float("nan"))), digest_of(Multiplied(None))}) == 3


def test_last_bits_are_no_difference_to_a_study_and_another_start_is() -> None:
    torch.manual_seed(0)
    network = nn.Linear(100, 10)
    start = start_of(network)
    with torch.no_grad():
        network.weight *= 1 + 2**-22
    assert start_of(network).is_like(start) and start_of(network).numbers != start.numbers
    assert not start_of(nn.Linear(100, 10)).is_like(start)
    assert not start_of(nn.Linear(10, 100)).is_like(start)
    answers = torch.randn(70, 30)
    kept = Start("", sampled_answers(answers), "")
    assert len(kept.numbers) == 512
    assert Start("", sampled_answers(answers + 1e-6), "").is_like(kept)
    assert not Start("", sampled_answers(answers * 1.1), "").is_like(kept)


class Buffered(nn.Module):
    """A layer beside buffers, one of which dwarfs its weights."""

    def __init__(self, *, seed: int = 0, hidden: float = -1e9, positions: int = 512, diagonal: int = 1) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layer = nn.Linear(3, 2)
        self.register_buffer("causal", torch.full((8, 8), -torch.inf).triu(1))  # 0 * inf: NaN on the diagonal
        self.register_buffer("odd", torch.full((8, 8), torch.nan).triu(diagonal))
        self.register_buffer("mask", torch.full((4,), hidden))
        self.register_buffer("positions", torch.arange(512).clamp(max=positions))
        self.register_buffer("scale", torch.tensor(2 + 1j))


def test_students_with_masks_and_positions_are_known_again_and_told_apart() -> None:
    start = start_of(Buffered())
    assert all(np.isfinite(start.numbers)) and start_of(Buffered()).is_like(start)
    for other in (Buffered(seed=1), Buffered(hidden=-1e4), Buffered(positions=510), Buffered(diagonal=2)):
        assert not start_of(other).is_like(start)


def test_one_tensor_of_many_that_is_drawn_anew_is_another_start() -> None:
    def network(bias: int) -> nn.Module:
        torch.manual_seed(0)
        layers = nn.Sequential(*(nn.Linear(64, 64) for _ in range(50)))
        torch.manual_seed(bias)
        nn.init.uniform_(layers[7].bias, -0.1, 0.1)
        return layers

    assert start_of(network(1)).is_like(start_of(network(1)))
    assert not start_of(network(1)).is_like(start_of(network(2)))


class Remembering(Knowing):
    """Keeps what it was last asked, and how often."""

    def __init__(self, knows: Any) -> None:
        super().__init__(knows)
        self.times, self.cache = 0, {}

    def forward(self, inputs: Tensor) -> Tensor:
        self.last, self.times = inputs, self.times + 1
        self.cache[len(inputs)] = inputs
        return super().forward(inputs)


def test_what_calls_leave_in_a_network_does_not_tell_it_apart() -> None:
    network = Remembering(1)
    before = digest_of(network)
    network(INPUTS[:7] * 3)
    assert digest_of(network) == before == digest_of(Remembering(1)) != digest_of(Remembering(2))


def test_sets_are_known_again_in_whatever_order_they_are() -> None:
    one, other = frozenset([0, 8]), frozenset([8, 0])
    assert list(one) != list(other)  # as sets of words are from one start to the next
    assert digest_of(Knowing({"words": [one, "a"]})) == digest_of(Knowing({"words": [other, "a"]}))
    assert digest_of(Knowing(one)) != digest_of(Knowing(frozenset([0, 16])))
    assert digest_of(Knowing({None, "a", 1, frozenset("b")})) == digest_of(Knowing({frozenset("b"), 1, "a", None}))


def test_of_huge_answers_an_even_choice_tells_networks_apart() -> None:
    def answered(scale: float) -> Tensor:
        torch.manual_seed(0)
        network = nn.Linear(3, 600_000, bias=False)
        with torch.no_grad():
            network.weight *= scale
        return answers_of(network, [torch.ones(4, 3), torch.ones(2, 3)])

    one, same, other = answered(1.0), answered(1.0), answered(1.1)
    assert one.shape == (6, 200_000) and torch.equal(one, same)
    assert sampled_answers(one) == sampled_answers(same) != sampled_answers(other)
    assert rounded_answers(one) == rounded_answers(same) != rounded_answers(other)
    assert answers_of(nn.Identity(), [torch.ones(4, 2**18)]).shape == (4, 2**18)  # few enough: as they are
