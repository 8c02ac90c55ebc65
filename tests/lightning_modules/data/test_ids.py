"""Ids name samples, one each over all splits, and stay with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lightning_modules.data import TensorDataModule, stratified_splits
from lightning_modules.data.tensors import Split

INPUTS, LABELS = torch.arange(10).float()[:, None], torch.arange(10) % 2


def split(ids: Any, rows: slice = slice(None)) -> Split:
    return Split(INPUTS[rows], LABELS[rows], ids)


@pytest.mark.parametrize("ids", [list("abcdefghij"), range(10), np.arange(10), torch.arange(10)])
def test_ids_come_from_any_sequence_and_stay_with_their_samples(ids: Any) -> None:
    given = split(ids)
    expected = tuple(ids.tolist() if hasattr(ids, "tolist") else ids)
    assert given.ids == expected == given.to(torch.device("cpu")).ids and given.few(3).ids == expected[:3]
    assert split(None).ids is None and split(None).few(3).ids is None


@pytest.mark.parametrize(
    ("ids", "error", "told"),
    [
        (list("abc"), ValueError, "each of the 10 samples of a split, but there are 3"),
        (list("abcdefghia"), ValueError, "'a' names two of this split"),
        ([*range(9), 0.5], TypeError, r"whole numbers or texts, but got 0.5 \(float\)"),
        ([*range(9), True], TypeError, r"whole numbers or texts, but got True \(bool\)"),
    ],
)
def test_ids_that_name_no_single_sample_are_refused(ids: Any, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        split(ids)


def test_two_splits_share_no_id() -> None:
    with pytest.raises(ValueError, match="3 names two of train and val"):
        TensorDataModule(train=split(range(10)), val=split([3], slice(0, 1)), test=split(None))


def test_stratified_splits_carry_ids() -> None:
    names = [f"row {place}" for place in range(10)]
    parts = stratified_splits(INPUTS, LABELS, names)
    for part in parts.values():
        assert isinstance(part, Split) and isinstance(part.inputs, torch.Tensor)
        assert part.ids == tuple(f"row {int(value)}" for value in part.inputs[:, 0])
    assert parts["train"].inputs is not None and stratified_splits(INPUTS, LABELS)["train"].ids is None
    with pytest.raises(ValueError, match="each of the 10 samples, but there are 2"):
        stratified_splits(INPUTS, LABELS, names[:2])
