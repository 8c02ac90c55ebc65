"""Outputs of layers: caught while the network is called, and no trace of it afterwards."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lightning_modules.features import capture_features, probe_features
from lightning_modules.networks import ConvNet


class Odd(nn.Module):
    """Gives its inputs in a list of two."""

    def forward(self, inputs: Tensor) -> list[Tensor]:
        return [inputs, inputs]


class First(nn.Module):
    """Takes the first of a pair."""

    def forward(self, pair: list[Tensor]) -> Tensor:
        return pair[0]


def hooks(network: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in network.modules())


def test_captured_features_are_the_layers_outputs() -> None:
    network, images = ConvNet(3, size=8).eval(), torch.rand(4, 1, 8, 8)
    with capture_features(network, ["block2", "block1"]) as features:
        logits = network(images)
        assert hooks(network) == 2
    assert hooks(network) == 0 and set(features) == {"block1", "block2"}
    torch.testing.assert_close(features["block1"], network.block1(images))
    torch.testing.assert_close(network.classifier(features["block2"].flatten(1)), logits)


def test_the_feature_of_a_layer_that_gives_several_values_is_the_first() -> None:
    network, inputs = nn.ModuleDict({"lstm": nn.LSTM(3, 5, batch_first=True)}), torch.rand(2, 4, 3)
    with capture_features(network, ["lstm"]) as features:
        states, _ = network["lstm"](inputs)
    torch.testing.assert_close(features["lstm"], states)


def test_a_failing_call_leaves_no_hook() -> None:
    network = ConvNet(3, size=8)
    with pytest.raises(RuntimeError), capture_features(network, ["block1"]):
        network(torch.zeros(1, 2, 8, 8))
    assert hooks(network) == 0


@pytest.mark.parametrize("name", ["block9", "", "block1.weight"])
def test_a_missing_layer_is_reported_with_the_existing_ones(name: str) -> None:
    network = nn.Sequential(nn.ReLU(), nn.Flatten())
    with pytest.raises(ValueError, match=f"^a layer must be one of 0, 1, but got '{name}'.$"):
        probe_features(network, torch.rand(4, 3), [name])


def test_probing_does_not_change_a_network() -> None:
    network = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Linear(3, 2))
    network[0].eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    inputs, state = torch.rand(4, 3), torch.get_rng_state()
    logits, features = probe_features(network, inputs, ["1"])
    assert logits.shape == (4, 2) and features["1"].shape == (4, 3) and not features["1"].requires_grad
    assert [module.training for module in network] == [False, True, True] and network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state) and hooks(network) == 0


@pytest.mark.parametrize(
    ("network", "layer", "found"),
    [
        (nn.Sequential(Odd(), First()), "0", "gave list"),
        (nn.Sequential(nn.Flatten(0), nn.Unflatten(0, (4, 3))), "0", r"gave shape \(12,\)"),
        (nn.Sequential(nn.Linear(3, 3), nn.ReLU(inplace=True)), "0", "overwrites it in place; name that layer"),
    ],
)
def test_a_layer_whose_output_cannot_be_compared_is_refused(network: nn.Module, layer: str, found: str) -> None:
    with pytest.raises(ValueError, match=f"^layer '{layer}' must .*{found}"):
        probe_features(network, torch.rand(4, 3), [layer])
    assert hooks(network) == 0
