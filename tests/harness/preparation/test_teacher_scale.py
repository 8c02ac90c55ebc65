"""A teacher's numbers are on the targets' scale, mapped to it, or refused in one line."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from harness.core.errors import Unfit
from harness.preparation.teacher_scale import check_scale, on_scale
from lightning_modules.batch import Inputs
from lightning_modules.data.tensors import Split, TensorDataModule
from lightning_modules.data.views import Views
from lightning_modules.outputs import Classification, Regression

CELSIUS = torch.arange(0.0, 40.0)[:, None]
SPLIT = Split(torch.zeros(40, 1), CELSIUS)


@dataclass(frozen=True)
class Same(Views):
    def of(self, inputs: Inputs, ids: torch.Tensor, view: int) -> Inputs:
        return inputs


def data(views: Views | None = None) -> TensorDataModule:
    made = TensorDataModule(train=SPLIT, val=SPLIT, test=SPLIT, batch_size=8)
    made.views = views
    return made


def outputs(train: torch.Tensor) -> dict[str, dict[str, torch.Tensor]]:
    fahrenheit = CELSIUS * 1.8 + 32
    return {
        "train": {"logits": train, "layer": torch.ones(40, 3)},
        "val": {"logits": fahrenheit},
        "test": {"logits": fahrenheit + 1.8},
    }


def test_a_teacher_of_another_scale_is_refused_with_the_line_that_was_found() -> None:
    with pytest.raises(Unfit) as caught:
        on_scale("the teacher", outputs(CELSIUS * 1.8 + 32), data(), Regression(1), print)
    text = str(caught.value)
    assert (
        "the teacher gives numbers on another scale than the targets: a target is about 0.5556 · answer - 17.78" in text
    )
    assert "Regression(1, teacher_scale='own')" in text and "\n" not in text


def test_one_with_a_scale_of_its_own_is_mapped_in_all_splits_by_the_line_of_the_training_split() -> None:
    notes: list[str] = []
    own = Regression(1, teacher_scale="own")
    # On the training split the teacher is 2 degrees Celsius too high, so the line takes 2 from each answer.
    given = outputs((CELSIUS + 2) * 1.8 + 32)
    found = on_scale("the teacher", given, data(), own, notes.append)
    torch.testing.assert_close(found["train"]["logits"], CELSIUS, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(found["val"]["logits"], CELSIUS - 2, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(found["test"]["logits"], CELSIUS - 1, atol=1e-4, rtol=1e-5)
    assert found["train"]["layer"] is given["train"]["layer"]
    (note,) = notes
    assert "a target is taken to be 0.5556 · answer - 19.78, fitted to the training split" in note


def test_all_views_take_part_in_the_line() -> None:
    own = Regression(1, teacher_scale="own")
    views = torch.stack([CELSIUS * 2 + 1, CELSIUS * 2 - 1], 1)  # (40, 2, 1): on average twice the target
    found = on_scale("the teacher", outputs(views), data(Same(count=2)), own, lambda text: None)
    assert found["train"]["logits"].shape == (40, 2, 1)
    mean = found["train"]["logits"].mean(1)
    torch.testing.assert_close(mean, CELSIUS, atol=0.1, rtol=0)


def test_a_teacher_on_the_targets_scale_and_one_of_classes_are_left_as_they_are() -> None:
    given = {name: {"logits": CELSIUS} for name in ("train", "val")}
    assert on_scale("the teacher", given, data(), Regression(1), print) is given
    assert on_scale("the teacher", given, data(), Classification(), print) is given
    check_scale("the teacher", CELSIUS, CELSIUS, Regression(1))


def test_a_line_is_fitted_to_the_samples_that_have_a_label() -> None:
    made = data()
    known = torch.arange(40)[:, None] % 2 == 0
    made.splits["train"] = Split(torch.zeros(40, 1), CELSIUS.where(known, torch.nan))
    made.is_labelled = Regression().is_labelled
    # What it says of unlabelled samples is far off the line, which goes through the labelled ones.
    given = outputs((CELSIUS * 1.8 + 32).where(known, 1e6))
    found = on_scale("it", given, made, Regression(teacher_scale="own"), lambda text: None)
    torch.testing.assert_close(found["val"]["logits"], CELSIUS, rtol=1e-4, atol=1e-3)
