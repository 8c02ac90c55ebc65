"""Views that mix samples: seen where they do, not seen where they don't, and fair with targets that are mixed too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from harness.core.errors import HarnessError
from harness.preparation.method_checks import check_targets
from harness.preparation.mixing import find_unrepeatable_view, mixes_targets, no_control_reason
from lightning_modules.batch import Inputs
from lightning_modules.data import Augment, MixUp
from lightning_modules.data.tensors import Split, TensorDataModule
from lightning_modules.data.views import ShiftedViews, Views, uniforms
from lightning_modules.methods import METHODS
from lightning_modules.outputs import Classification
from search_spaces.digits import SPACE
from search_spaces.digits_methods import SPACE as SPACE_OF_METHODS

DATA = SPACE.task.data(None)
IMAGES, LABELS = DATA.splits["train"].inputs, DATA.splits["train"].labels
assert isinstance(IMAGES, Tensor)


@dataclass(frozen=True)
class Changed(Views):
    """Images changed by a function of (images, uniforms (B, 66))."""

    change: Callable[[Tensor, Tensor], Inputs | tuple[Inputs, Tensor]] = lambda images, drawn: images

    def of(self, inputs: Inputs, ids: Tensor, view: int) -> Inputs | tuple[Inputs, Tensor]:
        assert isinstance(inputs, Tensor)
        return self.change(inputs, torch.from_numpy(uniforms(self.seed, ids, view, draws=66)).float())


def partners(drawn: Tensor) -> Tensor:
    return (drawn[:, 0] * len(IMAGES)).long()


def share(drawn: Tensor) -> Tensor:
    return drawn[:, 1].view(-1, 1, 1, 1)


def mixed(images: Tensor, drawn: Tensor) -> Tensor:
    assert isinstance(IMAGES, Tensor)
    return share(drawn) * images + (1 - share(drawn)) * IMAGES[partners(drawn)]


def patched(images: Tensor, drawn: Tensor) -> Tensor:
    assert isinstance(IMAGES, Tensor)
    changed = images.clone()
    changed[..., 2:7, 2:7] = IMAGES[partners(drawn)][..., 2:7, 2:7]
    return changed


def noise(drawn: Tensor) -> Tensor:
    return drawn[:, 2:].view(-1, 1, 8, 8)


def erased(images: Tensor, drawn: Tensor) -> Tensor:
    changed = images.clone()
    changed[..., 2:7, 2:7] = 0.5
    return changed


def with_views(views: Views) -> TensorDataModule:
    data = SPACE.task.data(None)
    data.views = views
    return data


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (mixed, "the views mix samples (view 0 of training sample "),
        (patched, "the views mix samples (view 0 of training sample "),
        (lambda images, drawn: 0.7 * images + 0.3 * images.roll(1, 0), "depends on the samples beside it in a batch"),
    ],
)
def test_views_that_mix_samples_are_seen_to_and_no_control_is_fair(
    change: Callable[[Tensor, Tensor], Tensor], told: str
) -> None:
    why = no_control_reason(with_views(Changed(count=2, change=change)), 10, Classification())
    assert told in why and why.endswith("and the labels are those of the first") and "\n" not in why


@pytest.mark.parametrize(
    "change",
    [
        lambda images, drawn: images,
        lambda images, drawn: images + noise(drawn),
        lambda images, drawn: images * (0.5 + share(drawn)) + 0.1,
        lambda images, drawn: images.flip(-1),
        lambda images, drawn: torch.where(noise(drawn) < 0.3, 1 - images, images),
        erased,
        lambda images, drawn: images + torch.rand_like(images),
    ],
)
def test_views_that_change_a_sample_alone_are_not_taken_for_mixes(change: Callable[[Tensor, Tensor], Tensor]) -> None:
    assert no_control_reason(with_views(Changed(count=2, change=change)), 10, Classification()) == ""


def test_images_that_are_moved_are_not_taken_for_mixes_and_mixes_of_one_class_are_fair() -> None:
    assert no_control_reason(with_views(ShiftedViews(count=4, most=1)), 10, Classification()) == ""
    alike = SPACE.task.data(None)
    ones = LABELS == 1
    assert isinstance(IMAGES, Tensor)
    alike.splits["train"] = Split(IMAGES[ones], LABELS[ones])
    held = IMAGES[ones]

    def within_the_class(images: Tensor, drawn: Tensor) -> Tensor:
        return share(drawn) * images + (1 - share(drawn)) * held[(drawn[:, 0] * len(held)).long()]

    alike.views = Changed(count=2, change=within_the_class)
    assert no_control_reason(alike, 10, Classification()) == ""


def test_views_whose_class_says_that_they_mix_are_believed() -> None:
    class Hidden(Changed):
        mixes = True

    assert no_control_reason(with_views(Hidden(count=2)), 10, Classification()).startswith("the views mix samples, and")


def test_a_view_that_draws_anew_is_no_mix_and_is_told_apart() -> None:
    anew = with_views(Changed(count=2, change=lambda images, drawn: images + torch.rand_like(images)))
    assert "another one each time" in find_unrepeatable_view(anew)
    beside = with_views(Changed(change=lambda images, drawn: images - images.mean(0)))
    assert "beside it" in find_unrepeatable_view(beside)
    assert find_unrepeatable_view(with_views(ShiftedViews())) == find_unrepeatable_view(SPACE.task.data(None)) == ""


def mixed_with_targets(images: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
    own = torch.full((len(images), 10), 0.1)
    return mixed(images, drawn), own


def test_mixed_targets_make_the_control_fair_and_reach_the_batch() -> None:
    data = with_views(Changed(count=2, change=mixed_with_targets))
    assert mixes_targets(data, 10, Classification()) and no_control_reason(data, 10, Classification()) == ""
    (batch, *_), *_ = data.train_dataloader()
    assert torch.equal(batch.target, torch.full((64, 10), 0.1))
    (validation, *_), *_ = data.ordered("val")
    assert validation.target.dtype == torch.int64


@pytest.mark.parametrize(
    ("targets", "told"),
    [
        (torch.ones(4, 10), "must be probabilities that sum to 1"),
        (torch.full((4, 9), 1 / 9), "floats of shape (4, 10) for 4 samples, but got shape (4, 9)"),
        (
            torch.full((4, 11), 1 / 11),
            "floats of shape (4, 10) for 4 samples, but got shape (4, 11)",
        ),
    ],
)
def test_targets_that_are_no_probabilities_are_refused(targets: Tensor, told: str) -> None:
    data = with_views(Changed(change=lambda images, drawn: (images, targets)))
    with pytest.raises(HarnessError) as raised:
        mixes_targets(data, 10, Classification())
    assert told in str(raised.value) and "\n" not in str(raised.value)


def test_methods_that_need_one_class_a_sample_are_refused_where_targets_are_mixed() -> None:
    with pytest.raises(HarnessError) as raised:
        check_targets(SPACE_OF_METHODS, True)
    assert str(raised.value).startswith("method 'decoupled' can't be searched: it needs one class for each sample")
    assert "--fix method=soft_target" in str(raised.value) and "\n" not in str(raised.value)
    check_targets(SPACE_OF_METHODS, False)
    check_targets(SPACE, True)
    assert {name for name, method in METHODS.items() if method.needs_labels} == {
        "decoupled",
        "contrastive",
        "self_distillation",
    }


def test_mixes_are_seen_whatever_part_of_the_samples_is_compared_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    data = with_views(Changed(count=2, change=mixed))
    whole = no_control_reason(data, 10, Classification())
    monkeypatch.setattr("harness.preparation.mixing._VALUES", 64 * 100)  # a hundred digits
    assert no_control_reason(data, 10, Classification()) == whole != ""


def test_views_that_mix_are_looked_at_on_samples_that_have_a_label() -> None:
    labels = LABELS.where(torch.arange(len(LABELS)) > 50, -100)
    split = Split(IMAGES, labels)
    data = TensorDataModule(train=split, val=split, test=split, augment=Augment(mix=MixUp()))
    data.is_labelled = Classification().is_labelled
    assert mixes_targets(data, 10, Classification())
    assert no_control_reason(data, 10, Classification()) == ""
