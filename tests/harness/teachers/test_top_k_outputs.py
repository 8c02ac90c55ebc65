"""Outputs that are stored as the k largest logits: streamed in shards, resumed, checked, and what is lost is told."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from conftest import Silent
from torch import Tensor, nn

from harness.core.errors import Unfit
from harness.preparation.scoring import teacher_scores
from harness.studies.start import Start
from harness.teachers import TopK as Exported
from harness.teachers import top_k_outputs
from harness.teachers.cache import ArtifactCache, null_lock
from harness.teachers.make import Teacher
from harness.teachers.top_k_error import error_text, top_k_error
from harness.teachers.top_k_outputs import make_top_k_outputs, sample_bytes
from harness.tracking.spool import Spool
from lightning_modules.data.stored_top_k import StoredTopK
from lightning_modules.data.tensors import Split, TensorDataModule
from lightning_modules.data.views import ShiftedViews, Views
from lightning_modules.outputs import Classification, Output, Segmentation, Tokens
from lightning_modules.top_k import TopK, TopKLogits
from search_spaces.digits import Digits

CLASSES, LENGTH, PADDING = 30, 4, -100


class Next(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(CLASSES, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        found: Tensor = 3 * self.table(tokens)
        return found


class Pixels(Digits):
    output: ClassVar[Output] = Segmentation(6)


class Watched:
    """A teacher of next tokens, the samples that it was asked about, and data for it."""

    def __init__(self, folder: Path, *, samples: int = 10) -> None:
        self.network = Next().eval()
        self.network.register_forward_hook(lambda module, given, output: self.asked.append(len(output)))
        self.teacher = Teacher(self.network, Start("", (), "a digest"), Spool(folder / "teacher"), "teacher/a key", 0)
        draw = torch.Generator().manual_seed(1)
        tokens = torch.randint(CLASSES, (samples, LENGTH + 1), generator=draw)
        labels = tokens[:, 1:].clone()
        labels[::3, -1] = PADDING
        part = Split(tokens[:, :-1], labels)
        self.data = TensorDataModule(train=part, val=part, test=part, batch_size=2, eval_batch_size=3)
        self.folder, self.said, self.asked = folder, list[str](), list[int]()

    def outputs(self, form: TopK, output: Output | None = None) -> dict[str, StoredTopK]:
        self.asked.clear()
        return make_top_k_outputs(
            self.teacher, self.data, "some data", form=form, output=output or Tokens(CLASSES), classes=CLASSES,
            splits=("train", "val"), cache_dir=self.folder,
            artifacts=ArtifactCache(null_lock, Silent(), self.said.append),
        )  # fmt: skip

    @property
    def files(self) -> list[Path]:
        return sorted((self.folder / "teacher_outputs").glob("*.safetensors"))

    def logits(self) -> Tensor:
        inputs = self.data.splits["train"].inputs
        assert isinstance(inputs, Tensor)
        with torch.no_grad():
            found: Tensor = self.network(inputs)
        return found


def shards_of(samples: int, monkeypatch: pytest.MonkeyPatch, form: TopK) -> None:
    monkeypatch.setattr(top_k_outputs, "_SHARD_BYTES", samples * LENGTH * form.row_bytes(CLASSES))


def test_it_is_imported_from_where_teachers_are() -> None:
    assert Exported is TopK


def test_what_is_stored_is_the_form_of_the_live_teachers_logits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    form, watched = TopK(5, draws=0), Watched(tmp_path)
    shards_of(4, monkeypatch, form)
    for _ in range(2):  # made, and loaded
        found = watched.outputs(form)
        logits, labels = watched.logits(), watched.data.splits["val"].labels
        assert torch.equal(found["train"][:].packed, form.pack(logits))
        assert torch.equal(found["val"][:].packed, form.pack(logits, labels))
        assert found["train"].shape == (10, LENGTH, CLASSES) and len(watched.files) == 6  # 4 + 4 + 2 samples, twice
    assert sample_bytes(watched.data, "train", form, CLASSES) == LENGTH * (4 * 5 + 14)


def test_a_store_that_was_interrupted_asks_about_what_is_missing_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    form, watched = TopK(5, draws=0), Watched(tmp_path)
    shards_of(4, monkeypatch, form)
    whole = watched.outputs(form)["train"][:].packed.clone()
    assert sum(watched.asked) == 20
    written = {file: file.stat().st_mtime_ns for file in watched.files}
    watched.files[2].unlink()  # as kill -9 leaves it: a file is there whole, or not at all
    again = watched.outputs(form)
    assert sum(watched.asked) in (2, 4) and torch.equal(again["train"][:].packed, whole)
    assert sum(file.stat().st_mtime_ns == written[file] for file in watched.files) == 5
    assert watched.said == ["teacher   5 of 6 files of its outputs are stored already"]
    damaged = watched.files[0]
    damaged.write_bytes(damaged.read_bytes()[:-2] + b"\x01\x01")
    assert torch.equal(watched.outputs(form)["train"][:].packed, whole) and "damaged" in watched.said[1]


def test_another_k_and_other_temperatures_have_files_of_their_own(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    for form in (TopK(5), TopK(6), TopK(5, draws=2), TopK(5, temperatures=(0.5, 1.0))):
        watched.outputs(form)
    assert len(watched.files) == 8


def test_no_split_is_ever_in_memory_with_all_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    form, watched, packed = TopK(5, draws=0), Watched(tmp_path, samples=50), list[int]()
    shards_of(20, monkeypatch, form)
    pack = TopK.pack

    def noting(self: TopK, logits: Tensor, kept: Tensor | None = None, *, seed: int = 0) -> Tensor:
        packed.append(len(logits))
        return pack(self, logits, kept, seed=seed)

    monkeypatch.setattr(TopK, "pack", noting)
    watched.outputs(form)
    assert sum(packed) == 100 and max(packed) <= 4  # batches of three, the last one with what would be left alone


def test_views_are_stored_beside_one_another(tmp_path: Path) -> None:
    class Halved(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1)[:, :CLASSES]

    images = Split(torch.rand(5, 1, 6, 6), torch.arange(5))
    views: Views = ShiftedViews(count=3, most=1)
    watched, form = Watched(tmp_path), TopK(4, draws=0)
    watched.data = TensorDataModule(train=images, val=images, test=images, views=views)
    watched.teacher = Teacher(Halved().eval(), Start("", (), "other"), Spool(tmp_path / "other"), "teacher/b", 0)
    found = watched.outputs(form, Classification())["train"]
    assert found.shape == (5, 3, CLASSES)
    assert isinstance(images.inputs, Tensor)
    for view in range(3):
        seen = views.of(images.inputs, torch.arange(5), view)
        assert isinstance(seen, Tensor)
        assert torch.equal(found[torch.arange(5), view].packed, form.pack(seen.flatten(1)[:, :CLASSES]))


def test_logits_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    with torch.no_grad():
        watched.network.table.weight[int(watched.data.splits["train"].inputs[0, 0]), 3] = math.nan  # type: ignore[index]
    with pytest.raises(Unfit, match=r"the teacher has NaN for .* of train in its logits"):
        watched.outputs(TopK(5, draws=0))


def test_what_is_lost_is_measured_and_told(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    form = TopK(5, draws=0)
    errors = top_k_error(watched.network, watched.data, Tokens(CLASSES), form, (1.0, 4.0, 4.0))
    asked = torch.linspace(0, 9, 8).long()  # of all lengths, where samples are sorted
    rows = watched.logits()[asked][watched.data.splits["val"].labels[asked] != PADDING].double()
    assert [error.temperature for error in errors] == [1.0, 4.0]
    for error in errors:
        shares = torch.softmax(rows / error.temperature, 1).sort(1, descending=True).values
        tail = shares[:, 5:].sum(1)
        whole = (shares * (shares * CLASSES).log()).sum(1).mean()
        told = (shares[:, :5] * (shares[:, :5] * CLASSES).log()).sum(1) + tail * (tail * CLASSES / 25).log()
        assert error.tail == pytest.approx(float(tail.mean()), abs=1e-3)
        assert error.error == pytest.approx(1 - float(told.mean() / whole), abs=5e-3)
    text = error_text(errors, form, CLASSES, "token")
    assert text.startswith(
        "of each token the 5 largest of 30 logits are stored, in 34 bytes; the others are one bucket"
    )
    assert "of the probability at T = 1, where" in text and "at T = 4, where" in text


def test_a_teacher_of_pixels_is_scored_by_what_is_stored_as_by_all() -> None:
    draw = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(4, 6, 5, 3, generator=draw)  # (N, C, H, W)
    masks = torch.randint(6, (4, 5, 3), generator=draw)
    split = Split(torch.rand(4, 1, 5, 3), masks)
    data = TensorDataModule(train=split, val=split, test=split)
    space: Any = SimpleNamespace(task=Pixels())
    data.attach({"val": {"logits": logits}})
    dense = teacher_scores(data, space, 6)
    form = TopK(4, draws=0)
    stored = TopKLogits(form.pack(logits.movedim(1, -1), masks), form, 6)
    data.teacher_outputs["val"] = {"logits": stored}
    found = teacher_scores(data, space, 6)
    for name in ("miou", "pixel_accuracy", "agreement", "teacher_kl"):
        assert found[name] == pytest.approx(dense[name], abs=1e-6), name
