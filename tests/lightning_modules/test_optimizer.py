"""The optimizer beside PyTorch's own: the same bits, the same state, at less cost."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_modules.optimizer import AdamW

LEARNING_RATE, WEIGHT_DECAY, STEPS = 0.05, 0.01, 12


def a_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def pair(network: nn.Module) -> tuple[nn.Module, AdamW, nn.Module, torch.optim.AdamW]:
    """A network under each of the two optimizers."""
    other = copy.deepcopy(network)
    ours = AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    theirs = torch.optim.AdamW(other.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True)
    return network, ours, other, theirs


def train(network: nn.Module, optimizer: torch.optim.Optimizer, steps: range = range(STEPS)) -> None:
    for step in steps:
        draw = torch.Generator().manual_seed(step)
        optimizer.param_groups[0]["lr"] = LEARNING_RATE / (1 + step)  # as a schedule sets it
        optimizer.zero_grad()
        network(torch.randn(16, 4, generator=draw)).square().mean().backward()
        optimizer.step()


def assert_same(ours: Any, theirs: Any) -> None:
    """Tensors by their bits, in whatever holds them."""
    if isinstance(theirs, Tensor):
        assert torch.equal(ours, theirs)
    elif isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            assert_same(ours[key], value)
    elif isinstance(theirs, list | tuple):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_same(one, other)
    else:
        assert ours == theirs


def assert_ended_alike(network: nn.Module, ours: AdamW, other: nn.Module, theirs: torch.optim.AdamW) -> None:
    assert_same(network.state_dict(), other.state_dict())
    assert_same(ours.state_dict(), theirs.state_dict())


def test_weights_and_state_are_pytorch_s_bit_for_bit() -> None:
    network, ours, other, theirs = pair(a_network())
    begun = copy.deepcopy(network.state_dict())
    train(network, ours)
    train(other, theirs)
    assert_ended_alike(network, ours, other, theirs)
    assert not torch.equal(network.state_dict()["0.weight"], begun["0.weight"])


def test_from_its_second_step_on_pytorch_s_kernel_is_called_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    network, ours, _, _ = pair(a_network())
    train(network, ours, range(1))
    own = []
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *asked: own.append(asked))
    train(network, ours, range(1, 4))
    assert not own
    assert {float(state["step"]) for state in ours.state.values()} == {4}


@pytest.mark.parametrize("way", ["another optimizer", "the same one", "a pickle", "a copy"])
def test_what_goes_on_from_a_stored_state_ends_alike(way: str) -> None:
    network, ours, other, theirs = pair(a_network())
    train(network, ours, range(5))
    match way:
        case "another optimizer":
            stored = ours.state_dict()
            ours = AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
            ours.load_state_dict(stored)
        case "the same one":
            stored = copy.deepcopy(ours.state_dict())
            weights = copy.deepcopy(network.state_dict())
            train(network, ours, range(5, 9))
            network.load_state_dict(weights)
            ours.load_state_dict(stored)
        case "a pickle":
            network, ours = pickle.loads(pickle.dumps((network, ours)))  # made here
        case "a copy":
            network, ours = copy.deepcopy((network, ours))
    train(network, ours, range(5, STEPS))
    train(other, theirs)
    assert_ended_alike(network, ours, other, theirs)


class Forgetful(nn.Module):
    """Uses one of its two layers in the first steps, then both, then the other."""

    def __init__(self, unused: bool) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.second, self.unused, self.calls = nn.Linear(4, 3), nn.Linear(4, 3), unused, 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        if self.calls < 4:
            return self.first(inputs)
        return self.second(inputs) if self.unused and self.calls > 8 else self.first(inputs) + self.second(inputs)


@pytest.mark.parametrize("unused", [False, True])
def test_a_layer_that_is_left_out_of_some_steps_is_left_alone_in_them(unused: bool) -> None:
    network, ours, other, theirs = pair(Forgetful(unused))
    train(network, ours)
    train(other, theirs)
    assert_ended_alike(network, ours, other, theirs)
    assert float(ours.state[network.second.weight]["step"]) == STEPS - 3


def test_a_layer_is_left_out_after_all_took_part() -> None:
    network, ours, other, theirs = pair(a_network())
    for one, optimizer in ((network, ours), (other, theirs)):
        train(one, optimizer, range(4))
        one[0].requires_grad_(False)
        train(one, optimizer, range(4, 8))
        one[0].requires_grad_(True)
        train(one, optimizer, range(8, STEPS))
    assert_ended_alike(network, ours, other, theirs)
    assert float(ours.state[network[0].weight]["step"]) == STEPS - 4


def test_a_group_that_is_added_is_trained_too() -> None:
    network, ours, other, theirs = pair(a_network())
    ends = []
    for one, optimizer in ((network, ours), (other, theirs)):
        train(one, optimizer, range(4))
        torch.manual_seed(2)
        end = nn.Linear(3, 2)
        optimizer.add_param_group({"params": end.parameters(), "lr": 0.5})
        train(nn.Sequential(one, end), optimizer, range(4, STEPS))
        ends.append(end)
    assert_ended_alike(network, ours, other, theirs)
    assert torch.equal(ends[0].weight, ends[1].weight)


def test_a_closure_is_called() -> None:
    network, ours, other, theirs = pair(a_network())
    for one, optimizer in ((network, ours), (other, theirs)):
        train(one, optimizer, range(3))

        def closure(one: nn.Module = one, optimizer: torch.optim.Optimizer = optimizer) -> Tensor:
            optimizer.zero_grad()
            loss: Tensor = one(torch.ones(4, 4)).square().mean()
            loss.backward()
            return loss

        assert optimizer.step(closure) > 0
    assert_ended_alike(network, ours, other, theirs)
