"""New samples of a table's or a folder's form: encoded by what was fitted to the training rows, or refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from lightning_modules.data import ImageFolders, Split, Tables

KINDS = ("fig", "plum")


def table(size: int = 60, seed: int = 0) -> pd.DataFrame:
    draw = np.random.default_rng(seed)
    columns = {"weight": draw.normal(50, 10, size), "city": draw.choice(["Rome", "Oslo", "Bonn"], size)}
    columns = {**columns, "kind": draw.choice(KINDS, size), "height": draw.normal(3, 2, size)}
    return pd.DataFrame({"name": [f"{seed}-{place}" for place in range(size)], **columns})


def saved(frame: pd.DataFrame, folder: Path, name: str = "new.csv") -> Path:
    frame.to_csv(folder / name, index=False)
    return folder / name


def searched(folder: Path, **how: Any) -> Tables:
    return Tables(saved(table(), folder, "old.csv"), **{"label": "kind", "id": "name", **how})


def train_rows(data: Tables) -> pd.DataFrame:
    ids = data.splits["train"].ids
    assert ids is not None
    return table().set_index("name").loc[list(ids)]


def column(split: Split, data: Tables, name: str) -> Tensor:
    assert isinstance(split.inputs, Tensor)
    return split.inputs[:, data.feature_names.index(name)]


def test_new_rows_are_encoded_by_the_training_rows_and_not_by_themselves(tmp_path: Path) -> None:
    data, new = searched(tmp_path), table(9, seed=1)
    new["weight"] += 100
    new.loc[2, "weight"] = np.nan
    new.loc[3, "city"] = "Paris"  # which no training row has
    # In another order, without the column of ids, and with one that is not known.
    found = data.new_samples(saved(new[["kind", "height", "city", "weight"]].assign(more=1), tmp_path))
    train = train_rows(data)["weight"]
    expected = (new["weight"].fillna(train.median()) - train.mean()) / train.std(ddof=0)
    torch.testing.assert_close(column(found, data, "weight"), torch.tensor(expected.to_numpy()).float())
    assert float(column(found, data, "weight").mean()) > 5
    for city in ("Bonn", "Oslo", "Rome"):
        assert column(found, data, f"city={city}").tolist() == (new["city"] == city).astype(float).tolist()
    assert found.labels.tolist() == [KINDS.index(kind) for kind in new["kind"]] and found.ids is None


def test_new_rows_of_one_class_keep_its_index_and_indices_of_categories(tmp_path: Path) -> None:
    data, new = searched(tmp_path, categories="indices"), table(4, seed=2).assign(kind="plum")
    new["city"] = ["Oslo", "Paris", "Bonn", "Rome"]
    found = data.new_samples(saved(new, tmp_path))
    assert found.labels.tolist() == [1] * 4 and list(found.ids or ()) == ["2-0", "2-1", "2-2", "2-3"]
    assert isinstance(found.inputs, dict) and found.inputs["categories"].tolist() == [[2], [0], [1], [3]]


def test_new_numbers_to_predict_are_in_the_units_of_the_training_rows(tmp_path: Path) -> None:
    how: dict[str, Any] = {"label": "height", "kind": "regression", "drop": ["kind"], "standardize_label": True}
    data, new = searched(tmp_path, **how), table(5, seed=3)
    train = train_rows(data)["height"].astype(np.float32)
    expected = (new["height"].to_numpy() - train.mean()) / train.std(ddof=0)
    labels = data.new_samples(saved(new, tmp_path)).labels
    assert labels.dtype == torch.float32
    np.testing.assert_allclose(labels[:, 0].numpy(), expected, rtol=1e-4, atol=1e-5)


def test_of_a_table_that_tells_its_splits_the_test_rows_are_new(tmp_path: Path) -> None:
    parts = np.array(["train", "train", "train", "val", "test"] * 12)
    data = Tables(saved(table().assign(part=parts), tmp_path, "old.csv"), label="kind", id="name", split="part")
    told = saved(table(10, seed=4).assign(part=parts[:10]), tmp_path)
    assert list(data.new_samples(told).ids or ()) == ["4-4", "4-9"]
    assert len(data.new_samples(saved(table(10, seed=4), tmp_path))) == 10  # of one that does not, all are
    (tmp_path / "there").mkdir()
    saved(table(7, seed=4), tmp_path / "there", "old.csv")
    assert len(data.new_samples(tmp_path / "there")) == 7


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda new: new.drop(columns=["weight", "kind"]), "lacks 'kind', 'weight'"),
        (lambda new: new.assign(weight="heavy"), "column 'weight' must hold numbers, as in the rows"),
        (lambda new: new.assign(kind=["fig"] * 8 + ["pear"]), r"must hold classes .*\(fig, plum\).*'pear' in row 9"),
        (lambda new: new.assign(kind=["fig"] * 8 + [None]), "label 'kind' must be known in each row"),
        (lambda new: new[:0], "must have rows"),
    ],
)  # fmt: skip
def test_a_table_of_another_form_is_refused(
    change: Callable[[pd.DataFrame], pd.DataFrame], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=said):
        searched(tmp_path).new_samples(saved(change(table(9, seed=1)), tmp_path))


def test_the_table_that_was_searched_has_no_new_rows(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is the table that was searched"):
        searched(tmp_path).new_samples(tmp_path / "old.csv")


def pictures(folder: Path, seed: int, count: int = 10, *names: str) -> Path:
    image = pytest.importorskip("PIL.Image", reason="pip install 'kd-harness[vision]'")
    draw = np.random.default_rng(seed)
    for name in names or ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for place in range(count):
            pixels = draw.integers(0, 256, (8, 12, 3), dtype=np.uint8)
            image.fromarray(pixels).save(folder / name / f"{place}.png")
    return folder


def folders(folder: Path) -> ImageFolders:
    pytest.importorskip("torchvision", reason="pip install 'kd-harness[vision]'")
    return ImageFolders(pictures(folder, 0), size=8, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))


def test_all_pictures_of_a_new_folder_are_shown_as_those_of_the_first(tmp_path: Path) -> None:
    data = folders(tmp_path / "old")
    found = data.new_samples(pictures(tmp_path / "new", 1, 3))
    assert found.labels.tolist() == [0, 0, 0, 1, 1, 1]
    # The same picture, in either folder.
    copied = data.splits["test"].dataset.pictures[0]  # type: ignore[attr-defined]
    shutil.copy(copied.file, tmp_path / "new" / "dog" / "a.png")
    expected = data.splits["test"].few(1).inputs
    assert isinstance(expected, Tensor)
    again = data.new_samples(tmp_path / "new").at(torch.tensor([6])).inputs
    assert isinstance(again, Tensor) and torch.equal(again, expected)


def test_of_a_folder_with_splits_the_pictures_of_test_are_new(tmp_path: Path) -> None:
    data = folders(tmp_path / "old")
    for place, name in enumerate(("train", "val", "test")):
        pictures(tmp_path / "new" / name, place + 1, place + 1)
    assert len(data.new_samples(tmp_path / "new")) == 2 * 3


def test_pictures_of_other_classes_or_that_were_trained_on_are_refused(tmp_path: Path) -> None:
    data = folders(tmp_path / "old")
    with pytest.raises(ValueError, match=r"2 classes that were trained on, but .* has 'bird' beside them"):
        data.new_samples(pictures(tmp_path / "more", 1, 1, "bird", "cat", "dog"))
    with pytest.raises(ValueError, match="has no 'dog'"):
        data.new_samples(pictures(tmp_path / "fewer", 1, 1, "cat", "eel"))
    with pytest.raises(ValueError, match=r"16 of the 20 pictures in .* were trained on or chosen by"):
        data.new_samples(tmp_path / "old")
    (tmp_path / "new").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "new" / name).mkdir()
    with pytest.raises(ValueError, match="must have a picture at least"):
        data.new_samples(tmp_path / "new")
    (tmp_path / "new" / "cat" / "broken.png").write_bytes(b"none")
    with pytest.raises(ValueError, match=r"1 files in .* can't be read as pictures"):
        data.new_samples(tmp_path / "new")
