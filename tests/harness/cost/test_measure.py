"""What a network costs: counts worked by hand, files really written, and conditions that are named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from harness.cost import conditions_of, measure_costs
from harness.cost.base import BackendConditions, Conditions
from harness.cost.macs import count_macs
from harness.cost.rounds import ROUNDS
from lightning_modules.networks import ConvNet

EAGER = Conditions("a processor", latency_batch=1, throughput_batch=8)
CONDITIONS = {"torch_eager": EAGER}

# A ConvNet of width w on 8x8 pixels: 64·9·w, then 16·9·w·2w, then 2w·2·2 features times 10 classes.
MACS = {2: 1152 + 1152 + 160, 8: 4608 + 18432 + 640}


def images(size: int) -> Tensor:
    return torch.zeros(size, 1, 8, 8)


def test_a_linear_layer_costs_a_multiplication_for_each_weight_and_sample() -> None:
    assert count_macs(nn.Linear(20, 30), torch.zeros(1, 20)) == 600
    assert count_macs(nn.Linear(20, 30), torch.zeros(4, 20)) == 2400


@pytest.mark.parametrize("width", [2, 8])
def test_a_convolutional_network_costs_what_was_counted_by_hand(width: int) -> None:
    network = ConvNet(width, size=8).eval()
    assert count_macs(network, images(1)) == MACS[width]
    assert count_macs(network, images(3)) == 3 * MACS[width]


def test_a_dict_of_inputs_is_passed_by_keywords() -> None:
    class TwoInputs(nn.Module):
        def forward(self, *, left: Tensor, right: Tensor) -> Tensor:
            return left @ right

    assert count_macs(TwoInputs(), {"right": torch.zeros(5, 7), "left": torch.zeros(3, 5)}) == 3 * 5 * 7


@pytest.mark.usefixtures("two_threads")
def test_networks_are_measured_in_eval_mode_beside_one_another(tmp_path: Path) -> None:
    networks = {"small": ConvNet(2, size=8, dropout=0.5).train(), "large": ConvNet(8, size=8).train()}
    running = {name: network.state_dict()["block1.1.running_var"].clone() for name, network in networks.items()}
    asked: list[int] = []
    ticks: list[int] = []

    def inputs(size: int) -> Tensor:
        asked.append(size)
        return images(size)

    costs = measure_costs(networks, inputs, conditions=CONDITIONS, on_round=lambda: ticks.append(1))
    assert list(costs) == ["small", "large"] and torch.get_num_threads() == 2
    assert set(asked) == {1, 8} and ticks == [1] * ROUNDS
    for (name, network), width, parameters in zip(networks.items(), (2, 8), (272, 1922), strict=True):
        cost = costs[name]
        assert (cost["parameters"], cost["macs"]) == (parameters, MACS[width])
        save_file(network.state_dict(), tmp_path / name)
        assert cost["size_mb"] == pytest.approx((tmp_path / name).stat().st_size / 1e6, rel=1e-12)
        assert 0 < cost["latency_p50_ms"] <= cost["latency_p95_ms"] < 1e4
        # A batch of 8 can't be done in less time than a thousandth of one sample's.
        assert 0 < cost["throughput_per_s"] < 8e6 / cost["latency_p50_ms"]
        assert not network.training and torch.equal(network.state_dict()["block1.1.running_var"], running[name])


def test_a_search_for_accelerators_is_no_part_of_a_latency(monkeypatch: pytest.MonkeyPatch) -> None:
    searches = []
    real = torch.accelerator.is_available
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: searches.append(1) or real())
    measure_costs({"a": ConvNet(2, size=8)}, images, conditions=CONDITIONS)
    # Once when the timer is set up, for a round; never around each of its calls.
    assert len(searches) < ROUNDS * 10


def test_macs_are_those_of_one_sample_whatever_batch_is_timed() -> None:
    conditions = {"torch_eager": replace(EAGER, latency_batch=5)}
    assert measure_costs({"a": ConvNet(2, size=8)}, images, conditions=conditions)["a"]["macs"] == MACS[2]


def test_size_counts_weights_buffers_and_a_header() -> None:
    # Norms of 2 and 4 channels hold 12 floats beside the 272 parameters, and a count of 8 bytes each.
    (cost,) = measure_costs({"a": ConvNet(2, size=8)}, images, conditions=CONDITIONS).values()
    data = 4 * (272 + 12) + 2 * 8
    assert data + 8 < cost["size_mb"] * 1e6 < data + 2000


def test_conditions_name_the_processor_threads_and_batches() -> None:
    (conditions,) = conditions_of(torch.device("cpu")).values()
    assert conditions.device and conditions.torch == torch.__version__
    assert conditions_of(torch.device("meta")).device == "meta"
    text = str(conditions)
    assert all(part in text for part in (conditions.device, "1 thread", "batch 1", "batch 64", torch.__version__))


def test_the_conditions_of_several_backends_are_shown_beside_one_another() -> None:
    other = replace(EAGER, runtime="ONNX Runtime", spread=0.04)
    both = BackendConditions(torch_eager=replace(EAGER, spread=0.02), other=other)
    assert str(both) == f"{EAGER}; {other}" and both.device == "a processor" and both.spread == 0.04
    assert BackendConditions(torch_eager=EAGER).spread is None


@pytest.mark.usefixtures("two_threads")
def test_costs_are_attributes_too_and_one_that_is_not_known_is_none() -> None:
    found = measure_costs({"counted": ConvNet(2, size=8)}, images, conditions=CONDITIONS)
    found["counted"].pop("size_mb")
    assert found["counted"].size_mb is None
    assert found["counted"].macs == MACS[2] and found["counted"].latency_p50_ms == found["counted"]["latency_p50_ms"]
    with pytest.raises(AttributeError, match="there is no metric 'latency_p50'; did you mean latency_p50_ms"):
        _ = found["counted"].latency_p50
