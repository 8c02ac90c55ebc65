"""Averaged weights: what they are after some steps, and that the network's own come back."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from lightning_modules.training.average import WeightAverage, effective_decay


def averaged(network: nn.Module, decay: float, values: list[float]) -> WeightAverage:
    """The average of a network whose weights are filled with one value after the other."""
    average = WeightAverage(network, decay)
    for value in values:
        with torch.no_grad():
            for tensor in (*network.parameters(), *(b for b in network.buffers() if b.is_floating_point())):
                tensor.fill_(value)
        average.update(network)
    return average


def test_the_average_is_that_of_the_formula() -> None:
    network = nn.Linear(2, 1)
    nn.init.zeros_(network.weight)
    average, expected = averaged(network, 0.25, [1.0, 2.0, 3.0]), 0.0
    for step, value in enumerate([1.0, 2.0, 3.0], start=1):
        decay = min(0.25, (1 + step) / (10 + step))  # 2/11, then 0.25
        expected = decay * expected + (1 - decay) * value
    with average.applied(network):
        np.testing.assert_allclose(network.weight.detach().numpy(), expected, rtol=1e-6)


def test_the_decay_grows_with_the_steps() -> None:
    assert effective_decay(0.999, 1) == pytest.approx(2 / 11)
    assert effective_decay(0.999, 90) == pytest.approx(0.91)
    assert effective_decay(0.999, 10**6) == 0.999


def test_the_networks_own_weights_come_back_to_the_bit_also_after_an_error() -> None:
    network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    average = averaged(network, 0.9, [1 / 3, 0.1])
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(KeyError), average.applied(network):
        assert not torch.equal(network[0].weight, before["0.weight"])  # type: ignore[arg-type]
        raise KeyError
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_statistics_are_averaged_and_counts_are_not() -> None:
    network = nn.BatchNorm1d(2)
    average = averaged(network, 0.5, [4.0])
    network.num_batches_tracked.fill_(7)  # type: ignore[union-attr, operator]
    average.load_into(network)
    share = 1 - 2 / 11
    assert network.running_mean.tolist() == pytest.approx([share * 4] * 2)  # type: ignore[union-attr]
    assert network.running_var.tolist() == pytest.approx([share * 4 + 2 / 11] * 2)  # type: ignore[union-attr]
    assert network.num_batches_tracked == 7


def test_a_tied_weight_is_averaged_once() -> None:
    network = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    network[1].weight = network[0].weight
    assert len(list(WeightAverage(network, 0.5).buffers())) == 1


def test_an_average_goes_on_from_its_state() -> None:
    network = nn.Linear(2, 2)
    begun = averaged(network, 0.9, [1.0, 5.0])
    resumed = WeightAverage(nn.Linear(2, 2), 0.9)
    resumed.load_state_dict(begun.state_dict())
    begun.update(network)
    resumed.update(network)
    for one, other in zip(begun.buffers(), resumed.buffers(), strict=True):
        assert torch.equal(one, other)


def test_a_network_that_changes_its_shapes_is_refused() -> None:
    network = nn.Linear(2, 3)
    average = WeightAverage(network, 0.5)
    network.weight = nn.Parameter(torch.zeros(1, 2))
    with pytest.raises(ValueError, match=r"'weight' is \[1, 2\] now, and was \[3, 2\]"):
        average.update(network)
