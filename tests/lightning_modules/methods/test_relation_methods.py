"""Relations within a batch, and negatives from other classes."""

from __future__ import annotations

import pytest
import torch
from test_every_method import PARAMETERS, a_student, batches, set_up, some_data
from torch import Tensor

from lightning_modules.data.tensors import TensorDataModule
from lightning_modules.data.views import ShiftedViews
from lightning_modules.features import capture_features
from lightning_modules.losses import (
    angle_relation_loss,
    contrastive_representation_loss,
    distance_relation_loss,
    probabilistic_transfer_loss,
    similarity_preserving_loss,
)
from lightning_modules.methods import ContrastiveCriterion, RelationCriterion
from lightning_modules.methods.contrastive import _OtherClasses


def test_each_relation_is_the_loss_of_its_paper() -> None:
    ours, theirs = torch.rand(6, 3, 4, 4), torch.rand(6, 5, 4, 4)
    rows = ours.mean(dim=(2, 3)), theirs.mean(dim=(2, 3))
    expected = {
        "relation": 25 * distance_relation_loss(*rows) + 50 * angle_relation_loss(*rows),
        "similarity_preserving": similarity_preserving_loss(ours.flatten(1), theirs.flatten(1)),
        "probabilistic_transfer": probabilistic_transfer_loss(*rows),
    }
    weights = {"relation": 1.0, "similarity_preserving": 500.0, "probabilistic_transfer": 3000.0}
    for method, value in expected.items():
        criterion = set_up(method, a_student(), some_data())
        torch.testing.assert_close(criterion.feature_loss(ours, theirs), value)
        assert criterion.soft_weight == weights[method]


def test_a_large_validation_batch_is_split_into_parts_of_a_training_batch() -> None:
    criterion = set_up("relation", a_student(), some_data())
    assert isinstance(criterion, RelationCriterion)
    ours, theirs = torch.rand(8, 3), torch.rand(8, 5)  # training batches are of 6
    first, last = criterion.geometry_loss(ours[:6], theirs[:6]), criterion.geometry_loss(ours[6:], theirs[6:])
    torch.testing.assert_close(criterion.feature_loss(ours, theirs), (6 * first + 2 * last) / 8)


def test_negatives_are_embedded_features_of_training_samples_of_other_classes() -> None:
    data = some_data()
    criterion = set_up("contrastive", a_student(), data)
    assert isinstance(criterion, ContrastiveCriterion)
    stored = data.teacher_outputs["train"]["block1"].mean(dim=(2, 3))
    known = criterion.teacher_embedding(stored).detach()
    labels = torch.tensor([0, 1, 2, 3, 0])
    negatives = criterion._negatives(labels).detach()
    assert negatives.shape == (5, 64, 64)
    distances = torch.cdist(negatives.flatten(0, 1), known, compute_mode="donot_use_mm_for_euclid_dist")
    nearest = distances.min(dim=1)
    assert float(nearest.values.max()) < 1e-4
    of = data.splits["train"].labels[nearest.indices].view(5, 64)
    assert (of != labels[:, None]).all() and all(len(row.unique()) == 3 for row in of)


def test_the_contrastive_loss_uses_the_embeddings_and_these_negatives() -> None:
    data, student = some_data(), a_student()
    criterion, batch = set_up("contrastive", student, data), next(batches(data))
    assert isinstance(criterion, ContrastiveCriterion)
    with capture_features(student, ["block1"]) as features:
        logits = student(batch.inputs)
    criterion.begin_epoch(5)
    found = criterion(logits, batch, features)["soft_loss"]
    criterion.begin_epoch(5)
    expected = contrastive_representation_loss(
        criterion.student_embedding(features["block1"].mean(dim=(2, 3))),
        criterion.teacher_embedding(batch.teacher["block1"].mean(dim=(2, 3))),
        criterion._negatives(batch.target),
        temperature=0.2,
        samples=12,
    )
    torch.testing.assert_close(found.value, expected)
    assert found.weight == 0.5


def test_the_negatives_depend_on_the_epochs_seed_alone() -> None:
    data, labels = some_data(), torch.tensor([0, 1, 2, 3])
    found = []
    for seed, drawn_before in ((7, 0), (7, 3), (8, 0)):
        criterion = set_up("contrastive", a_student(), data)
        assert isinstance(criterion, ContrastiveCriterion)
        for _ in range(drawn_before):
            criterion._negatives(labels)
        criterion.begin_epoch(seed)
        found.append(criterion._negatives(labels))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_rows_of_other_classes_are_sampled_uniformly() -> None:
    labels = torch.tensor([2, 0, 0, 1, 2, 0, 0])
    draws = torch.Generator().manual_seed(0)
    for label in range(3):
        drawn = _OtherClasses(labels).sample(torch.full((1000,), label), 6, draws).flatten().bincount(minlength=7)
        others = labels != label
        assert not drawn[~others].any()
        mean = 6000 / int(others.sum())
        assert (drawn[others] - mean).abs().max() < 4 * mean**0.5


def test_negatives_are_sampled_from_every_view() -> None:
    plain = some_data()
    views = TensorDataModule(**plain.splits, batch_size=6, views=ShiftedViews(count=2, most=1))
    outputs = plain.teacher_outputs
    stacked = {name: torch.stack([value, -value], dim=1) for name, value in outputs["train"].items()}
    views.attach({"train": stacked, "val": outputs["val"]})
    criterion = set_up("contrastive", a_student(), views)
    assert isinstance(criterion, ContrastiveCriterion)
    rows = outputs["train"]["block1"].mean(dim=(2, 3))
    torch.testing.assert_close(criterion.bank, torch.stack([rows, -rows], dim=1).flatten(0, 1))
    assert torch.equal(criterion.others.labels, plain.splits["train"].labels.repeat_interleave(2))


def test_a_single_class_has_no_negatives() -> None:
    data = some_data()
    labels = data.splits["train"].labels
    labels.fill_(3)
    with pytest.raises(ValueError, match="negatives of another class, but all training samples have one label"):
        set_up("contrastive", a_student(), data)


OF_MAPS = {"hint", "attention_transfer"}  # they compare maps place by place, so both sides must have some
OF_ANY_LAYERS = sorted({name for name, given in PARAMETERS.items() if "student_layer" in given} - OF_MAPS)


@pytest.mark.parametrize("method", OF_ANY_LAYERS)
def test_any_two_layers_can_be_compared(method: str) -> None:
    for ours in ("block1", "block2", "flatten"):
        for theirs in ("block1", "block2"):
            data, student = some_data(), a_student()
            layers = {"student_layer": ours, "teacher_layer": theirs}
            criterion, batch = set_up(method, student, data, **layers), next(batches(data))
            with capture_features(student, criterion.student_layers) as features:
                value = criterion(student(batch.inputs), batch, features)["soft_loss"].value
            assert isinstance(value, Tensor) and float(value.detach()) > 0 and PARAMETERS[method]
