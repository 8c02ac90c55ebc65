"""Costs that are kept in the cache: found for the same networks alone, and whole or not at all."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from harness.cost.base import Conditions
from harness.cost.kept import KeptCosts, kept_costs_file, kept_costs_key
from lightning_modules.networks import ConvNet

CONDITIONS = Conditions("a processor", latency_batch=1, throughput_batch=8)


def test_costs_are_kept_apart_by_network_and_conditions(tmp_path: Path) -> None:
    def file(
        width: int = 2,
        conditions: Conditions = CONDITIONS,
        name: str = "a",
        pixels: int = 8,
        code: str = "",
        backend: str = "torch_eager",
        version: int = 1,
        **options: float,
    ) -> Path:
        networks = {name: ConvNet(width, size=8, **options)}  # type: ignore[arg-type]
        inputs = torch.zeros(1, 1, pixels, pixels)
        key = kept_costs_key(networks, inputs, code=code)
        return kept_costs_file(tmp_path, key, backend, version, conditions)

    base = file()
    assert base == file()  # other weights, the same costs
    others = {
        file(width=3),
        file(dropout=0.5),
        file(code="another forward"),
        file(name="b"),
        file(backend="another runtime"),
        file(version=2),
        file(pixels=9),
        file(conditions=replace(CONDITIONS, device="y")),
        file(conditions=replace(CONDITIONS, threads=2)),
        file(conditions=replace(CONDITIONS, latency_batch=2)),
        file(conditions=replace(CONDITIONS, throughput_batch=9)),
        file(conditions=replace(CONDITIONS, torch="0")),
    }
    assert len(others | {base}) == 13 and base.parent == tmp_path / "costs"


def test_kept_costs_are_read_back_as_they_were_saved(tmp_path: Path) -> None:
    measured = KeptCosts({"a": {"latency_p50_ms": 0.1 + 0.2}}, replace(CONDITIONS, spread=0.1))
    counted = KeptCosts({"a": {"parameters": 3}, "b": {}}, uncounted=("aten.solve",))
    for kept in (measured, counted):
        kept.save(tmp_path / "costs" / "file")
        assert KeptCosts.load(tmp_path / "costs" / "file") == kept


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        "{}",
        json.dumps({"costs": {"a": 1}, "conditions": None, "uncounted": []}),
        json.dumps({"costs": [], "conditions": None, "uncounted": []}),
        json.dumps({"costs": {}, "conditions": {"colour": "x"}, "uncounted": []}),
    ],
)
def test_a_file_that_holds_no_costs_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "file").write_text(text)
    with pytest.raises(ValueError):
        KeptCosts.load(tmp_path / "file")
