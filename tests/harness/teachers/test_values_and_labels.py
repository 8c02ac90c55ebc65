"""Teachers that are no network teach numbers and several labels too: the real libraries, beside their own answers."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from grounds import ground, outputs
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor, RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.multioutput import MultiOutputClassifier
from sklearn.neural_network import MLPClassifier
from torch import Tensor

from harness.core.content import derived_seed
from harness.core.errors import HarnessError, Unfit
from harness.teachers import FunctionTeacher, KerasTeacher, OnnxTeacher, SklearnTeacher, StoredOutputs
from harness.teachers.answers import FLOOR
from harness.teachers.black_box import BlackBoxTeacher, Ground, teacher_in
from lightning_modules.data.tensors import Split, TensorDataModule

Array = NDArray[np.float64]
SIZES = {"train": 40, "val": 12, "test": 12}
INPUTS = {
    name: torch.randn(size, 4, generator=torch.Generator().manual_seed(seed))
    for seed, (name, size) in enumerate(SIZES.items())
}
IDS = {name: [f"{name}-{row}" for row in range(size)] for name, size in SIZES.items()}


def with_labels(labels: dict[str, Tensor]) -> TensorDataModule:
    return TensorDataModule(
        **{name: Split(INPUTS[name], labels[name], IDS[name]) for name in SIZES}, batch_size=8, eval_batch_size=10
    )


def numbers(values: int = 1, **changes: Any) -> Ground:
    """Sums of the inputs, and further sums of them."""
    targets = {name: torch.stack([x.sum(1) + v * x[:, 0] for v in range(values)], 1) for name, x in INPUTS.items()}
    return ground(with_labels(targets), classes=values, names=(), numbers_of="values", **changes)


def marks(labels: int = 2, **changes: Any) -> Ground:
    """Whether each of the first inputs is positive."""
    targets = {name: (x[:, :labels] > 0).float() for name, x in INPUTS.items()}
    given = {"names": ("big", "red")[:labels], **changes}
    return ground(with_labels(targets), classes=labels, numbers_of="labels", **given)


def of(on: Ground, split: str = "train") -> tuple[Array, Array]:
    """The inputs and labels of a split, as scikit-learn takes them."""
    labels = on.data.splits[split].labels.numpy()
    return INPUTS[split].numpy(), labels[:, 0] if labels.shape[1] == 1 else labels


def folds(seed: int = 5) -> KFold:
    return KFold(5, shuffle=True, random_state=derived_seed(seed, "teacher", "folds"))


def log_odds(shares: Any) -> Tensor:
    clipped = np.clip(np.asarray(shares, dtype=float), FLOOR, 1 - FLOOR)
    return torch.from_numpy(np.log(clipped / (1 - clipped))).float()


# Estimators of scikit-learn


@pytest.mark.parametrize("values", [1, 2])
def test_a_regressor_predicts_training_rows_out_of_fold_and_others_by_all_rows(values: int) -> None:
    on = numbers(values, seed=5)
    found = outputs(SklearnTeacher(Ridge(10.0)), on, "train", "val", "test")
    inputs, targets = of(on)
    held_out = cross_val_predict(Ridge(10.0), inputs, targets, cv=folds())
    torch.testing.assert_close(found["train"], torch.from_numpy(held_out.reshape(40, values)).float())
    whole = Ridge(10.0).fit(inputs, targets)
    for split in ("val", "test"):
        expected = whole.predict(INPUTS[split].numpy()).reshape(12, values)
        torch.testing.assert_close(found[split], torch.from_numpy(expected).float())


def test_boosted_trees_teach_numbers_and_what_they_are_fitted_on_is_said() -> None:
    notes: list[str] = []
    found = outputs(SklearnTeacher(HistGradientBoostingRegressor(max_iter=3)), numbers(note=notes.append))
    assert found["train"].shape == (40, 1)
    assert notes == [
        "HistGradientBoostingRegressor is fitted on 40 training rows; what it says of these is out of fold, 5 folds; "
        "random_state set from the seed"
    ]


def test_a_fitted_regressor_is_asked_as_it_is_and_its_errors_are_said() -> None:
    on = numbers()
    fitted = LinearRegression().fit(*of(on))
    given = SklearnTeacher(fitted)
    found = outputs(given, on)["val"]
    torch.testing.assert_close(found, torch.from_numpy(fitted.predict(INPUTS["val"].numpy())[:, None]).float())
    assert "came fitted, and errs by " in given.warnings[0] and " on average on the training rows" in given.warnings[0]


def test_a_regressor_of_another_number_of_values_is_refused() -> None:
    inputs, targets = of(numbers(2))
    with pytest.raises(Unfit, match=r"40 samples one row of 1 numbers each, as the students have values"):
        outputs(SklearnTeacher(Ridge().fit(inputs, targets)), numbers(), "val")


@pytest.mark.parametrize(
    ("estimator", "told"),
    [(LogisticRegression(), "must be a regressor"), (HistGradientBoostingClassifier(), "must be a regressor")],
)
def test_a_classifier_teaches_no_numbers(estimator: Any, told: str) -> None:
    with pytest.raises(Unfit, match=told):
        SklearnTeacher(estimator).prepare(numbers())


def test_scores_that_a_regressor_is_not_asked_for_are_refused() -> None:
    with pytest.raises(Unfit, match="scores='decision_function' was given"):
        SklearnTeacher(Ridge(), scores="decision_function").prepare(numbers())


def test_a_forest_of_several_labels_gives_the_log_odds_of_each_out_of_fold() -> None:
    on = marks(seed=5)
    forest = RandomForestClassifier(20, random_state=0)
    found = outputs(SklearnTeacher(forest), on)
    inputs, labels = of(on)
    expected = np.zeros((40, 2))
    for seen, held_out in folds().split(inputs):
        fitted = RandomForestClassifier(20, random_state=0).fit(inputs[seen], labels[seen].astype(int))
        expected[held_out] = np.stack([one[:, 1] for one in fitted.predict_proba(inputs[held_out])], 1)
    torch.testing.assert_close(found["train"], log_odds(expected))


@pytest.mark.parametrize(
    "estimator",
    [
        MultiOutputClassifier(HistGradientBoostingClassifier(max_iter=3, min_samples_leaf=3, random_state=0)),
        MLPClassifier((4,), max_iter=20, random_state=0),
    ],
)
@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_estimators_of_several_labels_are_read_in_either_form_of_their_answers(estimator: Any) -> None:
    on = marks()
    inputs, labels = of(on)
    found = outputs(SklearnTeacher(estimator), on)["val"]
    shares = estimator.fit(inputs, labels.astype(int)).predict_proba(INPUTS["val"].numpy())
    expected = np.stack([one[:, 1] for one in shares], 1) if isinstance(shares, list) else shares
    torch.testing.assert_close(found, log_odds(expected))


def test_one_label_is_read_as_of_two_classes() -> None:
    on = marks(1)
    found = outputs(SklearnTeacher(LogisticRegression()), on)["val"]
    inputs, labels = of(on)
    expected = LogisticRegression().fit(inputs, labels).predict_proba(INPUTS["val"].numpy())[:, 1:]
    torch.testing.assert_close(found, log_odds(expected))


def test_a_label_that_a_fold_has_never_seen_gets_the_least_probability() -> None:
    targets = {name: torch.stack([(x[:, 0] > 0).float(), torch.zeros(len(x))], 1) for name, x in INPUTS.items()}
    on = ground(with_labels(targets), classes=2, names=(), numbers_of="labels")
    found = outputs(SklearnTeacher(RandomForestClassifier(3)), on)["val"]
    assert found[:, 1].tolist() == pytest.approx([math.log(FLOOR / (1 - FLOOR))] * 12)


def test_an_estimator_of_one_label_a_sample_is_refused_where_there_are_several() -> None:
    inputs, labels = of(marks())
    with pytest.raises(Unfit, match=r"must give a value for each of the 2 labels, but gives shape \(\d+, 4\)"):
        outputs(SklearnTeacher(LogisticRegression().fit(inputs, labels @ [1, 2])), marks())


# Functions


def test_a_function_gives_values_without_saying_so_and_one_number_a_sample_is_a_column() -> None:
    found = outputs(FunctionTeacher(lambda x: x.sum(1), digest="sums"), numbers())["val"]
    torch.testing.assert_close(found, INPUTS["val"].sum(1, keepdim=True))


@pytest.mark.parametrize(
    ("kind", "answers", "logit"),
    [
        (None, lambda x: x[:, :2], 0.3),
        ("logits", lambda x: x[:, :2], 0.3),
        ("probabilities", lambda x: x[:, :2].sigmoid(), 0.3),
        ("log_probabilities", lambda x: torch.nn.functional.logsigmoid(x[:, :2]), 0.3),
    ],
)
def test_a_function_gives_the_log_odds_of_labels_in_any_form(kind: str | None, answers: Any, logit: float) -> None:
    found = outputs(FunctionTeacher(answers, digest="x", kind=kind), marks())["val"]
    torch.testing.assert_close(found, INPUTS["val"][:, :2], atol=1e-4, rtol=1e-4)


def test_labels_of_a_function_are_near_certain() -> None:
    given = FunctionTeacher(lambda x: (x[:, :2] > 0).long(), digest="x", kind="labels")
    found = outputs(given, marks())["val"]
    certain = math.log((1 - FLOOR) / FLOOR)
    torch.testing.assert_close(found, torch.where(INPUTS["val"][:, :2] > 0, certain, -certain))
    assert given.floored == (40 + 12) * 2


@pytest.mark.parametrize(
    ("on", "kind", "answers", "told"),
    [
        (numbers, "probabilities", lambda x: x[:, :1], "gives probabilities, but the task's output has values"),
        (marks, "values", lambda x: x[:, :2], "gives values, but the task's output has labels"),
        (marks, "probabilities", lambda x: x[:, :2], "numbers that are none from 0 to 1"),
        (marks, "labels", lambda x: x[:, :2].sigmoid(), "numbers between 0 and 1 among the labels"),
        (numbers, None, lambda x: x[:, :1] / 0, "infinity among the values|NaN among the values"),
        (numbers, None, lambda x: x[:, :2], "one row of 1 numbers each"),
    ],
)
def test_answers_of_another_kind_are_refused(on: Any, kind: str | None, answers: Any, told: str) -> None:
    with pytest.raises(HarnessError, match=told):
        outputs(FunctionTeacher(answers, digest="x", kind=kind), on())


# Outputs in memory and in files


def rows() -> tuple[list[str], Tensor]:
    """The ids of all samples, and their inputs."""
    return [one for name in SIZES for one in IDS[name]], torch.cat([INPUTS[name] for name in SIZES])


def told(given: BlackBoxTeacher | None, on: Ground) -> Tensor:
    assert isinstance(given, StoredOutputs)
    return outputs(given, on)["val"]


def test_stored_values_and_labels_are_joined_to_samples() -> None:
    ids, inputs = rows()
    given = StoredOutputs(ids[::-1], inputs.sum(1).flip(0).numpy(), kind="values")
    torch.testing.assert_close(told(given, numbers()), INPUTS["val"].sum(1, keepdim=True))
    table = pd.DataFrame({"red": inputs[:, 1].sigmoid(), "big": inputs[:, 0].sigmoid()})
    found = told(StoredOutputs(ids, table, kind="probabilities"), marks())
    torch.testing.assert_close(found, INPUTS["val"][:, :2], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl", "npz"])
def test_files_hold_one_number_a_sample(tmp_path: Path, suffix: str) -> None:
    ids, inputs = rows()
    file, sums = tmp_path / f"answers.{suffix}", inputs.sum(1).numpy()
    table = pd.DataFrame({"id": ids, "value": sums})
    if suffix == "npz":
        np.savez(file, id=ids, values=sums)
    elif suffix == "jsonl":
        table.to_json(file, orient="records", lines=True, double_precision=15)
    else:
        table.to_csv(file, index=False) if suffix == "csv" else table.to_parquet(file)
    torch.testing.assert_close(told(teacher_in(file, ()), numbers()), INPUTS["val"].sum(1, keepdim=True))


def test_columns_of_a_table_are_values_in_their_order_and_that_is_said(tmp_path: Path) -> None:
    ids, inputs = rows()
    pd.DataFrame({"id": ids, "price": inputs.sum(1), "rent": inputs[:, 0]}).to_csv(tmp_path / "a.csv", index=False)
    notes: list[str] = []
    found = told(teacher_in(tmp_path / "a.csv", ()), numbers(2, note=notes.append))
    torch.testing.assert_close(found, torch.stack([INPUTS["val"].sum(1), INPUTS["val"][:, 0]], 1))
    assert notes == ["its columns price, rent are taken as the values in their order"]
    with pytest.raises(Unfit, match="have 2 columns, but the task has 3 values"):
        told(teacher_in(tmp_path / "a.csv", ()), numbers(3))


@pytest.mark.parametrize("form", ["probabilities", "logits"])
def test_columns_of_labels_are_probabilities_where_all_are_from_0_to_1(tmp_path: Path, form: str) -> None:
    ids, inputs = rows()
    shown = inputs.sigmoid() if form == "probabilities" else inputs
    pd.DataFrame({"id": ids, "red": shown[:, 1], "big": shown[:, 0]}).to_csv(tmp_path / "a.csv", index=False)
    found = told(teacher_in(tmp_path / "a.csv", ("big", "red")), marks())
    torch.testing.assert_close(found, INPUTS["val"][:, :2], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("on", [numbers, marks])
def test_class_names_in_a_file_teach_neither_numbers_nor_several_labels(tmp_path: Path, on: Any) -> None:
    ids, _ = rows()
    pd.DataFrame({"id": ids, "label": "big"}).to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(HarnessError, match=r"labels, but the task's output has values|must be numbers"):
        told(teacher_in(tmp_path / "a.csv", ("big", "red")), on())


# Models


def linear_onnx(file: Path, columns: int, *, sigmoid: bool = False) -> None:
    """Write a model that gives the first inputs, or their sigmoids."""
    onnx = pytest.importorskip("onnx", reason="pip install 'kd-harness[onnx]'")
    pytest.importorskip("onnxruntime", reason="pip install 'kd-harness[onnx]'")
    helper, floats = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [helper.make_node("MatMul", ["x", "chosen"], ["y" if not sigmoid else "z"])]
    if sigmoid:
        nodes.append(helper.make_node("Sigmoid", ["z"], ["y"]))
    graph = helper.make_graph(
        nodes,
        "first",
        [helper.make_tensor_value_info("x", floats, ["batch", 4])],
        [helper.make_tensor_value_info("y", floats, ["batch", columns])],
        [helper.make_tensor("chosen", floats, [4, columns], np.eye(4, columns).flatten().tolist())],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), file)


def test_an_onnx_model_teaches_numbers_whatever_they_look_like(tmp_path: Path) -> None:
    linear_onnx(tmp_path / "model.onnx", 2, sigmoid=True)  # from 0 to 1, and no probabilities
    notes: list[str] = []
    found = outputs(OnnxTeacher(tmp_path / "model.onnx"), numbers(2, note=notes.append))["val"]
    torch.testing.assert_close(found, INPUTS["val"][:, :2].sigmoid())
    assert not notes


@pytest.mark.parametrize("sigmoid", [False, True])
def test_an_onnx_model_teaches_several_labels_and_probabilities_are_seen(tmp_path: Path, sigmoid: bool) -> None:
    linear_onnx(tmp_path / "model.onnx", 2, sigmoid=sigmoid)
    notes: list[str] = []
    found = outputs(OnnxTeacher(tmp_path / "model.onnx"), marks(note=notes.append))["val"]
    torch.testing.assert_close(found, INPUTS["val"][:, :2], atol=1e-4, rtol=1e-4)
    told = ["model.onnx answers with probabilities: their log odds are stored as its logits"]
    assert notes == (told if sigmoid else [])


def test_a_model_that_is_said_to_give_probabilities_teaches_no_numbers(tmp_path: Path) -> None:
    linear_onnx(tmp_path / "model.onnx", 1)
    with pytest.raises(Unfit, match="gives probabilities, but the task's output has values"):
        OnnxTeacher(tmp_path / "model.onnx", kind="probabilities").prepare(numbers())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_keras_model_teaches_numbers_and_several_labels(tmp_path: Path) -> None:
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    pytest.importorskip("tensorflow", reason="pip install 'kd-harness[keras]'")
    import keras

    for columns, on, activation in ((1, numbers(), None), (2, marks(), "sigmoid")):
        made = keras.Sequential([keras.Input((4,)), keras.layers.Dense(columns, activation=activation)])
        made.layers[-1].set_weights([np.eye(4, columns, dtype="float32"), np.zeros(columns, "float32")])
        made.save(tmp_path / f"{columns}.keras")
        found = outputs(KerasTeacher(tmp_path / f"{columns}.keras"), on)["val"]
        torch.testing.assert_close(found, INPUTS["val"][:, :columns], atol=1e-4, rtol=1e-4)
