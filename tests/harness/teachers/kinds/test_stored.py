"""Outputs alone teach: joined to samples by id or by position, in any order, and refused where they do not fit."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from grounds import NAMES, SIZES, clusters, ground, outputs
from safetensors.numpy import save_file

from harness.core.errors import HarnessError
from harness.teachers import StoredOutputs
from harness.teachers.answers import FLOOR
from harness.teachers.black_box import Query, teacher_in
from lightning_modules.batch import Inputs
from lightning_modules.data.tensors import TensorDataModule
from lightning_modules.data.views import Views

DATA = clusters()
ROWS = sum(SIZES.values())
IDS = [one for part in DATA.splits.values() for one in part.ids or ()]


def said() -> pd.DataFrame:
    """Probabilities of every sample, all different."""
    shares = np.random.default_rng(0).dirichlet(np.ones(3), ROWS)
    return pd.DataFrame(shares, columns=list(NAMES)).assign(id=IDS)


def logits_of(table: pd.DataFrame, split: str) -> torch.Tensor:
    """The logarithms of the probabilities in a table, in the order of a split."""
    rows = table.set_index("id").loc[[f"{split}-{row}" for row in range(SIZES[split])], list(NAMES)]
    return torch.from_numpy(rows.to_numpy().copy()).log().float()


def teacher(table: pd.DataFrame, **changes: Any) -> StoredOutputs:
    given = {"kind": "probabilities", **changes}
    return StoredOutputs(table["id"], table[[one for one in table.columns if one in NAMES]], **given)


def test_rows_find_their_samples_by_id_whatever_their_order_and_that_of_the_classes() -> None:
    table = said()
    mixed = table.sample(frac=1, random_state=1)[["cat", "id", "ant", "bee"]]
    found = outputs(teacher(mixed), ground(DATA), "train", "val", "test")
    for split in SIZES:
        torch.testing.assert_close(found[split], logits_of(table, split))


def test_what_is_said_is_the_identity_of_the_teacher() -> None:
    one, same, other = teacher(said()), teacher(said().sample(frac=1, random_state=1)), said()
    other.loc[3, list(NAMES)] = [0.2, 0.3, 0.5]
    changed = teacher(other)
    for each in (one, same, changed):
        each.prepare(ground(DATA))
    assert one.start(DATA).digest == same.start(DATA).digest != changed.start(DATA).digest


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: t[~t["id"].isin(["train-3", "train-9"])],
         "no row for 2 of the 45 samples of train: 'train-3', 'train-9'"),
        (lambda t: t[t["id"] != "test-1"], "no row for 1 of the 15 samples of test: 'test-1'"),
        (lambda t: pd.concat([t, t[:1]]), "more than one row for 1 samples: 'train-0'"),
        (lambda t: pd.concat([t, t[:1].assign(id="other")]), "1 rows of samples that the data has not: 'other'"),
        (lambda t: t.assign(id=range(ROWS)), r"ids are whole numbers there, and text in the data"),
        (lambda t: t.drop(columns="cat"), "no column for classes: cat"),
        (lambda t: t.assign(ant=t["ant"].where(t["id"] != "val-2", math.nan)), "NaN among .* of 'val-2'"),
        (lambda t: t.assign(ant=t["ant"].where(t["id"] != "val-2", -1)), "negative numbers .* of 'val-2'"),
        (lambda t: t.assign(ant=t["ant"].where(t["id"] != "val-2", 5)), "a sum of .* of 'val-2'"),
    ],
)  # fmt: skip
def test_outputs_that_do_not_fit_are_refused_by_name(change: Any, told: str) -> None:
    with pytest.raises(HarnessError, match=told):
        teacher(change(said())).prepare(ground(DATA))


def test_a_column_of_no_class_is_refused() -> None:
    table = said()
    with pytest.raises(HarnessError, match="columns of no class of the task: dog"):
        StoredOutputs(table["id"], table[["ant", "bee", "cat"]].assign(dog=0.0), kind="probabilities").prepare(
            ground(DATA)
        )


def test_a_test_split_without_rows_is_said_and_refused_once_it_is_asked_about() -> None:
    notes: list[str] = []
    table = said()
    given = teacher(table[~table["id"].str.startswith("test")])
    found = outputs(given, ground(DATA, note=notes.append))
    torch.testing.assert_close(found["val"], logits_of(table, "val"))
    assert notes == ["it has no outputs for the test split: confirm needs them"]
    with pytest.raises(HarnessError, match="no rows for the samples of test"):
        outputs(given, ground(DATA), "test")
    # New data (confirm --on) can't be added to them.
    with pytest.raises(HarnessError, match="no rows for the samples of new; a teacher that can be asked is needed"):
        given.ask(Query("new", torch.arange(2), 0, torch.zeros(2, 1)))


def test_without_ids_in_the_data_rows_are_joined_by_their_position_or_refused() -> None:
    bare, table = clusters(ids=False), said()
    with pytest.raises(HarnessError, match="joined to samples by id, but the samples of train, val, test have none"):
        teacher(table).prepare(ground(bare))
    split, row = zip(*(one.split("-") for one in IDS), strict=True)
    given = StoredOutputs(
        None, table[list(NAMES)], kind="probabilities", split=list(split), row=[int(one) for one in row]
    )
    torch.testing.assert_close(outputs(given, ground(bare))["val"], logits_of(table, "val"))
    with pytest.raises(HarnessError, match="must name samples by ids where samples are cut into folds"):
        given.prepare(ground(TensorDataModule(**bare.splits, folds=2)))
    with pytest.raises(ValueError, match="of which sample each row is"):
        StoredOutputs(None, table[list(NAMES)], kind="probabilities")


class Shifted(Views):
    """Each view shifts all numbers by its place."""

    def of(self, inputs: Inputs, ids: torch.Tensor, view: int) -> Inputs:
        assert isinstance(inputs, torch.Tensor)
        return inputs + view


def test_views_need_rows_of_their_own() -> None:
    data, table = clusters(views=Shifted(2)), said()
    with pytest.raises(HarnessError, match="shows 2 views of each training sample, and a file has no answers"):
        teacher(table).prepare(ground(data))
    of_train = table["id"].str.startswith("train")
    turned = table[of_train].rename(columns={"ant": "bee", "bee": "cat", "cat": "ant"})[table.columns]
    both = pd.concat([table, turned])
    found = outputs(teacher(both, view=[0] * ROWS + [1] * SIZES["train"]), ground(data))
    torch.testing.assert_close(found["train"][:, 0], logits_of(table, "train"))
    torch.testing.assert_close(found["train"][:, 1], logits_of(table, "train").roll(1, dims=1))
    torch.testing.assert_close(found["val"], logits_of(table, "val"))


def test_labels_teach_by_name_or_number_and_what_that_means_is_said() -> None:
    notes: list[str] = []
    labels = np.arange(ROWS) % 3
    by_name = StoredOutputs(IDS, [NAMES[one] for one in labels], kind="labels")
    by_number = StoredOutputs(IDS, labels, kind="labels")
    first = outputs(by_name, ground(DATA, note=notes.append))
    assert "a higher T does no more than smooth them" in notes[0]
    torch.testing.assert_close(first, outputs(by_number, ground(DATA)))
    assert first["val"].argmax(1).tolist() == labels[45:60].tolist()
    assert float(first["val"].exp().min()) == pytest.approx(FLOOR)
    with pytest.raises(HarnessError, match="a class 'dog' for 'train-0'"):
        StoredOutputs(IDS, ["dog"] * ROWS, kind="labels").prepare(ground(DATA))


def test_top_k_are_completed_by_an_even_rest() -> None:
    classes = np.tile([2, 0], (ROWS, 1))
    given = StoredOutputs(IDS, (classes, np.tile([0.7, 0.2], (ROWS, 1))), kind="top_k")
    found = outputs(given, ground(DATA))["train"][0].exp()
    torch.testing.assert_close(found, torch.tensor([0.2, 0.1, 0.7]))


def write(folder: Path, suffix: str) -> Path:
    """The same probabilities in a file of any kind."""
    table, file = said(), folder / f"answers{suffix}"
    if suffix == ".parquet":
        table.to_parquet(file)
    elif suffix == ".csv":
        table.to_csv(file, index=False)
    elif suffix == ".jsonl":
        rows = table.drop(columns="id").to_dict("records")
        lines = [json.dumps({"id": one, "probabilities": row}) for one, row in zip(IDS, rows, strict=True)]
        file.write_text("\n".join(lines))
    elif suffix == ".npz":
        np.savez(file, ids=np.array(IDS), probabilities=table[list(NAMES)].to_numpy(), classes=np.array(NAMES))
    return file


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl", ".npz"])
def test_outputs_are_read_from_files(tmp_path: Path, suffix: str) -> None:
    given = teacher_in(write(tmp_path, suffix), NAMES)
    assert given is not None
    torch.testing.assert_close(outputs(given, ground(DATA))["train"], logits_of(said(), "train"))


def test_safetensors_hold_outputs_or_weights(tmp_path: Path) -> None:
    table, weights = tmp_path / "answers.safetensors", tmp_path / "weights.safetensors"
    numbers = np.arange(ROWS)
    data = clusters(ids=False)
    data.splits = {
        name: replace(part, ids=numbers[IDS.index(f"{name}-0") :][: len(part)].tolist())
        for name, part in data.splits.items()
    }
    logits = np.ascontiguousarray(np.log(said()[list(NAMES)].to_numpy()), dtype=np.float32)
    save_file({"ids": numbers, "logits": logits}, table)
    save_file({"0.weight": logits}, weights)
    given = teacher_in(table, NAMES)
    assert given is not None and teacher_in(weights, NAMES) is None
    torch.testing.assert_close(outputs(given, ground(data))["train"], logits_of(said(), "train"))


@pytest.mark.parametrize("make", [int, "{:03}".format])  # "007" is another id than 7
def test_ids_of_a_csv_file_are_what_those_of_the_data_are(tmp_path: Path, make: Any) -> None:
    data, table = clusters(ids=False), said().assign(id=[make(one) for one in range(ROWS)])
    table.to_csv(tmp_path / "answers.csv", index=False)
    places = {"train": slice(0, 45), "val": slice(45, 60), "test": slice(60, 75)}
    data.splits = {name: replace(part, ids=table["id"][places[name]].tolist()) for name, part in data.splits.items()}
    given = teacher_in(tmp_path / "answers.csv", NAMES)
    assert given is not None
    torch.testing.assert_close(outputs(given, ground(data))["val"], logits_of(said(), "val"))


def test_a_table_says_by_its_numbers_what_it_holds(tmp_path: Path) -> None:
    table = said()
    raw = table.assign(**{name: 5 + np.log(table[name]) for name in NAMES})
    raw.to_csv(tmp_path / "raw.csv", index=False)
    given = teacher_in(tmp_path / "raw.csv", NAMES)
    assert given is not None
    torch.testing.assert_close(outputs(given, ground(DATA))["train"], logits_of(table, "train") + 5)
    # One row that sums to less than 1 makes no logits of the others: it is refused.
    table.loc[2, "ant"] = 0.0
    table.to_csv(tmp_path / "off.csv", index=False)
    off = teacher_in(tmp_path / "off.csv", NAMES)
    assert off is not None
    with pytest.raises(HarnessError, match="instead of 1 of the probabilities of 'train-2'"):
        off.prepare(ground(DATA))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("id,x\na,1\n", "must have a column for each class"),
        ("ant,bee,cat\n1,0,0\n", "of which sample each row is"),
        ("id,ant,bee,cat\na,1,0,x\n", "must have numbers in its columns of classes"),
        ("", "can't be read"),
    ],
)
def test_tables_that_do_not_say_what_they_are_are_refused(tmp_path: Path, content: str, told: str) -> None:
    file = tmp_path / "answers.csv"
    file.write_text(content)
    with pytest.raises(HarnessError, match=told):
        teacher_in(file, NAMES)


def test_pickled_arrays_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "answers.npz"
    np.savez(file, ids=np.array(["a", 1], dtype=object), labels=np.array([0, 1]))
    with pytest.raises(HarnessError, match="no pickled objects"):
        teacher_in(file, NAMES)
