"""Views: the same whenever they are asked for, and unlike one another."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_modules.data.tensors import Split, TensorDataModule
from lightning_modules.data.views import ShiftedViews, uniforms

VIEWS = ShiftedViews(count=3, seed=5, most=2)
IDS = torch.arange(40)


def images(size: int = 40) -> torch.Tensor:
    """Every pixel of every image has a value of its own, none of them 0."""
    return 1 + torch.arange(size * 2 * 6 * 7).float().view(size, 2, 6, 7)


def moved_by_hand(image: torch.Tensor, down: int, right: int) -> torch.Tensor:
    moved = torch.zeros_like(image)
    channels, height, width = image.shape
    for c in range(channels):
        for y in range(height):
            for x in range(width):
                if 0 <= y - down < height and 0 <= x - right < width:
                    moved[c, y, x] = image[c, y - down, x - right]
    return moved


def test_a_shifted_view_is_the_image_shifted_and_zero_padded() -> None:
    given, seen = images(), set()
    for image, view in zip(given, VIEWS.of(given, IDS, 0), strict=True):
        moves = [
            (down, right)
            for down in range(-2, 3)
            for right in range(-2, 3)
            if torch.equal(view, moved_by_hand(image, down, right))
        ]
        assert len(moves) == 1
        seen |= set(moves)
    assert len(seen) > 15  # of 25, for 40 images


def test_a_view_depends_on_seed_sample_and_view_alone() -> None:
    given = images()
    whole = [VIEWS.of(given, IDS, view) for view in range(3)]
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    for part in order.split(7):
        for view in (2, 0, 1):
            assert torch.equal(VIEWS.of(given[part], part, view), whole[view][part])
    assert not any(torch.equal(whole[a], whole[b]) for a, b in ((0, 1), (0, 2), (1, 2)))
    assert not torch.equal(ShiftedViews(count=3, seed=6).of(given, IDS, 0), whole[0])


def test_draws_are_uniform_and_uncorrelated_between_samples_views_and_seeds() -> None:
    ids = torch.arange(20_000)
    drawn = {(seed, view): uniforms(seed, ids, view, draws=2) for seed in (0, 1) for view in (0, 1)}
    columns = [values[:, d] for values in drawn.values() for d in (0, 1)]
    for column in columns:
        assert 0 <= column.min() and column.max() < 1
        counts = np.histogram(column, bins=25, range=(0, 1))[0]
        assert ((counts - 800) ** 2 / 800).sum() < 60  # chi-squared of 24 degrees: one in 15,000 is above
        assert abs(np.corrcoef(column[:-1], column[1:])[0, 1]) < 0.03  # neighbouring samples
    related = np.corrcoef(columns) - np.eye(len(columns))
    assert np.abs(related).max() < 0.03


def test_an_epoch_shows_one_view_with_its_teacher_outputs_and_epochs_cycle_through_views() -> None:
    split = Split(images(), IDS % 3)
    data = TensorDataModule(train=split, val=split, test=split, batch_size=8, views=VIEWS)
    stored = torch.stack([100 * IDS + view for view in range(3)], dim=1).float()[:, :, None].repeat(1, 1, 4)
    data.attach({"train": {"logits": stored}, "val": {"logits": stored[:, 0]}})
    loader = data.train_dataloader()
    for epoch in range(7):
        loader.set_epoch(epoch)
        for batch in (batch for item in loader for batch in item):
            assert torch.equal(batch.inputs, VIEWS.of(split.inputs[batch.ids], batch.ids, epoch % 3))
            assert torch.equal(batch.teacher["logits"][:, 0], 100.0 * batch.ids + epoch % 3)
    (val,) = (batch for item in data.ordered("val") for batch in item)
    assert torch.equal(val.inputs, split.inputs)  # only what is trained on is augmented


def test_outputs_of_another_number_of_views_are_refused() -> None:
    split = Split(images(), IDS % 3)
    data = TensorDataModule(train=split, val=split, test=split, views=VIEWS)
    for shape in ((40, 2, 4), (40, 3)):
        with pytest.raises(
            ValueError, match=r"must hold 3 views of each sample of train, shape \(N, 3, \.\.\.\), but got"
        ):
            data.attach({"train": {"logits": torch.zeros(shape)}})


def test_less_than_one_view_is_refused() -> None:
    with pytest.raises(ValueError, match=r"at least 1 view, but got self\.count=0"):
        ShiftedViews(count=0)


@pytest.mark.parametrize(("options", "message"), [({"most": -1}, "at least 0 pixels"), ({"seed": -1}, "seed must lie")])
def test_an_invalid_shift_or_seed_is_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ShiftedViews(**options)


def test_a_shift_beyond_the_image_is_refused() -> None:
    with pytest.raises(ValueError, match=r"images of 6x7 pixels can't be moved by up to 6"):
        ShiftedViews(most=6).of(images(), IDS, 0)
