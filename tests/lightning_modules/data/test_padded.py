"""Padded sequences: batches of alike length, cut to their longest, with their masks; costs at a usual length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lightning_modules.data import PaddedDataModule, Split
from lightning_modules.data.loading import GivenOrder
from lightning_modules.data.stored_top_k import ROWS, StoredTopK
from lightning_modules.top_k import TopK

LENGTHS = torch.tensor([2, 9, 3, 8, 2, 9, 3, 8, 5, 5, 4, 10])


def padded(lengths: Tensor, labels: Tensor | None = None) -> Split:
    """Sequences of 1, 2, 3, … up to their lengths, then 0; labels are the lengths."""
    mask = torch.arange(12) < lengths[:, None]
    ids = torch.where(mask, torch.arange(1, 13), 0)
    return Split({"input_ids": ids, "attention_mask": mask.long()}, lengths if labels is None else labels)


def module(**how: Any) -> PaddedDataModule:
    splits = {name: padded(LENGTHS) for name in ("train", "val", "test")}
    return PaddedDataModule(**{**splits, "batch_size": 2, "eval_batch_size": 5, **how})


def batches(loader: Any) -> list[Any]:
    return [batch for item in loader for batch in item]


def test_training_batches_are_of_alike_length_and_cut_to_their_longest() -> None:
    data = module()
    found = batches(data.train_dataloader())
    assert sorted(torch.cat([one.ids for one in found]).tolist()) == list(range(12))
    for one in found:
        lengths = LENGTHS[one.ids]
        assert one.inputs["input_ids"].shape == (2, int(lengths.max()))
        assert one.mask.dtype == torch.bool and torch.equal(one.mask.sum(1), lengths)
        assert torch.equal(one.inputs["input_ids"].max(1).values, lengths) and torch.equal(one.target, lengths)
    # Sorted lengths are 2 2, 3 3, 4 5, 5 8, 8 9, 9 10: nothing else makes pairs with as little padding.
    assert sum(one.inputs["input_ids"].numel() for one in found) == 2 * (2 + 3 + 5 + 8 + 9 + 10)


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        data = module()
        data.seed = seed
        loader = data.train_dataloader()
        loader.set_epoch(epoch)
        return torch.cat([one.ids for one in batches(loader)]).tolist()

    assert order(3, 1) == order(3, 1)
    assert len({tuple(order(*one)) for one in ((3, 1), (3, 2), (4, 1), (4, 2))}) == 4


def test_the_order_of_a_sampler_stays_as_it_is() -> None:
    data, places = module(), torch.tensor([11, 0, 3, 3, 7, 1, 2])
    data.sampler = GivenOrder(places)
    assert torch.equal(torch.cat([one.ids for one in batches(data.train_dataloader())]), places)


def test_a_sample_is_shown_short_and_padded() -> None:
    forms = module().forms_of_a_sample()
    assert forms is not None
    short, whole = forms
    assert isinstance(short, dict) and isinstance(whole, dict)
    assert short["input_ids"].tolist() == [[1, 2]] and whole["input_ids"].shape == (1, 12)
    full = padded(torch.full((12,), 12))
    assert module(val=full).forms_of_a_sample() is None


def test_inputs_with_features_at_each_position_are_measured_at_the_length_too() -> None:
    split = padded(LENGTHS)
    assert isinstance(split.inputs, dict)
    inputs = {**split.inputs, "frames": torch.rand(12, 12, 4)}
    found = module(val=Split(inputs, LENGTHS)).example_inputs(3)
    assert isinstance(found, dict) and found["frames"].shape == (3, 5, 4)


def test_a_last_batch_of_another_size_stays_last() -> None:
    data = module(train=padded(torch.cat([LENGTHS, torch.tensor([1, 7])])), batch_size=4)
    for epoch in range(4):
        loader = data.train_dataloader()
        loader.set_epoch(epoch)
        assert [len(one.ids) for one in batches(loader)] == [4, 4, 4, 2]


def test_evaluation_batches_keep_the_order_and_are_whole_where_it_is_asked() -> None:
    data = module()
    cut = batches(data.ordered("val"))
    assert torch.cat([one.ids for one in cut]).tolist() == list(range(12))
    assert [one.inputs["input_ids"].shape for one in cut] == [(5, 9), (5, 9), (2, 10)]
    whole = batches(data.ordered("val", whole=True))
    assert [one.inputs["input_ids"].shape for one in whole] == [(5, 12), (5, 12), (2, 12)]
    assert torch.equal(torch.cat([one.mask.sum(1) for one in whole]), LENGTHS)


def test_labels_and_outputs_by_token_are_cut_alike_and_outputs_by_sample_are_not() -> None:
    labels = torch.where(torch.arange(12) < LENGTHS[:, None], 1, -100)
    data = module(train=padded(LENGTHS, labels), val=padded(LENGTHS, labels), labels_by_token=True)
    by_token, by_sample = torch.rand(12, 12, 3), torch.rand(12, 12)
    data.attach({"train": {"logits": by_token, "layer": by_sample}})
    data.teacher_layers = ("layer",)
    for one in batches(data.train_dataloader()):
        longest = one.inputs["input_ids"].shape[1]
        assert one.target.shape == (2, longest) and bool((one.target[one.mask] == 1).all())
        torch.testing.assert_close(one.teacher["logits"], by_token[one.ids, :longest])
        torch.testing.assert_close(one.teacher["layer"], by_sample[one.ids])
    # Outputs of all samples are put side by side, so all have one shape.
    assert {one.inputs["input_ids"].shape[1] for one in batches(data.ordered("val"))} == {12}


def test_the_largest_logits_of_each_token_are_cut_with_the_tokens(tmp_path: Path) -> None:
    labels = torch.where(torch.arange(12) < LENGTHS[:, None], 1, -100)
    data = module(train=padded(LENGTHS, labels), val=padded(LENGTHS, labels), labels_by_token=True)
    form = TopK(3)
    rows = form.pack(torch.randn(12, 12, 20))
    save_file({ROWS: rows}, tmp_path / "rows.safetensors")
    data.attach({"train": {"logits": StoredTopK([tmp_path / "rows.safetensors"], form, 20)}})
    for one in batches(data.train_dataloader()):
        longest = one.inputs["input_ids"].shape[1]
        assert torch.equal(one.teacher["logits"].packed, rows[one.ids, :longest])


def test_costs_are_measured_at_the_median_length_or_a_stated_one() -> None:
    data = module()
    inputs = data.example_inputs(14)
    assert isinstance(inputs, dict)
    assert inputs["input_ids"].shape == (14, 5) and bool(inputs["attention_mask"].all())
    assert data.notes == ("costs are measured at a length of 5, the median of validation samples",)
    stated = module(measured_length=12)
    inputs = stated.example_inputs(1)
    assert isinstance(inputs, dict)  # the longest, of 10, begins anew
    assert inputs["input_ids"].tolist() == [[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 1, 2]]
    assert stated.notes == ("costs are measured at a length of 12, as stated",)


def test_inputs_of_another_form_are_refused() -> None:
    plain = Split(torch.zeros(12, 3), LENGTHS)
    with pytest.raises(ValueError, match=r"inputs of val must be a dict with attention_mask \(N, L\)"):
        module(val=plain)
    with pytest.raises(ValueError, match="one at least in each sample"):
        module(train=padded(LENGTHS - 2))
    with pytest.raises(ValueError, match="measured_length must be 1 to 12, the length of padded samples, but got 13"):
        module(measured_length=13)
