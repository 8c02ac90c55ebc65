"""Packed checkpoints: what goes in comes out, to the bit."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.checkpoint import PackedIO


def checkpoint() -> dict[str, Any]:
    return {
        "state_dict": OrderedDict(weight=torch.randn(3, 5), steps=torch.tensor(7), flags=torch.tensor([True, False])),
        "optimizer_states": [{"state": {0: {"step": torch.tensor(2.0), "exp_avg": torch.randn(3, 5).double()}}}],
        "loops": {"epoch": 4, "names": ("a", "b"), "nothing": None},
        "half": torch.randn(3).to(torch.bfloat16).t(),
        "empty": torch.empty(0, 2),
        "transposed": torch.arange(6).reshape(2, 3).t(),
    }


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def test_a_checkpoint_comes_back_with_every_type_shape_and_bit(tmp_path: Path) -> None:
    saved = checkpoint()
    PackedIO().save_checkpoint(saved, tmp_path / "c.ckpt")
    assert same(PackedIO().load_checkpoint(tmp_path / "c.ckpt"), saved)
    assert [path.name for path in tmp_path.iterdir()] == ["c.ckpt"]


def test_a_checkpoint_that_would_run_code_is_not_loaded(tmp_path: Path) -> None:
    torch.save({"structure": Path("/"), "layout": [], "bytes": torch.empty(0)}, tmp_path / "c.ckpt")
    with pytest.raises(Exception, match="weights_only"):
        PackedIO().load_checkpoint(tmp_path / "c.ckpt")


def test_a_checkpoint_that_fails_to_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    saved = checkpoint()
    PackedIO().save_checkpoint(saved, tmp_path / "c.ckpt")
    with pytest.raises(Exception, match="pickle"):
        PackedIO().save_checkpoint({"hook": lambda: None, "tensor": torch.ones(1)}, tmp_path / "c.ckpt")
    assert same(PackedIO().load_checkpoint(tmp_path / "c.ckpt"), saved)
