"""Cost tables: costs by architecture, kept as text, compared with the teacher's."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from conftest import TEACHER_COSTS

from harness.cost.base import Conditions
from harness.cost.table import CostTable, key_of, total_costs

EAGER = Conditions("a processor", latency_batch=1, throughput_batch=8)
CONDITIONS = {"torch_eager": EAGER}
MEASURED = {"torch_eager": {"device": "x"}}
STUDENT: dict[str, float] = {
    "parameters": 40,
    "trainable_parameters": 40,
    "macs": 200,
    "size_mb": 0.1,
    "latency_p50_ms": 0.5,
    "latency_p95_ms": 0.75,
    "throughput_per_s": 90.0,
}


def a_table() -> CostTable:
    return CostTable(CONDITIONS, TEACHER_COSTS, {key_of({"width": 2}): STUDENT})


def test_networks_that_run_one_after_the_other_cost_the_sum() -> None:
    assert total_costs([TEACHER_COSTS, STUDENT, STUDENT]) == {
        "parameters": 1080,
        "trainable_parameters": 980,
        "macs": 5400,
        "size_mb": pytest.approx(0.7),
        "latency_p50_ms": 4.0,
        "latency_p95_ms": 5.5,
        # A sample takes 1/10 + 1/90 + 1/90 seconds.
        "throughput_per_s": pytest.approx(90 / 11),
    }
    assert total_costs([TEACHER_COSTS]) == TEACHER_COSTS
    uncounted = {name: value for name, value in STUDENT.items() if name != "macs"}
    assert total_costs([TEACHER_COSTS, uncounted]).keys() == TEACHER_COSTS.keys() - {"macs"}


def test_a_table_of_several_teachers_keeps_the_costs_of_each() -> None:
    read = CostTable.from_json(
        CostTable(CONDITIONS, total_costs([TEACHER_COSTS, STUDENT]), {}, [TEACHER_COSTS, STUDENT]).to_json()
    )
    assert read.members == (TEACHER_COSTS, STUDENT) and read.teacher["parameters"] == 1040
    assert CostTable.from_json(a_table().to_json()).members == () and "members" not in a_table().to_json()


def test_a_table_compares_with_the_teacher() -> None:
    metrics = a_table().metrics({"width": 2})
    assert metrics == {**STUDENT, "compression": 25.0, "speedup": 6.0}


def test_tables_are_added_with_the_wider_spread_of_the_two() -> None:
    def of(width: int, spread: float | None) -> CostTable:
        return CostTable(
            {"torch_eager": replace(EAGER, spread=spread)}, TEACHER_COSTS, {key_of({"width": width}): STUDENT}
        )

    table = of(1, None)
    table.add(of(2, 0.03))
    table.add(of(3, 0.01))
    assert set(table.students) == {key_of({"width": width}) for width in (1, 2, 3)}
    assert CostTable.from_json(table.to_json()).conditions == {"torch_eager": replace(EAGER, spread=0.03)}
    table = of(1, None)
    table.add(of(2, None))
    assert table.conditions.spread is None


def test_a_table_finds_an_architecture_by_its_values_in_any_order() -> None:
    table = CostTable(CONDITIONS, TEACHER_COSTS, {key_of({"width": 2, "act": "relu"}): STUDENT})
    assert table[{"act": "relu", "width": 2}] == STUDENT
    assert key_of({"width": 2}) == '{"width": 2}'
    with pytest.raises(KeyError):
        table[{"act": "relu", "width": 3}]


@pytest.mark.parametrize("teacher", [TEACHER_COSTS, {}])  # one whose answers alone are known has none
def test_a_table_is_read_back_as_it_was_written(teacher: dict[str, float]) -> None:
    table = a_table()
    table.teacher = teacher
    table.students[key_of({"width": 3})] = STUDENT | {"latency_p50_ms": 0.1 + 0.2}
    read = CostTable.from_json(table.to_json())
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
        json.dumps({"conditions": MEASURED, "teacher": ["macs"], "students": {}}),
        json.dumps({"conditions": MEASURED, "teacher": None, "students": {}}),
        json.dumps({"conditions": MEASURED, "teacher": TEACHER_COSTS, "students": [1]}),
        json.dumps({"conditions": MEASURED, "teacher": TEACHER_COSTS, "students": {"a": {"macs": 1}}}),
        json.dumps({"conditions": {"torch_eager": {"colour": "x"}}, "teacher": TEACHER_COSTS, "students": {}}),
        json.dumps({"conditions": MEASURED["torch_eager"], "teacher": TEACHER_COSTS, "students": {}}),
        a_table().to_json()[:-20],
    ],
)
def test_what_is_no_cost_table_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        CostTable.from_json(text)


def test_nothing_is_smaller_than_a_teacher_without_parameters() -> None:
    teacher = TEACHER_COSTS | {"parameters": 0}
    metrics = CostTable(CONDITIONS, teacher, {key_of({"width": 2}): STUDENT}).metrics({"width": 2})
    assert metrics == {**STUDENT, "speedup": 6.0}


def test_a_network_without_parameters_has_a_finite_compression() -> None:
    nothing = STUDENT | {"parameters": 0}
    assert math.isfinite(CostTable(CONDITIONS, TEACHER_COSTS, {key_of({}): nothing}).metrics({})["compression"])


def test_a_table_says_whether_every_backend_has_measured_it() -> None:
    assert a_table().is_of_all_backends and not CostTable({}, TEACHER_COSTS, {}).is_of_all_backends
