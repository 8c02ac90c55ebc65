"""bfloat16 where the device has it."""

from __future__ import annotations

import pytest
import torch

from lightning_modules.training import precision
from lightning_modules.training.precision import used_precision

CPU = torch.device("cpu")


@pytest.mark.parametrize("has", [True, False])
def test_bfloat16_is_used_where_the_device_has_it(has: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: has)
    assert used_precision("32", CPU) == "32"
    assert used_precision("bf16-mixed", CPU) == ("bf16-mixed" if has else "32")


@pytest.mark.parametrize(
    ("flags", "has"),
    [({"avx2", "avx512_bf16"}, True), ({"amx_bf16"}, True), ({"asimd", "bf16"}, True), ({"avx2", "f16c"}, False)],
)
def test_a_processor_has_bfloat16_if_its_flags_say_so(
    flags: set[str], has: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "_cpu_flags", lambda: flags)
    assert precision.has_bfloat16.__wrapped__(CPU) is has


def test_a_device_that_is_not_known_to_have_it_has_it_not() -> None:
    assert not precision.has_bfloat16.__wrapped__(torch.device("meta"))
