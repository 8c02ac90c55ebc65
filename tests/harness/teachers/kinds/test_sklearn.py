"""Estimators of scikit-learn teach: fitted once, out of fold on what they are fitted on, kept, and told from others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from grounds import NAMES, clusters, ground, outputs, prepared_in
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from skops.io import dump

from harness.core.content import derived_seed
from harness.core.errors import HarnessError
from harness.teachers import SklearnTeacher
from harness.teachers.answers import FLOOR
from harness.teachers.black_box import teacher_in
from lightning_modules.batch import Inputs
from lightning_modules.data.tensors import Split
from lightning_modules.data.views import Views
from lightning_modules.outputs import Classification

DATA = clusters()


def arrays(split: str) -> tuple[NDArray[Any], NDArray[Any]]:
    part = DATA.splits[split]
    assert isinstance(part.inputs, torch.Tensor)
    return part.inputs.numpy(), part.labels.numpy()


def log(shares: NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(np.log(np.maximum(shares, FLOOR))).float()


def trees() -> HistGradientBoostingClassifier:
    return HistGradientBoostingClassifier(max_iter=3, min_samples_leaf=3)


def test_training_rows_are_answered_out_of_fold_and_others_by_all_rows() -> None:
    found = outputs(SklearnTeacher(GaussianNB()), ground(DATA, seed=5), "train", "val", "test")
    inputs, labels = arrays("train")
    # scikit-learn's own cross-fitting over the same folds is the oracle.
    folds = StratifiedKFold(5, shuffle=True, random_state=derived_seed(5, "teacher", "folds"))
    held_out = cross_val_predict(GaussianNB(), inputs, labels, cv=folds, method="predict_proba")
    torch.testing.assert_close(found["train"], log(held_out))
    whole = GaussianNB().fit(inputs, labels)
    for split in ("val", "test"):
        torch.testing.assert_close(found[split], log(whole.predict_proba(arrays(split)[0])))
    assert not torch.allclose(found["train"], log(whole.predict_proba(inputs)), atol=1e-3)


@dataclass(frozen=True)
class Doubled(Views):
    """The second view of a sample has all numbers doubled."""

    def of(self, inputs: Inputs, ids: torch.Tensor, view: int) -> Inputs:
        assert isinstance(inputs, torch.Tensor)
        return inputs * (1 + view)


def test_views_of_training_rows_are_answered_out_of_fold_too() -> None:
    found = outputs(SklearnTeacher(GaussianNB()), ground(clusters(views=Doubled(2)), seed=5))["train"]
    assert found.shape == (45, 2, 3)
    inputs, labels = arrays("train")
    folds = StratifiedKFold(5, shuffle=True, random_state=derived_seed(5, "teacher", "folds"))
    for seen, held_out in folds.split(inputs, labels):
        fitted = GaussianNB().fit(inputs[seen], labels[seen])
        for view in range(2):
            shares = fitted.predict_proba(inputs[held_out] * (1 + view))
            torch.testing.assert_close(found[held_out, view], log(shares))


def test_a_memorising_estimator_does_not_teach_the_labels_that_it_has_seen() -> None:
    rng = np.random.default_rng(0)
    data = clusters()
    part = data.splits["train"]
    data.splits["train"] = Split(part.inputs, torch.from_numpy(rng.integers(0, 3, len(part))))  # labels mean nothing
    found = outputs(SklearnTeacher(RandomForestClassifier(20)), ground(data))["train"]
    right = float((found.argmax(1) == data.splits["train"].labels).float().mean())
    assert right < 0.6  # in sample, it is right on nearly all of them


def test_draws_come_from_the_seed_and_that_is_said() -> None:
    notes: list[str] = []
    first = outputs(SklearnTeacher(RandomForestClassifier(5)), ground(DATA, note=notes.append))
    again = outputs(SklearnTeacher(RandomForestClassifier(5)), ground(DATA))
    other = outputs(SklearnTeacher(RandomForestClassifier(5)), ground(DATA, seed=1))
    assert notes == [
        "RandomForestClassifier is fitted on 45 training rows; what it says of these is out of fold, 5 folds by class; "
        "random_state set from the seed"
    ]
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert not torch.equal(first["val"], other["val"])


def test_a_pipeline_is_seeded_within() -> None:
    notes: list[str] = []
    pipeline = make_pipeline(StandardScaler(), RandomForestClassifier(3))
    outputs(SklearnTeacher(pipeline), ground(DATA, note=notes.append))
    assert "randomforestclassifier__random_state set from the seed" in notes[0]
    assert pipeline.get_params()["randomforestclassifier__random_state"] is None  # the user's own is not changed


def test_what_is_fitted_is_kept_and_not_fitted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    first = SklearnTeacher(trees())
    digest = prepared_in(tmp_path, first, ground(DATA), said)
    expected = outputs(SklearnTeacher(trees()), ground(DATA))
    (kept,) = tmp_path.glob("*/teacher.skops")
    monkeypatch.setattr(HistGradientBoostingClassifier, "fit", None)
    again = SklearnTeacher(trees())
    assert prepared_in(tmp_path, again, ground(DATA), said) == digest
    assert sum("is fitted on" in line for line in said) == 1
    from harness.teachers.outputs import run_teacher

    found = run_teacher(again, DATA)
    torch.testing.assert_close({split: one["logits"] for split, one in found.items()}, expected, rtol=0, atol=0)
    kept.write_bytes(kept.read_bytes()[:-100])
    monkeypatch.undo()
    assert prepared_in(tmp_path, SklearnTeacher(trees()), ground(DATA), said) == digest
    assert any("can't be used: damaged" in line for line in said)


@pytest.mark.parametrize(
    "other",
    [
        lambda: (SklearnTeacher(HistGradientBoostingClassifier(max_iter=4, min_samples_leaf=3)), {}),
        lambda: (SklearnTeacher(trees()), {"seed": 1}),
        lambda: (SklearnTeacher(trees()), {"dataset": "other data"}),
        lambda: (SklearnTeacher(trees(), folds=3), {}),
    ],
)
def test_another_estimator_seed_dataset_or_number_of_folds_is_another_teacher(tmp_path: Path, other: Any) -> None:
    said: list[str] = []
    digest = prepared_in(tmp_path, SklearnTeacher(trees()), ground(DATA), said)
    teacher, changes = other()
    assert prepared_in(tmp_path, teacher, ground(DATA, **changes), said) != digest


class OwnEstimator(GaussianNB):  # type: ignore[misc]
    """A type that is no part of scikit-learn."""


def test_an_estimator_of_other_types_is_not_kept_but_fitted_again(tmp_path: Path) -> None:
    said: list[str] = []
    one = prepared_in(tmp_path, SklearnTeacher(OwnEstimator()), ground(DATA), said)
    assert prepared_in(tmp_path, SklearnTeacher(OwnEstimator()), ground(DATA), said) == one
    assert not list(tmp_path.glob("*/*.skops"))
    assert sum("fitted again at each start, and not kept: it has parts of" in line for line in said) == 2


def test_an_estimator_that_came_fitted_is_asked_as_it_is_with_a_warning() -> None:
    fitted = GaussianNB().fit(*arrays("train"))
    teacher = SklearnTeacher(fitted)
    found = outputs(teacher, ground(DATA))
    torch.testing.assert_close(found["train"], log(fitted.predict_proba(arrays("train")[0])))
    (warning,) = teacher.warnings
    right = fitted.score(*arrays("train"))
    assert f"is right on {right:.1%} of the training rows" in warning and "is their labels" in warning
    other = SklearnTeacher(GaussianNB().fit(*arrays("val")))
    other.prepare(ground(DATA))
    assert teacher.start(DATA).digest != other.start(DATA).digest


def test_classes_are_found_by_name_and_missing_ones_are_named() -> None:
    inputs, labels = arrays("train")
    some = labels > 0
    teacher = SklearnTeacher(GaussianNB().fit(inputs[some], np.array(NAMES)[labels[some]]))
    found = outputs(teacher, ground(DATA))["val"].exp()
    assert found[:, 0].max() == pytest.approx(FLOOR) and bool((found[:, 1:].sum(1) > 0.99).all())
    assert "has never seen 1 of the task's classes ('ant')" in teacher.warnings[1]
    unknown = SklearnTeacher(GaussianNB().fit(inputs, np.array(["ant", "bee", "dog"])[labels]))
    with pytest.raises(HarnessError, match=r"has a class 'dog', which is none of the 3 classes of the task \(ant"):
        unknown.prepare(ground(DATA))


def test_a_class_with_fewer_rows_than_folds_is_named() -> None:
    data, notes = clusters(), list[str]()
    part = data.splits["train"]
    kept = torch.cat([(part.labels != 2).nonzero().flatten(), (part.labels == 2).nonzero().flatten()[:2]])
    assert isinstance(part.inputs, torch.Tensor)
    data.splits["train"] = Split(part.inputs[kept], part.labels[kept])
    found = outputs(SklearnTeacher(GaussianNB()), ground(data, note=notes.append))
    assert found["train"].isfinite().all() and "1 of the classes ('cat') have fewer training rows" in notes[0]


@pytest.mark.parametrize(
    ("estimator", "told"),
    [
        (RidgeClassifier(), "has no predict_proba, and its decision_function has a scale of its own"),
        (Ridge(), "must be a classifier with predict_proba"),
    ],
)
def test_estimators_without_probabilities_are_refused(estimator: Any, told: str) -> None:
    with pytest.raises(HarnessError, match=told):
        SklearnTeacher(estimator).prepare(ground(DATA))


def test_a_decision_function_is_taken_where_that_is_asked_for_and_it_has_a_value_for_each_class() -> None:
    scored = SklearnTeacher(LogisticRegression(), scores="decision_function")
    found = outputs(scored, ground(DATA))["val"]
    whole = LogisticRegression().fit(*arrays("train"))
    torch.testing.assert_close(found, torch.from_numpy(whole.decision_function(arrays("val")[0])).float())
    two = clusters(classes=2)
    binary = outputs(SklearnTeacher(LogisticRegression(), scores="decision_function"), ground(two, classes=2))["val"]
    assert bool((binary[:, 0] == 0).all()) and binary.shape == (15, 2)
    four = clusters(classes=4)  # 6 pairs of 4 classes
    with pytest.raises(HarnessError, match="a value for each pair of classes is no logit"):
        outputs(
            SklearnTeacher(SVC(decision_function_shape="ovo"), scores="decision_function"),
            ground(four, classes=4, names=()),
        )


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: SklearnTeacher(GaussianNB), "must get an estimator of scikit-learn, but got a class"),
        (lambda: SklearnTeacher(3), "must get an estimator of scikit-learn, but got int"),
        (lambda: SklearnTeacher(GaussianNB(), folds=1), "folds must be a whole number of at least 2, but got 1"),
        (lambda: SklearnTeacher(GaussianNB(), scores="predict"), "scores must be one of"),
    ],
)
def test_wrong_arguments_are_refused(make: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        make()


def test_inputs_are_mapped_to_what_the_estimator_takes() -> None:
    seen: list[tuple[int, ...]] = []

    def two_columns(inputs: torch.Tensor) -> NDArray[Any]:
        seen.append(tuple(inputs.shape))
        return inputs[:, :2].numpy()

    found = outputs(SklearnTeacher(GaussianNB(), inputs=two_columns), ground(DATA))["val"]
    whole = GaussianNB().fit(arrays("train")[0][:, :2], arrays("train")[1])
    torch.testing.assert_close(found, log(whole.predict_proba(arrays("val")[0][:, :2])))
    assert seen[0] == (45, 4)


def test_a_file_of_skops_teaches_if_its_types_are_trusted(tmp_path: Path) -> None:
    fitted = trees().fit(*arrays("train"))
    dump(fitted, tmp_path / "trees.skops")
    given = teacher_in(tmp_path / "trees.skops", NAMES)
    assert given is not None
    torch.testing.assert_close(outputs(given, ground(DATA))["val"], log(fitted.predict_proba(arrays("val")[0])))
    dump(OwnEstimator().fit(*arrays("train")), tmp_path / "own.skops")
    with pytest.raises(HarnessError, match=r"of trusted types alone, but holds .*OwnEstimator"):
        teacher_in(tmp_path / "own.skops", NAMES)
    dump(trees(), tmp_path / "unfitted.skops")
    with pytest.raises(HarnessError, match="must be a fitted estimator"):
        teacher_in(tmp_path / "unfitted.skops", NAMES)
    (tmp_path / "no.skops").write_text("nothing")
    with pytest.raises(HarnessError, match="is no such file, or damaged"):
        teacher_in(tmp_path / "no.skops", NAMES)


def test_a_tree_that_points_outside_of_itself_is_refused(tmp_path: Path) -> None:
    fitted = trees().fit(*arrays("train"))
    predictor = fitted._predictors[0][0]
    inner = np.flatnonzero(predictor.nodes["is_leaf"] == 0)
    predictor.nodes["left"][inner[0]] = 10_000
    dump(fitted, tmp_path / "trees.skops")
    with pytest.raises(HarnessError, match="a tree points outside of itself"):
        teacher_in(tmp_path / "trees.skops", NAMES)


def test_rows_without_a_label_are_fitted_on_by_none_and_asked_of_all_others() -> None:
    data, notes = clusters(), list[str]()
    inputs, labels = arrays("train")
    known = (np.arange(45) // 3) % 3 < 2  # two in three of each class
    given = torch.from_numpy(np.where(known, labels, -100))
    data.splits["train"] = Split(torch.from_numpy(inputs), given)
    data.is_labelled = Classification().is_labelled
    found = outputs(SklearnTeacher(GaussianNB()), ground(data, seed=5, note=notes.append))
    folds = StratifiedKFold(5, shuffle=True, random_state=derived_seed(5, "teacher", "folds"))
    few, theirs = inputs[known], labels[known]
    held_out = cross_val_predict(GaussianNB(), few, theirs, cv=folds, method="predict_proba")
    torch.testing.assert_close(found["train"][torch.from_numpy(known)], log(held_out))
    whole = GaussianNB().fit(few, theirs)
    torch.testing.assert_close(found["train"][torch.from_numpy(~known)], log(whole.predict_proba(inputs[~known])))
    torch.testing.assert_close(found["val"], log(whole.predict_proba(arrays("val")[0])))
    assert notes == [
        f"GaussianNB is fitted on {known.sum()} training rows; what it says of these is out of fold, 5 folds by class; "
        f"the {(~known).sum()} without a label are asked of what is fitted on all of these"
    ]


def test_how_right_a_fitted_estimator_is_counts_labelled_rows_alone() -> None:
    data = clusters()
    inputs, labels = arrays("train")
    fitted = GaussianNB().fit(inputs, labels)
    known = fitted.predict(inputs) == labels
    data.splits["train"] = Split(torch.from_numpy(inputs), torch.from_numpy(np.where(known, labels, -100)))
    data.is_labelled = Classification().is_labelled
    teacher = SklearnTeacher(fitted)
    teacher.prepare(ground(data))
    assert not known.all() and "is right on 100.0% of the training rows" in teacher.warnings[0]
