"""What a network costs: counts worked by hand, files really written, and a table that is kept."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from harness.cost.latency import ROUNDS
from harness.cost.macs import count_macs
from harness.cost.measure import (
    Conditions,
    CostTable,
    conditions_of,
    cost_cache_file,
    key_of,
    measure_costs,
    save_cost_table,
    total_cost,
)
from harness.metrics import Cost
from lightning_modules.networks import ConvNet

CONDITIONS = Conditions("a processor", latency_batch=1, throughput_batch=8)
TEACHER = Cost(
    parameters=1000,
    macs=5000,
    size_mb=0.5,
    latency_p50_ms=3.0,
    latency_p95_ms=4.0,
    throughput_per_s=10.0,
    trainable_parameters=900,
)
STUDENT = Cost(
    parameters=40,
    macs=200,
    size_mb=0.1,
    latency_p50_ms=0.5,
    latency_p95_ms=0.75,
    throughput_per_s=90.0,
    trainable_parameters=40,
)

# A ConvNet of width w on 8x8 pixels: 64·9·w, then 16·9·w·2w, then 2w·2·2 features times 10 classes.
MACS = {2: 1152 + 1152 + 160, 8: 4608 + 18432 + 640}


def images(size: int) -> Tensor:
    return torch.zeros(size, 1, 8, 8)


def a_table() -> CostTable:
    return CostTable(CONDITIONS, TEACHER, {key_of({"width": 2}): STUDENT})


def test_networks_that_run_one_after_the_other_cost_the_sum() -> None:
    assert total_cost([TEACHER, STUDENT, STUDENT]) == Cost(
        parameters=1080,
        macs=5400,
        size_mb=pytest.approx(0.7),
        latency_p50_ms=4.0,
        latency_p95_ms=5.5,
        # A sample takes 1/10 + 1/90 + 1/90 seconds.
        throughput_per_s=pytest.approx(90 / 11),
        trainable_parameters=980,
    )
    assert total_cost([TEACHER]) == TEACHER


def test_a_table_of_several_teachers_keeps_the_costs_of_each() -> None:
    read = CostTable.from_json(CostTable(CONDITIONS, total_cost([TEACHER, STUDENT]), {}, [TEACHER, STUDENT]).to_json())
    assert read.members == (TEACHER, STUDENT) and read.teacher.parameters == 1040
    assert CostTable.from_json(a_table().to_json()).members == () and "members" not in a_table().to_json()


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
        assert (cost.parameters, cost.macs) == (parameters, MACS[width])
        save_file(network.state_dict(), tmp_path / name)
        assert cost.size_mb == pytest.approx((tmp_path / name).stat().st_size / 1e6, rel=1e-12)
        assert 0 < cost.latency_p50_ms <= cost.latency_p95_ms < 1e4
        # A batch of 8 can't be done in less time than a thousandth of one sample's.
        assert 0 < cost.throughput_per_s < 8e6 / cost.latency_p50_ms
        assert not network.training and torch.equal(network.state_dict()["block1.1.running_var"], running[name])


def test_a_search_for_accelerators_is_no_part_of_a_latency(monkeypatch: pytest.MonkeyPatch) -> None:
    searches = []
    real = torch.accelerator.is_available
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: searches.append(1) or real())
    measure_costs({"a": ConvNet(2, size=8)}, images, conditions=CONDITIONS)
    # Once when the timer is set up, for a round; never around each of its calls.
    assert len(searches) < ROUNDS * 10


def test_macs_are_those_of_one_sample_whatever_batch_is_timed() -> None:
    conditions = replace(CONDITIONS, latency_batch=5)
    assert measure_costs({"a": ConvNet(2, size=8)}, images, conditions=conditions)["a"].macs == MACS[2]


def test_size_counts_weights_buffers_and_a_header() -> None:
    # Norms of 2 and 4 channels hold 12 floats beside the 272 parameters, and a count of 8 bytes each.
    (cost,) = measure_costs({"a": ConvNet(2, size=8)}, images, conditions=CONDITIONS).values()
    data = 4 * (272 + 12) + 2 * 8
    assert data + 8 < cost.size_mb * 1e6 < data + 2000


def test_conditions_name_the_processor_threads_and_batches() -> None:
    conditions = conditions_of(torch.device("cpu"))
    assert conditions.device and conditions.torch == torch.__version__
    assert conditions_of(torch.device("meta")).device == "meta"
    text = str(conditions)
    assert all(part in text for part in (conditions.device, "1 thread", "batch 1", "batch 64", torch.__version__))


def test_a_table_compares_with_the_teacher() -> None:
    metrics = a_table().metrics({"width": 2})
    assert metrics == {**asdict(STUDENT), "compression": 25.0, "speedup": 6.0}


def test_tables_are_added_with_the_wider_spread_of_the_two() -> None:
    def of(width: int, spread: float | None) -> CostTable:
        return CostTable(replace(CONDITIONS, spread=spread), TEACHER, {key_of({"width": width}): STUDENT})

    table = of(1, None)
    table.add(of(2, 0.03))
    table.add(of(3, 0.01))
    assert set(table.students) == {key_of({"width": width}) for width in (1, 2, 3)}
    assert CostTable.from_json(table.to_json()).conditions == replace(CONDITIONS, spread=0.03)
    table = of(1, None)
    table.add(of(2, None))
    assert table.conditions.spread is None


def test_a_table_finds_an_architecture_by_its_values_in_any_order() -> None:
    table = CostTable(CONDITIONS, TEACHER, {key_of({"width": 2, "act": "relu"}): STUDENT})
    assert table[{"act": "relu", "width": 2}] == STUDENT
    assert key_of({"width": 2}) == '{"width": 2}'
    with pytest.raises(KeyError):
        table[{"act": "relu", "width": 3}]


def test_a_table_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    table = a_table()
    table.students[key_of({"width": 3})] = replace(STUDENT, latency_p50_ms=0.1 + 0.2)
    file = tmp_path / "costs" / "table.json"
    save_cost_table(table, file)
    read = CostTable.from_json(file.read_text())
    assert (read.conditions, read.teacher, read.students) == (table.conditions, table.teacher, table.students)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        '"text"',
        "{}",
        '{"conditions": {"device": "x"}, "teacher": {}, "students": {}}',
        '{"conditions": {"device": "x"}, "teacher": null, "students": {}}',
        json.dumps({"conditions": {"device": "x"}, "teacher": asdict(TEACHER), "students": []}),
        json.dumps({"conditions": {"device": "x"}, "teacher": asdict(TEACHER), "students": {"a": {"macs": 1}}}),
        json.dumps({"conditions": {"colour": "x"}, "teacher": asdict(TEACHER), "students": {}}),
        a_table().to_json()[:-20],
    ],
)
def test_what_is_no_cost_table_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        CostTable.from_json(text)


def test_costs_are_kept_apart_by_network_and_conditions(tmp_path: Path) -> None:
    def file(
        width: int = 2,
        conditions: Conditions = CONDITIONS,
        name: str = "a",
        pixels: int = 8,
        code: str = "",
        **options: float,
    ) -> Path:
        networks = {name: ConvNet(width, size=8, **options)}  # type: ignore[arg-type]
        inputs = torch.zeros(1, 1, pixels, pixels)
        return cost_cache_file(tmp_path, networks, inputs, conditions, code=code)

    base = file()
    assert base == file()  # other weights, the same costs
    others = {
        file(width=3),
        file(dropout=0.5),
        file(code="another forward"),
        file(name="b"),
        file(pixels=9),
        file(conditions=replace(CONDITIONS, device="y")),
        file(conditions=replace(CONDITIONS, threads=2)),
        file(conditions=replace(CONDITIONS, latency_batch=2)),
        file(conditions=replace(CONDITIONS, throughput_batch=9)),
        file(conditions=replace(CONDITIONS, torch="0")),
    }
    assert len(others | {base}) == 11 and base.parent == tmp_path / "costs"


def test_nothing_is_smaller_than_a_teacher_without_parameters() -> None:
    teacher = replace(TEACHER, parameters=0)
    metrics = CostTable(CONDITIONS, teacher, {key_of({"width": 2}): STUDENT}).metrics({"width": 2})
    assert metrics == {**asdict(STUDENT), "speedup": 6.0}


def test_a_network_without_parameters_has_a_finite_compression() -> None:
    nothing = replace(STUDENT, parameters=0)
    assert math.isfinite(CostTable(CONDITIONS, TEACHER, {key_of({}): nothing}).metrics({})["compression"])
