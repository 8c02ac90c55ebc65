"""Tables: encoded as scikit-learn does by the training rows alone, split by content, refused in one line."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from torch import Tensor

from lightning_modules.batch import Inputs
from lightning_modules.data import Tables, TensorDataModule, Views
from lightning_modules.outputs import Classification, MultiLabel, Regression

ROWS = 120
SPLITS = ("train", "val", "test")


def table(size: int = ROWS) -> pd.DataFrame:
    """A table of numbers, some missing, booleans and texts, whose label is a text; ``name`` names the rows."""
    draw = np.random.default_rng(0)
    weight = draw.normal(50, 10, size)
    weight[draw.random(size) < 0.2] = np.nan
    city = draw.choice(["Rome", "Oslo", "Bonn"], size).astype(object)
    city[draw.random(size) < 0.1] = None
    return pd.DataFrame(
        {
            "name": [f"r{place}" for place in range(size)],
            "weight": weight,
            "city": city,
            "age": draw.integers(20, 70, size),
            "member": draw.random(size) < 0.5,
            "kind": draw.choice(["plum", "fig", "apple"], size),
        }
    )


def written(folder: Path, frame: pd.DataFrame, name: str = "table.csv", **how: Any) -> Path:
    file = folder / name
    if name.endswith(".parquet"):
        frame.to_parquet(file, index=False)
    else:
        frame.to_csv(file, index=False, sep="\t" if ".tsv" in name else ",", **how)
    return file


def tables(folder: Path, frame: pd.DataFrame | None = None, *, name: str = "table.csv", **how: Any) -> Tables:
    file = written(folder, table() if frame is None else frame, name)
    return Tables(file, **{"label": "kind", "id": "name", **how})


def tensor(data: TensorDataModule, split: str) -> Tensor:
    inputs = data.splits[split].inputs
    assert isinstance(inputs, Tensor)
    return inputs


def frame_of(data: Tables, split: str, frame: pd.DataFrame | None = None) -> pd.DataFrame:
    """The rows of a split, in its order."""
    ids = data.splits[split].ids
    assert ids is not None
    return (table() if frame is None else frame).set_index("name").loc[list(ids)]


@pytest.mark.parametrize("missing", ["median", "mean"])
def test_inputs_are_those_of_scikit_learns_encoders_fitted_on_the_training_rows(tmp_path: Path, missing: Any) -> None:
    data = tables(tmp_path, missing=missing)
    fill = SimpleImputer(strategy=missing)
    oracle = ColumnTransformer(
        [
            ("numbers", make_pipeline(fill, StandardScaler()), ["weight", "age", "member"]),
            ("city", OneHotEncoder(sparse_output=False), ["city"]),
        ]
    )
    oracle.fit(frame_of(data, "train"))
    for split in SPLITS:
        rows = frame_of(data, split)
        numbers, cities = np.split(oracle.transform(rows), [3], axis=1)
        missed = rows["weight"].isna().to_numpy(dtype=float)[:, None]
        expected = np.concatenate([numbers[:, :1], missed, cities, numbers[:, 1:]], 1)
        np.testing.assert_allclose(tensor(data, split).numpy(), expected.astype(np.float32), rtol=1e-6, atol=1e-6)
    assert data.feature_names == (
        *("weight", "weight is missing", "city=Bonn", "city=Oslo", "city=Rome", "city is missing", "age", "member"),
    )
    assert tensor(data, "train").dtype == torch.float32 and data.cardinalities == () and data.notes == ()


def test_classes_are_those_of_the_column_in_order(tmp_path: Path) -> None:
    data = tables(tmp_path)
    assert data.class_names == ("apple", "fig", "plum")
    for split in SPLITS:
        labels = data.splits[split].labels
        assert [data.class_names[label] for label in labels.tolist()] == frame_of(data, split)["kind"].tolist()
        assert Classification().labels_fault(labels) is None


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ([7, 10, 9], ("7", "9", "10")),
        ([True, False, True], ("False", "True")),
        (["10", "9", "x"], ("10", "9", "x")),
    ],
)
def test_classes_may_be_whole_numbers_or_booleans(tmp_path: Path, values: list[Any], names: tuple[str, ...]) -> None:
    frame = table()
    frame["kind"] = (values * ROWS)[:ROWS]
    data = tables(tmp_path, frame)
    assert data.class_names == names
    told = frame_of(data, "val", frame)["kind"].map(str).tolist()
    assert [names[label] for label in data.splits["val"].labels.tolist()] == told


@pytest.mark.parametrize("name", ["table.tsv", "table.csv.gz", "table.parquet", "TABLE.CSV"])
def test_formats_give_the_same_splits(tmp_path: Path, name: str) -> None:
    one, other = tables(tmp_path), tables(tmp_path, name=name)
    for split in SPLITS:
        assert one.splits[split].ids == other.splits[split].ids
        assert torch.equal(tensor(one, split), tensor(other, split))


def test_parquet_keeps_categories_nullable_numbers_and_a_named_index(tmp_path: Path) -> None:
    frame = table().astype({"city": "category", "age": "Int64", "member": "boolean"})
    frame.loc[3, "age"] = pd.NA
    file = tmp_path / "table.parquet"
    frame.set_index("name").to_parquet(file)
    data = Tables(file, label="kind", id="name")
    assert "age is missing" in data.feature_names or "r3" not in (data.splits["train"].ids or ())
    assert {"city=Oslo", "age", "member"} <= {*data.feature_names}


def test_gaps_among_booleans_and_decimals_leave_them_numbers(tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    frame = table().assign(paid=draw.choice(np.array([True, False, None], dtype=object), ROWS))
    frame["price"] = [Decimal(row) / 4 for row in range(ROWS)]
    data = tables(tmp_path, frame, name="table.parquet")
    assert {"paid", "paid is missing", "price"} <= {*data.feature_names}
    told = frame_of(data, "val", frame)["paid"].isna().astype(float).tolist()
    assert tensor(data, "val")[:, data.feature_names.index("paid is missing")].tolist() == told


@pytest.mark.parametrize(
    ("column", "told"),
    [
        ([[1, 2]] * ROWS, "column 'odd' must hold numbers, booleans or texts, but holds values of type mixed"),
        ([datetime.date(2026, 11, 30)] * ROWS, "column 'odd' holds dates"),
        ([datetime.timedelta(days=2)] * ROWS, "column 'odd' holds dates"),
        ([b"x"] * ROWS, "but holds values of type bytes"),
    ],
)
def test_values_of_other_types_are_refused_as_inputs_and_as_labels(
    tmp_path: Path, column: list[Any], told: str
) -> None:
    frame = table().assign(odd=column)
    with pytest.raises(ValueError, match=told):
        tables(tmp_path, frame, name="table.parquet")
    with pytest.raises(ValueError, match="label 'odd' must hold classes or numbers, but holds "):
        tables(tmp_path, frame, name="table.parquet", label="odd")


def test_splits_are_stratified_and_do_not_depend_on_the_order_of_rows_or_columns(tmp_path: Path) -> None:
    data = tables(tmp_path)
    counts = table()["kind"].value_counts()
    for split, share in (("train", 0.6), ("val", 0.2), ("test", 0.2)):
        found = frame_of(data, split)["kind"].value_counts()
        assert all(abs(found[name] - share * counts[name]) <= 1 for name in counts.index)
    turned = table().iloc[::-1][["kind", "member", "age", "city", "weight", "name"]]
    again = tables(tmp_path, turned)
    assert all(sorted(data.splits[name].ids or ()) == sorted(again.splits[name].ids or ()) for name in SPLITS)


def test_rows_with_the_same_inputs_are_in_one_split_whatever_their_labels(tmp_path: Path) -> None:
    frame = table()
    copies = frame.copy()
    copies["name"], copies["kind"] = "copy of " + copies["name"], copies["kind"].iloc[::-1].to_numpy()
    data = tables(tmp_path, pd.concat([frame, copies]))
    where = {one: name for name in SPLITS for one in data.splits[name].ids or ()}
    assert all(where[one] == where[f"copy of {one}"] for one in frame["name"])
    assert abs(len(data.splits["train"]) - 0.6 * 2 * ROWS) <= 6


def test_a_column_may_tell_the_splits_and_is_no_input(tmp_path: Path) -> None:
    frame = table().assign(part=(["val"] + ["train"] * 3 + ["test"]) * (ROWS // 5))
    data = tables(tmp_path, frame, split="part")
    for name in SPLITS:
        assert frame_of(data, name, frame)["part"].unique().tolist() == [name]
    assert not any("part" in name for name in data.feature_names)


def test_groups_stay_together_and_are_no_input(tmp_path: Path) -> None:
    frame = table().assign(patient=np.arange(ROWS) // 4)
    data = tables(tmp_path, frame, group="patient")
    seen = [{*frame_of(data, name, frame)["patient"]} for name in SPLITS]
    assert sum(map(len, seen)) == len(set.union(*seen)) == 30
    assert [len(one) for one in seen] == [18, 6, 6]
    assert not any("patient" in name for name in data.feature_names)


def test_ids_name_the_rows_as_numbers_where_all_are(tmp_path: Path) -> None:
    def first(names: list[str]) -> Any:
        data = tables(tmp_path, table().assign(name=names))
        return sorted(one for name in SPLITS for one in data.splits[name].ids or ())[:2]

    assert first([f"r{place:03}" for place in range(ROWS)]) == ["r000", "r001"]
    assert first([str(place + 5) for place in range(ROWS)]) == [5, 6]
    assert first([f"{place:03}" for place in range(ROWS)]) == ["000", "001"]
    frame = table().assign(name=[str(place) for place in range(ROWS)])
    data = tables(tmp_path, frame, name="table.parquet")  # which tells texts from numbers
    assert sorted(data.splits["val"].ids or ())[0] in {*frame["name"]}
    assert tables(tmp_path, id=None, drop="name").splits["train"].ids is None


def test_encoders_see_training_rows_alone(tmp_path: Path) -> None:
    frame = table().assign(part=["train"] * 80 + ["val"] * 20 + ["test"] * 20)
    before = tables(tmp_path, frame, split="part")
    frame.loc[80:, "weight"] *= 1000
    frame.loc[80:, "city"] = "Lima"
    frame.loc[85, "age"] = 1e6
    after = tables(tmp_path, frame, split="part")
    assert torch.equal(tensor(before, "train"), tensor(after, "train"))
    assert before.feature_names == after.feature_names
    cities = [place for place, name in enumerate(after.feature_names) if name.startswith("city")]
    assert len(cities) == 4 and not tensor(after, "val")[:, cities].any()
    assert after.notes == ("of column 'city' 40 rows of val and test have a category that no training row has",)


def test_rare_categories_are_joined_and_said(tmp_path: Path) -> None:
    frame = table()
    frame["city"] = ["a"] * 50 + ["b"] * 40 + ["c"] * 20 + ["d"] * 10
    frame["part"] = (["train", "train", "train", "val", "test"] * ROWS)[:ROWS]
    data = tables(tmp_path, frame, split="part", max_categories=2)
    assert [name for name in data.feature_names if "city" in name] == ["city=a", "city=b", "city is other"]
    other = data.feature_names.index("city is other")
    for split in SPLITS:
        told = frame_of(data, split, frame)["city"].isin(["c", "d"]).to_numpy()
        assert tensor(data, split)[:, other].numpy().tolist() == told.astype(float).tolist()
    assert data.notes == (
        "of column 'city' the 2 most frequent categories are told apart; 18 training rows have others (max_categories)",
    )


def test_indices_of_categories_are_given_for_embeddings(tmp_path: Path) -> None:
    frame = table().assign(part=["train"] * 80 + ["val"] * 20 + ["test"] * 20)
    frame.loc[119, "city"] = "Lima"
    data = tables(tmp_path, frame, split="part", categories="indices", categorical=["member"])
    inputs = data.splits["test"].inputs
    assert isinstance(inputs, dict) and {name: one.dtype for name, one in inputs.items()} == {
        "numbers": torch.float32,
        "categories": torch.int64,
    }
    assert data.feature_names == ("weight", "weight is missing", "age", "city", "member")
    assert data.cardinalities == (5, 3)  # another, Bonn, Oslo, Rome, missing; another, False, True
    rows = frame_of(data, "test", frame)
    index = {"Lima": 0, "Bonn": 1, "Oslo": 2, "Rome": 3}
    expected = [
        [4 if pd.isna(city) else index[city], 1 + member] for city, member in zip(rows.city, rows.member, strict=True)
    ]
    assert inputs["categories"].tolist() == expected
    whole = tables(tmp_path, frame.drop(columns=["weight", "age"]), split="part", categories="indices", drop=["member"])
    assert [*whole.splits["val"].inputs] == ["categories"]  # type: ignore[misc]
    one_hot = tables(tmp_path, frame, split="part", drop=["city"])
    assert torch.equal(inputs["numbers"][:, 0], tensor(one_hot, "test")[:, 0])


def test_numbers_that_are_names_are_categories_where_told(tmp_path: Path) -> None:
    frame = table().assign(code=(np.arange(ROWS) % 3).astype(float))
    frame.loc[7, "code"] = np.nan
    assert "code" in tables(tmp_path, frame).feature_names
    names = tables(tmp_path, frame, categorical="code").feature_names
    assert {"code=0", "code=1", "code=2"} <= {*names} and "code" not in names


def test_columns_are_dropped_as_told_and_constant_ones_with_a_note(tmp_path: Path) -> None:
    frame = table().assign(one=3, same="x", gone=None)
    data = tables(tmp_path, frame, drop=["city"])
    assert not {"city=Rome", "one", "same", "gone"} & {*data.feature_names}
    assert data.notes == ("left out, for no training row differs from another there: 'one', 'same', 'gone'",)


def test_numbers_are_predicted_of_one_column_or_several(tmp_path: Path) -> None:
    data = tables(tmp_path, label="age", kind="regression")
    labels = data.splits["val"].labels
    assert labels[:, 0].tolist() == frame_of(data, "val")["age"].tolist() and data.class_names == ()
    assert Regression(1).labels_fault(labels) is None
    frame = table().assign(price=1000.0 * np.arange(ROWS))
    data = tables(tmp_path, frame, label=["age", "price"], kind="regression")
    assert tuple(data.splits["test"].labels.shape) == (len(data.splits["test"]), 2)
    assert len(data.notes) == 1 and "label 'price' has a deviation of" in data.notes[0]


def test_numbers_to_predict_are_standardised_by_the_training_rows_where_told(tmp_path: Path) -> None:
    frame = table().assign(price=1000.0 * np.arange(ROWS) ** 2)
    data = tables(tmp_path, frame, label="price", kind="regression", standardize_label=True)
    price = frame_of(data, "train", frame)["price"]
    assert data.label_mean == pytest.approx((price.mean(),)) and data.label_deviation == pytest.approx(
        (price.std(ddof=0),)
    )
    rows = frame_of(data, "test", frame)["price"].to_numpy()
    expected = (rows - price.mean()) / price.std(ddof=0)
    np.testing.assert_allclose(data.splits["test"].labels[:, 0].numpy(), expected, rtol=1e-5, atol=1e-6)
    assert data.notes == (f"label 'price' is in units of its deviation, {price.std(ddof=0):g}",)


def test_several_labels_are_columns_of_0_and_1(tmp_path: Path) -> None:
    frame = table().assign(ripe=np.arange(ROWS) % 2)
    data = tables(tmp_path, frame, label=["ripe", "member"])
    labels = data.splits["val"].labels
    assert labels.tolist() == frame_of(data, "val", frame)[["ripe", "member"]].astype(int).to_numpy().tolist()
    assert data.class_names == ("ripe", "member") and MultiLabel(2).labels_fault(labels) is None
    assert tuple(tables(tmp_path, frame, label="ripe", kind="multilabel").splits["val"].labels.shape[1:]) == (1,)


def test_batch_sizes_are_those_given(tmp_path: Path) -> None:
    data = tables(tmp_path, batch_size=7, eval_batch_size=9)
    assert (data.batch_size, data.eval_batch_size) == (7, 9)


@dataclass(frozen=True)
class Shifted(Views):
    """Rows moved by the number of the view."""

    def of(self, inputs: Inputs, ids: Tensor, view: int) -> Inputs:
        assert isinstance(inputs, Tensor)
        return inputs + view


def test_encoded_rows_may_have_views(tmp_path: Path) -> None:
    data = tables(tmp_path, views=Shifted(count=2), batch_size=ROWS)
    loader = data.train_dataloader()
    loader.set_epoch(1)
    ((batch,),) = loader
    assert isinstance(batch.inputs, Tensor)
    assert torch.equal(batch.inputs, tensor(data, "train")[batch.ids] + 1)


def test_another_separator_is_taken_as_told(tmp_path: Path) -> None:
    file = tmp_path / "table.csv"
    table().to_csv(file, index=False, sep=";")
    assert Tables(file, label="kind", id="name", separator=";").class_names == ("apple", "fig", "plum")
    with pytest.raises(ValueError, match=r"no 'kind'; its columns seem to be separated by ';': give separator=';'"):
        Tables(file, label="kind", drop=["name"])


def changed(**columns: Any) -> pd.DataFrame:
    return table().assign(**columns)


def with_value(column: str, row: int, value: Any) -> pd.DataFrame:
    frame = table()
    frame[column] = frame[column].astype(object)
    frame.loc[row, column] = value
    return frame


@pytest.mark.parametrize(
    ("frame", "how", "told"),
    [
        (table(), {"label": "kin"}, "label must name a column of .*, but there is no 'kin'; did you mean 'kind'"),
        (table(), {"label": "Kind"}, "there is no 'Kind'; did you mean 'kind'"),
        (table(), {"label": "xyz"}, "no 'xyz'; its columns are name, weight, city, age, member, kind"),
        (table(), {"drop": ["wieght"]}, "drop must name a column of .* did you mean 'weight'"),
        (table(), {"split": "member_"}, "split must name a column of .* did you mean 'member'"),
        (table(), {"group": "zity"}, "group must name a column of .* did you mean 'city'"),
        (table(), {"id": "nam"}, "id must name a column of .* did you mean 'name'"),
        (table(), {"categorical": ["aged"]}, "categorical must name a column of .* did you mean 'age'"),
        (table(), {"drop": ["kind"]}, "'kind' must have one role, but is named by label and drop"),
        (table(), {"kind": "regresion"}, "kind must be one of .* but got 'regresion'; did you mean 'regression'"),
        (table(), {"categories": "onehot"}, "categories must be one of one-hot, indices, .* mean 'one-hot'"),
        (table(), {"missing": "zero"}, "missing must be one of median, mean, but got 'zero'"),
        (table(), {"max_categories": 0}, "max_categories must be a whole number of at least 1"),
        (table(), {"label": []}, "label must name one column for classification, or several"),
        (
            table(),
            {"label": ["kind", "age"], "kind": "classification"},
            "label must name one column for classification",
        ),
        (table(), {"standardize_label": True}, "standardize_label=True is for kind='regression'"),
        (changed(part="train"), {"split": "part", "group": "city"}, "by split= or by group=, but both are given"),
        (with_value("kind", 2, None), {}, r"label 'kind' must be known in each row, but is missing in row 3 \(empty"),
        (changed(kind="fig"), {}, "label 'kind' must have two values at least, but is fig in each row"),
        (changed(kind=np.arange(ROWS)), {}, "has 120 different numbers in 120 rows: amounts .* kind='regression'"),
        (changed(kind=np.arange(ROWS) / 2), {}, "must hold classes, but has 0.5 in row 2: amounts are learnt by"),
        (changed(kind="2026-11-30"), {}, "label 'kind' must hold classes or numbers, but holds dates"),
        (table(), {"kind": "regression"}, "label 'kind' must hold numbers for regression, but has '.*' in row 1"),
        (changed(ripe=2), {"label": ["ripe", "member"]}, "label 'ripe' must have two values"),
        (with_value("age", 4, 0), {"label": ["age"]}, "label 'age' must be 0 or 1 in each row, .* but is .* in row 1"),
        (changed(rare=["y"] * 3 + ["x"] * 117), {"label": "rare"}, "5 different rows at least, .* 'y' has 3, and none"),
        (with_value("weight", 4, np.inf), {}, "column 'weight' must hold finite numbers, but has infinity in row 5"),
        (changed(when=pd.Timestamp("2026-11-30")), {}, "column 'when' holds dates: make numbers .* or leave it out"),
        (changed(when="30/11/2026"), {}, "column 'when' holds dates"),
        (
            changed(note=[f"text {row}" for row in range(ROWS)]),
            {},
            "column 'note' must hold categories, but has 72 diff",
        ),
        (changed(far=[1e300, -1e300] * 60), {}, "column 'far' can't be standardised"),
        (
            changed(part="trian"),
            {"split": "part"},
            "split 'part' must say train, val or test in each row, but has 'tri",
        ),
        (changed(part="train"), {"split": "part"}, "val must have rows, but has none: the table has too few rows"),
        (changed(part=[None, *["train"] * 119]), {"split": "part"}, "in each row, but has nan in row 1"),
        (with_value("city", 1, None), {"group": "city"}, "group 'city' must be known in each row, but is missing in"),
        (changed(who=[1, 2] * 60), {"group": "who"}, "test must have rows, .* too few groups|val must have rows"),
        (with_value("name", 6, "r4"), {}, "id 'name' must name one row each, but 'r4' names two of the rows 5, 7"),
        (with_value("name", 6, None), {}, "id 'name' must name each row, but is missing in row 7"),
        (table()[["name", "kind"]], {}, "must have a column that is an input"),
        (table()[["name", "kind"]].assign(one=1), {}, "too few different rows|a column must vary"),
    ],
)
def test_what_can_not_be_learnt_from_is_refused_in_one_line(
    tmp_path: Path, frame: pd.DataFrame, how: dict[str, Any], told: str
) -> None:
    with pytest.raises(ValueError, match=told) as refused:
        tables(tmp_path, frame, **how)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("table.csv", b"", "can't be read as a table: No columns to parse from file"),
        ("table.csv", b"a,kind\n", "must have rows, but has a header alone"),
        ("table.csv", b"a,kind\n1,x\n2,y,3\n", "can't be read as a table: "),
        ("table.csv", b"a,kind\n1,x,9\n2,y,3\n", "can't be read as a table: Length of header or names"),
        ("table.csv", b"a,kind\n1,\xff\n", "can't be read as a table: 'utf-8' codec"),
        ("table.csv", b"a,a,kind\n1,2,x\n", "must have names of their own, but 2 are called 'a'"),
        ("table.csv", b",a,kind\n0,2,x\n", "must have a name, but column 1 has none: .*index=False"),
        ("table.parquet", b"no parquet", "can't be read as a table: "),
        ("table.xlsx", b"x", "must be a file .csv, .tsv .* or .parquet, but got table.xlsx"),
        ("", b"", "a table must be a file, but there is none at"),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    file = tmp_path / name
    if name:
        file.write_bytes(content)
    with pytest.raises(ValueError, match=told) as refused:
        Tables(file, label="kind")
    assert "\n" not in str(refused.value)


def test_a_missing_data_dir_is_named() -> None:
    with pytest.raises(ValueError, match=r"Tables needs a file, .* name its folder by --data-dir"):
        Tables(None, label="kind")


def test_a_byte_order_mark_of_a_spreadsheet_is_no_part_of_a_name(tmp_path: Path) -> None:
    file = written(tmp_path, table(), encoding="utf-8-sig")
    assert Tables(file, label="kind", id="name").class_names == ("apple", "fig", "plum")


@pytest.mark.parametrize("kind", ["classification", "regression", "multilabel"])
def test_rows_without_a_label_train_where_that_is_said_and_the_others_are_split_as_without_them(
    tmp_path: Path, kind: Any
) -> None:
    frame = table()
    label: Any = {"classification": "kind", "regression": "age", "multilabel": ["member", "old"]}[kind]
    frame["old"] = (frame["age"] > 40).astype(int)
    frame["member"] = frame["member"].astype(int)
    how = {"label": label, "kind": kind, "drop": ["kind"] if kind != "classification" else []}
    whole = tables(tmp_path, frame.iloc[20:], **how)
    frame[label] = frame[label].astype(object)
    frame.loc[:19, label] = None
    with pytest.raises(ValueError, match=r"is missing in rows .*, or leave them to the teacher, unlabelled=True"):
        tables(tmp_path, frame, **how)
    data = tables(tmp_path, frame, unlabelled=True, standardize_label=kind == "regression", **how)
    for name in SPLITS:
        own = [one for one in data.splits[name].ids or () if int(str(one)[1:]) >= 20]
        assert own == list(whole.splits[name].ids or ())
    output = {"classification": Classification(), "regression": Regression(), "multilabel": MultiLabel()}[kind]
    train = data.splits["train"]
    known = output.is_labelled(train.labels)
    assert [one for one, told in zip(train.ids or (), known.tolist(), strict=True) if not told] == [
        f"r{place}" for place in range(20)
    ]
    assert output.is_labelled(data.splits["val"].labels).all()
    if kind == "regression":  # by the labelled training rows alone
        assert train.labels[known].mean() == pytest.approx(0, abs=1e-6)
        assert train.labels[known].std(correction=0) == pytest.approx(1, abs=1e-6)


def test_rows_without_a_label_are_left_out_where_others_like_them_are_scored(tmp_path: Path) -> None:
    frame = table().drop(columns="name")
    whole = tables(tmp_path, frame, id=None)
    counts = {name: len(whole.splits[name]) for name in SPLITS}
    copies = frame.copy()
    copies["kind"] = None
    data = tables(tmp_path, pd.concat([frame, copies]), id=None, unlabelled=True)
    assert {name: len(data.splits[name]) for name in SPLITS} == {**counts, "train": 2 * counts["train"]}
    left_out = counts["val"] + counts["test"]
    assert f"{left_out} rows without a label are left out: their inputs are in val or test" in data.notes


def test_rows_without_a_label_are_in_no_folds(tmp_path: Path) -> None:
    frame = table()
    frame.loc[4, "kind"] = None
    with pytest.raises(ValueError, match=r"unlabelled=True and folds= can't go together"):
        tables(tmp_path, frame, unlabelled=True, folds=3)


def test_rows_that_a_column_puts_into_val_must_have_a_label(tmp_path: Path) -> None:
    frame = table()
    frame["part"] = ["train", "val", "test"] * (ROWS // 3)
    frame.loc[4, "kind"] = None
    with pytest.raises(ValueError, match="must be known in each row of val and test, but is missing in row"):
        tables(tmp_path, frame, split="part", unlabelled=True)
    frame["kind"] = None
    with pytest.raises(ValueError, match="must be known in some rows, but is missing in all"):
        tables(tmp_path, frame, split="part", unlabelled=True)
