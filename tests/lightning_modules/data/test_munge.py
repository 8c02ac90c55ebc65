"""Munged rows: between a row and its nearest neighbour, by hand and beside scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from grounds import clusters, ground, outputs
from sklearn.model_selection import StratifiedKFold
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import NearestNeighbors

from harness.core.content import derived_seed
from harness.preparation.mixing import no_control_reason
from harness.teachers import SklearnTeacher
from harness.teachers.answers import FLOOR
from lightning_modules.data.munge import MungedViews
from lightning_modules.data.tensors import Split, TensorDataModule
from lightning_modules.outputs import Classification

ROWS = torch.tensor([[0.0, 0.0], [1.0, 4.0], [10.0, 0.0], [10.0, 3.0]])
"""The nearest rows, by squared distance: 0 and 1 are 17 apart, 2 and 3 are 9, all others 81 or more."""

IDS = torch.arange(4)


def drawn(views: MungedViews, *, times: int = 2000) -> torch.Tensor:
    """Many views of the second row, shape (times, 2)."""
    shown = [views.of(ROWS[1:2], IDS[1:2], view) for view in range(times)]
    return torch.cat([one for one in shown if isinstance(one, torch.Tensor)])


def test_each_row_has_its_nearest_other_row_as_neighbour() -> None:
    assert MungedViews(samples=ROWS).neighbours.tolist() == [1, 0, 3, 2]
    rows = torch.randn(300, 5, generator=torch.Generator().manual_seed(0))
    expected = NearestNeighbors(n_neighbors=2).fit(rows.numpy()).kneighbors(return_distance=True)[1]
    assert MungedViews(samples=rows).neighbours.tolist() == expected[:, 0].tolist()


def test_many_rows_are_compared_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_modules.data.munge._CHUNK", 5)
    assert MungedViews(samples=ROWS).neighbours.tolist() == [1, 0, 3, 2]


def test_with_labels_the_neighbour_has_the_same_one_and_a_row_without_another_stays_itself() -> None:
    views = MungedViews(samples=ROWS, labels=torch.tensor([0, 1, 0, 2]), swap=1.0)
    assert views.neighbours.tolist() == [2, 1, 0, 3]
    assert torch.equal(views.of(ROWS[[1, 3]], IDS[[1, 3]], 0), ROWS[[1, 3]])  # type: ignore[arg-type]


def test_a_nominal_attribute_that_differs_counts_as_one() -> None:
    rows = torch.tensor([[0.0, 7.0], [1.5, 7.0], [0.5, 9.0]])  # squared: 2.25, 0.25 + 1; of the last two 1 + 1
    assert MungedViews(samples=rows, nominal=(1,)).neighbours.tolist() == [2, 2, 0]
    assert MungedViews(samples=rows).neighbours.tolist() == [1, 0, 0]


def test_attributes_are_drawn_around_the_neighbours_with_their_distance_as_spread() -> None:
    found = drawn(MungedViews(samples=ROWS, swap=1.0, sharpness=2.0)).numpy()
    # The neighbour of (1, 4) is (0, 0): means 0 and 0, standard deviations 1 / 2 and 4 / 2.
    assert found.mean(0) == pytest.approx([0, 0], abs=4 * np.array([0.5, 2]).max() / 2000**0.5)
    assert found.std(0) == pytest.approx([0.5, 2.0], rel=0.06)
    assert abs(np.corrcoef(found.T)[0, 1]) < 0.08


def test_an_attribute_is_drawn_with_the_probability_of_swap() -> None:
    kept = (drawn(MungedViews(samples=ROWS, swap=0.25)) == ROWS[1]).float()
    assert kept.mean(0).tolist() == pytest.approx([0.75, 0.75], abs=0.04)
    assert float(kept.prod(1).mean()) == pytest.approx(0.75**2, abs=0.05)  # attributes are drawn apart


def test_nominal_attributes_are_the_rows_own_or_the_neighbours() -> None:
    found = drawn(MungedViews(samples=ROWS, swap=0.5, nominal=(1,)), times=200)
    assert sorted(set(found[:, 1].tolist())) == [0.0, 4.0] and len(set(found[:, 0].tolist())) > 50


def test_views_depend_on_seed_row_and_view_alone() -> None:
    views = MungedViews(samples=ROWS)
    whole = views.of(ROWS, IDS, 1)
    assert isinstance(whole, torch.Tensor)
    backwards = views.of(ROWS.flip(0), IDS.flip(0), 1)
    assert torch.equal(whole.flip(0), backwards)  # type: ignore[arg-type]
    assert not torch.equal(whole, views.of(ROWS, IDS, 2))  # type: ignore[arg-type]
    assert not torch.equal(whole, MungedViews(samples=ROWS, seed=1).of(ROWS, IDS, 1))  # type: ignore[arg-type]


@pytest.mark.parametrize("labelled", [True, False])
def test_a_control_is_fair_where_neighbours_have_the_same_label(labelled: bool) -> None:
    rows = torch.randn(40, 20, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(40) % 2
    part = Split(rows, labels)
    views = MungedViews(samples=rows, labels=labels if labelled else None, count=2)
    data = TensorDataModule(train=part, val=part, test=part, views=views)
    why = no_control_reason(data, 2, Classification())
    assert (why == "") == labelled and ("the views mix samples" in why) != labelled


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"swap": 0.0}, r"swap must lie in \(0, 1\]"),
        ({"sharpness": 0.0}, "sharpness must be positive"),
        ({"nominal": (2,)}, "nominal must name columns from 0 to 1, but got 2"),
        ({"samples": ROWS[0]}, r"samples must be rows of shape \(N, D\)"),
        ({"labels": IDS[:3]}, r"labels must be of shape \(4,\)"),
        ({"count": 0}, "at least 1 view"),
    ],
)
def test_arguments_out_of_their_range_are_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        MungedViews(**{"samples": ROWS, **changes})


def test_inputs_that_are_no_such_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="inputs must be rows of 2 attributes"):
        MungedViews(samples=ROWS).of(torch.zeros(4, 3), IDS, 0)


def test_a_fold_that_did_not_see_a_row_answers_for_its_munged_views() -> None:
    whole = clusters()
    train = whole.splits["train"]
    assert isinstance(train.inputs, torch.Tensor)
    views = MungedViews(samples=train.inputs, labels=train.labels, count=2)
    found = outputs(SklearnTeacher(GaussianNB()), ground(clusters(views=views), seed=5))["train"]
    inputs, labels = train.inputs.numpy(), train.labels.numpy()
    folds = StratifiedKFold(5, shuffle=True, random_state=derived_seed(5, "teacher", "folds"))
    for seen, held_out in folds.split(inputs, labels):
        fitted = GaussianNB().fit(inputs[seen], labels[seen])  # on the rows themselves
        ids = torch.from_numpy(held_out)
        for view in range(2):
            shown = views.of(train.inputs[ids], ids, view)
            assert isinstance(shown, torch.Tensor) and not torch.equal(shown, train.inputs[ids])
            shares = np.maximum(fitted.predict_proba(shown.numpy()), FLOOR)
            torch.testing.assert_close(found[ids, view], torch.from_numpy(np.log(shares)).float())
