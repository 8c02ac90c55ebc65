"""Hints and attention: what is learned between two layers, and how maps of two sizes meet."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from test_every_method import PARAMETERS, a_student, batches, set_up, some_data
from torch import Tensor, nn

from lightning_modules.data.tensors import Split, TensorDataModule
from lightning_modules.features import capture_features
from lightning_modules.losses import attention_transfer_loss
from lightning_modules.methods import Criterion, HintCriterion, make_criterion


def soft_loss(method: str, **changed: str) -> tuple[Criterion, Tensor, Tensor, Tensor]:
    """A criterion, both sides' features of a batch, and what it makes of them."""
    data, student = some_data(), a_student()
    criterion, batch = set_up(method, student, data, **changed), next(batches(data))
    with capture_features(student, criterion.student_layers) as features:
        logits = student(batch.inputs)
    (ours,), (theirs,) = features.values(), (batch.teacher[name] for name in criterion.teacher_layers)
    return criterion, ours, theirs, criterion(logits, batch, features)["soft_loss"].value


def of_features(student_size: tuple[int, ...], teacher_size: tuple[int, ...]) -> tuple[nn.Module, TensorDataModule]:
    """A student of one layer that gives features of a size, and data whose teacher gave features of another."""
    split = Split(torch.rand(6, *student_size), torch.arange(6) % 2)
    data = TensorDataModule(train=split, val=split, test=split)
    outputs = {"logits": torch.rand(6, 2), "out": torch.rand(6, *teacher_size)}
    data.attach({"train": outputs, "val": outputs})
    features = nn.Sequential(nn.Identity(), nn.Flatten(), nn.LazyLinear(2))
    features(split.inputs)
    return features, data


def between(method: str, student_size: tuple[int, ...], teacher_size: tuple[int, ...]) -> Criterion:
    student, data = of_features(student_size, teacher_size)
    criterion = make_criterion(method, **PARAMETERS[method] | {"student_layer": "0", "teacher_layer": "out"})
    criterion.setup(student, data, epochs=1)
    return criterion


def test_a_hint_is_compared_with_a_learned_1x1_convolution_of_the_student_s_maps() -> None:
    criterion, ours, theirs, loss = soft_loss("hint")
    assert isinstance(criterion, HintCriterion)
    weight, bias = criterion.regressor.weight, criterion.regressor.bias
    assert isinstance(weight, Tensor) and isinstance(bias, Tensor) and weight.shape == (5, 3, 1, 1)
    mapped = torch.einsum("bchw,dc->bdhw", ours, weight[:, :, 0, 0]) + bias[:, None, None]
    torch.testing.assert_close(loss, (mapped - theirs).square().mean())


@pytest.mark.parametrize(("student_layer", "teacher_layer"), [("block1", "block2"), ("block2", "block1")])
def test_the_larger_map_is_averaged_to_the_size_of_the_smaller(student_layer: str, teacher_layer: str) -> None:
    layers = {"student_layer": student_layer, "teacher_layer": teacher_layer}
    _, ours, theirs, attention = soft_loss("attention_transfer", **layers)
    sides = [F.avg_pool2d(side, 2) if side.shape[-1] == 4 else side for side in (ours, theirs)]
    torch.testing.assert_close(attention, attention_transfer_loss(*sides))
    criterion, ours, theirs, hint = soft_loss("hint", **layers)
    assert isinstance(criterion, HintCriterion)
    ours, theirs = (F.avg_pool2d(side, 2) if side.shape[-1] == 4 else side for side in (ours, theirs))
    torch.testing.assert_close(hint, (criterion.regressor(ours) - theirs).square().mean())


@pytest.mark.parametrize(
    ("student_size", "teacher_size", "kind"),
    [((4,), (7,), nn.Linear), ((5, 4), (5, 7), nn.Linear), ((3, 4, 4), (6, 2, 4), nn.Conv2d)],
)
def test_the_regressor_matches_the_kind_of_features(
    student_size: tuple[int, ...], teacher_size: tuple[int, ...], kind: type[nn.Module]
) -> None:
    criterion = between("hint", student_size, teacher_size)
    assert isinstance(criterion, HintCriterion) and type(criterion.regressor) is kind
    assert float(criterion.feature_loss(torch.rand(2, *student_size), torch.rand(2, *teacher_size)).detach()) > 0


@pytest.mark.parametrize(
    ("method", "student_size", "teacher_size", "needed"),
    [
        ("hint", (3, 4, 4), (7,), "both (B, C, H, W), or shapes that differ in their last dimension alone"),
        ("hint", (5, 4), (6, 4), "both (B, C, H, W), or shapes that differ in their last dimension alone"),
        ("attention_transfer", (4,), (3, 2, 2), "maps (B, C, H, W) of two positions or more"),
        ("attention_transfer", (3, 4, 4), (9,), "maps (B, C, H, W) of two positions or more"),
        ("attention_transfer", (3, 1, 4), (9, 4, 1), "maps (B, C, H, W) of two positions or more"),
    ],
)
def test_unsupported_layers_are_named_with_their_shapes(
    method: str, student_size: tuple[int, ...], teacher_size: tuple[int, ...], needed: str
) -> None:
    with pytest.raises(ValueError) as caught:
        between(method, student_size, teacher_size)
    ours, theirs = (", ".join(map(str, size)) for size in (student_size, teacher_size))
    assert str(caught.value) == (
        f"student_layer and teacher_layer must give {needed}, but '0' gives (B, {ours}) and 'out' (B, {theirs}); "
        "name other layers."
    )
