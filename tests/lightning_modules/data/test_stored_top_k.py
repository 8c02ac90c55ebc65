"""Stored rows in several files: gathered as from one tensor, with views, and handed to a process by their names."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from lightning_modules.data.stored_top_k import ROWS, StoredTopK
from lightning_modules.data.tensors import Split, TensorDataModule
from lightning_modules.data.views import ShiftedViews
from lightning_modules.top_k import TopK

FORM, CLASSES = TopK(3), 20


def stored(folder: Path, rows: Tensor, *edges: int) -> StoredTopK:
    files = []
    for number, part in enumerate(rows.tensor_split(edges)):
        files.append(folder / f"{number}.safetensors")
        save_file({ROWS: part.contiguous()}, files[-1])
    return StoredTopK(files, FORM, CLASSES)


def test_samples_of_several_files_are_gathered_in_the_order_that_is_asked_for(tmp_path: Path) -> None:
    rows = FORM.pack(torch.randn(11, 4, CLASSES))
    found = stored(tmp_path, rows, 3, 8)
    assert len(found) == 11 and found.shape == (11, 4, CLASSES) and found.nbytes == rows.nbytes
    for places in (torch.tensor([10, 0, 3, 2, 7, 7]), torch.arange(11), slice(2, 9), torch.tensor([5])):
        assert torch.equal(found[places].packed, rows[places])


def test_each_sample_may_have_a_view_of_its_own(tmp_path: Path) -> None:
    rows = FORM.pack(torch.randn(7, 3, CLASSES))
    found = stored(tmp_path, rows, 4)
    ids, views = torch.tensor([6, 0, 5, 1]), torch.tensor([0, 2, 1, 1])
    assert torch.equal(found[ids, 2].packed, rows[ids, 2]) and torch.equal(found[ids, views].packed, rows[ids, views])


def test_another_process_maps_the_files_itself(tmp_path: Path) -> None:
    rows = FORM.pack(torch.randn(5, CLASSES))
    given = stored(tmp_path, rows, 2)
    assert len(given) == 5  # mapped here
    text = pickle.dumps(given)
    assert len(text) < 1_000 and torch.equal(pickle.loads(text)[:].packed, rows)


def test_batches_hold_the_rows_of_their_samples(tmp_path: Path) -> None:
    rows = FORM.pack(torch.randn(9, 2, CLASSES))
    split = Split(torch.rand(9, 1, 4, 4), torch.arange(9))
    data = TensorDataModule(train=split, val=split, test=split, batch_size=4, views=ShiftedViews(count=2, most=1))
    data.attach({"train": {"logits": stored(tmp_path, rows, 5)}})
    loader = data.train_dataloader()
    for epoch in (0, 1):
        loader.set_epoch(epoch)
        for batch in (batch for item in loader for batch in item):
            assert torch.equal(batch.teacher["logits"].packed, rows[batch.ids, epoch])


def test_some_samples_are_shown_alone_by_their_positions() -> None:
    split = Split(torch.arange(9.0)[:, None], torch.arange(9))
    data = TensorDataModule(train=split, val=split, test=split, eval_batch_size=2)
    shown = [batch.ids for item in data.ordered("train", torch.tensor([4, 5, 6, 7])) for batch in item]
    assert torch.equal(torch.cat(shown), torch.tensor([4, 5, 6, 7]))
