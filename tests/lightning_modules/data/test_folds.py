"""Samples cut into folds: each validates once, groups and classes as they should, and nothing else changes."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import Dataset

from lightning_modules.data import DatasetDataModule, Split, Tables, TensorDataModule
from lightning_modules.data.folds import fold_numbers


def split(first: int, size: int, classes: int = 2) -> Split:
    values = torch.arange(first, first + size)
    return Split(values.float()[:, None], values % classes, ids=values.tolist())


def held_out(data: TensorDataModule) -> list[list[Any]]:
    return [sorted(fold.splits["val"].ids or ()) for fold in data.folds]


def test_each_sample_of_train_and_val_validates_in_one_fold_and_trains_in_the_others() -> None:
    data = TensorDataModule(train=split(0, 14), val=split(14, 6), test=split(20, 4), folds=4)
    assert len(data.folds) == 4 and data.folds[0] is data and data.folds[1].folds == (data.folds[1],)
    assert sorted(chain(*held_out(data))) == list(range(20))
    for fold in data.folds:
        train, val = (fold.splits[name] for name in ("train", "val"))
        assert (len(train), len(val)) == (15, 5)
        assert sorted([*(train.ids or ()), *(val.ids or ())]) == list(range(20))
        assert train.inputs[:, 0].tolist() == list(train.ids or ())  # type: ignore[call-overload]
        assert (train.labels == torch.tensor(train.ids) % 2).all() and fold.splits["test"] is data.splits["test"]
        assert abs(int((val.labels == 0).sum()) - 2.5) == 0.5  # of each class about its share


def test_samples_of_one_group_are_in_one_fold() -> None:
    groups = [number // 3 for number in range(24)]
    data = TensorDataModule(train=split(0, 18), val=split(18, 6), test=split(24, 2), folds=3, groups=groups)
    for ids in held_out(data):
        assert {one for one in range(24) if groups[one] in {groups[id_] for id_ in ids}} == set(ids)
    numbers = fold_numbers(torch.zeros(6, 2), 2, ["a", "a", "b", "b", "c", "c"])  # no classes: several labels each
    assert numbers[0] == numbers[1] and numbers[2] == numbers[3] and numbers[4] == numbers[5]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"folds": 1}, "folds must be a whole number of at least 2, but got 1"),
        ({"folds": 2.5}, "folds must be a whole number of at least 2, but got 2.5"),
        ({"folds": 11}, "folds must be at most the number of samples, 10, but got 11"),
        ({"folds": 6}, "each class must have a sample for each of 6 folds, but class 0 has 5"),
        ({"folds": 3, "groups": [1, 2]}, "groups must name the group of each of the 10 samples, but there are 2"),
        ({"folds": 3, "groups": [1] * 10}, "folds must be at most the number of groups, 1, but got 3"),
        ({"groups": [1] * 10}, "groups are those of folds, but no folds are asked for"),
    ],
)
def test_folds_that_can_t_be_cut_are_refused(how: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TensorDataModule(train=split(0, 6), val=split(6, 4), test=split(10, 2), **how)


class Listed(Dataset[Any]):
    """Samples that say what they are; how often they are read is counted."""

    def __init__(self, first: int, size: int) -> None:
        self.ids = list(range(first, first + size))
        self.targets = [one % 2 for one in self.ids]
        self.fingerprint = f"from {first}"
        self.read = 0

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, place: int) -> tuple[torch.Tensor, int]:
        self.read += 1
        return torch.tensor([float(self.ids[place])]), self.targets[place]


def test_samples_on_disk_are_cut_without_reading_all_and_read_right_afterwards() -> None:
    train, val = Listed(0, 9), Listed(9, 3)
    data = DatasetDataModule(train=train, val=val, test=Listed(12, 2), folds=3, batch_size=4)
    assert sorted(chain(*held_out(data))) == list(range(12))
    prints = {fold.splits["val"].fingerprint for fold in data.folds}
    assert len(prints) == 3 and train.read + val.read == 2 * 8  # eight, to see whether they are drawn at random
    for fold in data.folds:
        for name in ("train", "val"):
            part = fold.splits[name]
            read = [one for item in fold.ordered(name) for batch in item for one in batch.inputs[:, 0].tolist()]
            assert read == list(part.ids or ()) and part.labels.tolist() == [one % 2 for one in read]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0)
    size = 120
    frame = pd.DataFrame(
        {
            "dose": draw.normal(50, 9, size),
            "rare": np.where(np.arange(size) == 11, 5.0, 0.0),  # constant in the training rows of one fold
            "ward": draw.choice(["north", "south"], size),
            "patient": np.arange(size) // 2,
            "ill": np.where(draw.random(size) < 0.4, "yes", "no"),
        }
    )
    frame.to_csv(tmp_path / "table.csv", index=False)
    return tmp_path / "table.csv"


def test_numbers_of_a_table_are_standardised_by_the_training_rows_of_each_fold(table: Path) -> None:
    data = Tables(table, label="ill", drop=["patient"], folds=4)
    assert data.feature_names == ("dose", "rare", "ward=north", "ward=south")
    seen = []
    for fold in data.folds:
        train, val = (fold.splits[name].inputs for name in ("train", "val"))
        assert isinstance(train, torch.Tensor) and isinstance(val, torch.Tensor)
        assert train.shape[1] == val.shape[1] == 4
        assert float(train[:, 0].mean()) == pytest.approx(0, abs=1e-6)
        assert float(train[:, 0].std(correction=0)) == pytest.approx(1, abs=1e-5)
        assert abs(float(val[:, 0].mean())) > 1e-4
        seen.append(len(val))
    assert sum(seen) == len(data.splits["train"].labels) + len(data.splits["val"].labels)
    assert len({len(fold.splits["test"]) for fold in data.folds}) == 1


def test_rows_of_one_group_of_a_table_are_in_one_fold(table: Path) -> None:
    frame = pd.read_csv(table)
    frame["row"] = range(len(frame))
    frame.to_csv(table, index=False)
    data = Tables(table, label="ill", group="patient", id="row", folds=3)
    assert sum(map(len, held_out(data))) == len({*chain(*held_out(data))}) > 80
    for fold in data.folds:
        ids = {name: {one // 2 for one in (part.ids or ())} for name, part in fold.splits.items()}  # type: ignore[operator]
        assert not ids["train"] & ids["val"] and not ids["train"] & ids["test"] and not ids["val"] & ids["test"]
