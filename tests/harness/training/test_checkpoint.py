"""Checkpoints: what goes in comes out, to the bit; what was cut falls back to the epoch before."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.training.checkpoint import (
    Checkpoints,
    drop_checkpoints,
    epochs_kept,
    fold_folder,
    load_checkpoint,
    save_checkpoint,
)


def checkpoint(epoch: int = 0) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "state_dict": OrderedDict(weight=torch.randn(3, 5), steps=torch.tensor(7), flags=torch.tensor([True, False])),
        "optimizer_states": [{"state": {0: {"step": torch.tensor(2.0), "exp_avg": torch.randn(3, 5).double()}}}],
        "loops": {"names": ("a", "b"), "nothing": None, "rate": 0.1 + 0.2, "far": float("inf"), "items": []},
        "half": torch.randn(3).to(torch.bfloat16).t(),
        "empty": torch.empty(0, 2),
        "transposed": torch.arange(6).reshape(2, 3).t(),
        "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    }


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.stride() == b.stride() and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def test_a_checkpoint_loads_with_every_type_shape_and_bit(tmp_path: Path) -> None:
    saved = checkpoint()
    save_checkpoint(saved, tmp_path / "c")
    assert same(load_checkpoint(tmp_path / "c"), saved)


def test_a_shorter_checkpoint_overwrites_a_longer_one_completely(tmp_path: Path) -> None:
    save_checkpoint(checkpoint(), tmp_path / "c")
    save_checkpoint({"epoch": 1, "weight": torch.ones(2)}, tmp_path / "c")
    assert same(load_checkpoint(tmp_path / "c"), {"epoch": 1, "weight": torch.ones(2)})


def test_a_checkpoint_of_other_types_is_refused_and_leaves_the_previous_one(tmp_path: Path) -> None:
    saved = checkpoint()
    save_checkpoint(saved, tmp_path / "c")
    with pytest.raises(TypeError, match="JSON serializable"):
        save_checkpoint({"hook": lambda: None, "tensor": torch.ones(1)}, tmp_path / "c")
    assert same(load_checkpoint(tmp_path / "c"), saved)


def test_the_newest_of_two_checkpoints_is_found(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path).newest is None and epochs_kept(tmp_path) == 0
    checkpoints = Checkpoints(tmp_path)
    for epoch in (0, 2, 4, 5, 9, 11):
        checkpoints.save(checkpoint(epoch))
        if epoch == 5:
            checkpoints = Checkpoints(tmp_path)  # another process goes on
        newest = Checkpoints(tmp_path).newest
        assert newest is not None
        assert newest["epoch"] == epoch == epochs_kept(tmp_path) - 1
    assert sorted(load_checkpoint(path)["epoch"] for path in tmp_path.iterdir()) == [9, 11]
    drop_checkpoints(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("how", ["cut short", "half overwritten", "one bit", "in the text", "empty"])
def test_a_torn_checkpoint_is_skipped_with_a_warning_and_the_previous_one_used(tmp_path: Path, how: str) -> None:
    checkpoints = Checkpoints(tmp_path)
    for epoch in (6, 7):
        checkpoints.save(checkpoint(epoch))
    (torn,) = (path for path in tmp_path.iterdir() if load_checkpoint(path)["epoch"] == 7)
    whole = torn.read_bytes()
    save_checkpoint(checkpoint(9), torn)
    other = torn.read_bytes()
    assert len(whole) == len(other)
    text = whole.index(b"epoch")
    torn.write_bytes(
        {
            "cut short": whole[:-100],
            "half overwritten": other[: len(other) - 200] + whole[len(other) - 200 :],
            "one bit": whole[:-1] + bytes([whole[-1] ^ 1]),
            "in the text": whole[: text + 9] + b"8" + whole[text + 10 :],
            "empty": b"",
        }[how]
    )
    with pytest.warns(UserWarning, match="is skipped"):
        checkpoints = Checkpoints(tmp_path)
    assert checkpoints.newest is not None
    assert checkpoints.newest["epoch"] == 6
    checkpoints.save(checkpoint(8))  # over the torn one
    assert sorted(load_checkpoint(path)["epoch"] for path in tmp_path.iterdir()) == [6, 8]


def test_a_training_in_folds_resumes_in_the_one_that_it_was_in_and_leaves_no_checkpoint_of_any(tmp_path: Path) -> None:
    for fold, epoch in ((0, 7), (1, 7), (2, 4)):
        folder = fold_folder(tmp_path, fold)
        folder.mkdir(exist_ok=True)
        Checkpoints(folder).save(checkpoint(epoch))
    assert fold_folder(tmp_path, 0) == tmp_path and epochs_kept(tmp_path) == 8 + 8 + 5
    drop_checkpoints(tmp_path)
    assert epochs_kept(tmp_path) == 0 and not list(tmp_path.iterdir())
