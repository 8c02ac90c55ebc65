"""A teacher's stored outputs: each asked for once, each under a key of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import Silent
from torch import Tensor, nn

from harness.studies.start import Start
from harness.teachers.cache import ArtifactCache, null_lock
from harness.teachers.make import Teacher
from harness.teachers.outputs import Outputs, make_teacher_outputs
from harness.tracking.spool import Spool
from lightning_modules.data.tensors import Split, TensorDataModule
from lightning_modules.data.views import ShiftedViews, Views


class Watched:
    """A teacher of two layers over 4x4 images, its calls counted, and data for it."""

    def __init__(self, folder: Path, views: Views | None = None) -> None:
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Flatten(), nn.Linear(32, 3)).eval()
        self.network.register_forward_hook(lambda module, given, output: self.calls.append(len(output)))
        self.teacher = Teacher(self.network, Start("", (), "a digest"), Spool(folder / "teacher"), "teacher/a key", 0)
        self.data = TensorDataModule(
            **{name: Split(torch.rand(7, 1, 4, 4), torch.arange(7) % 3) for name in ("train", "val", "test")},
            batch_size=2,
            eval_batch_size=3,
            views=views,
        )
        self.folder = folder
        self.said: list[str] = []
        self.calls: list[int] = []

    def outputs(self, *layers: str, dataset: str = "some data", dtype: torch.dtype = torch.float32) -> Outputs:
        self.calls.clear()
        return make_teacher_outputs(
            self.teacher, self.data, dataset, layers=layers, dtype=dtype, cache_dir=self.folder,
            artifacts=ArtifactCache(null_lock, Silent(), self.said.append),
        )  # fmt: skip

    @property
    def files(self) -> set[Path]:
        return set((self.folder / "teacher_outputs").glob("*.safetensors"))


def inputs_of(data: TensorDataModule, split: str) -> Tensor:
    inputs = data.splits[split].inputs
    assert isinstance(inputs, Tensor)
    return inputs


def test_features_are_those_of_the_live_teacher_row_by_row(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    for _ in range(2):  # made, and loaded
        outputs = watched.outputs("0", "1")
        assert set(outputs) == {"train", "val"}
        for split, found in outputs.items():
            maps = watched.network[0](inputs_of(watched.data, split))
            assert set(found) == {"logits", "0", "1"}
            torch.testing.assert_close(found["0"], maps)
            torch.testing.assert_close(found["1"], maps.flatten(1))
            torch.testing.assert_close(found["logits"], watched.network[2](maps.flatten(1)))
            assert not any(value.requires_grad for value in found.values())


def test_another_layer_later_adds_a_file_and_asks_for_nothing_that_is_there(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    watched.outputs()
    (logits,) = watched.files
    written = logits.stat().st_mtime_ns
    assert sum(watched.calls) == 14  # each sample once
    watched.outputs("0")
    assert len(watched.files) == 2 and sum(watched.calls) == 2 + 14  # two samples tell whether it can be stored
    first = {file: file.stat().st_mtime_ns for file in watched.files}
    watched.outputs("1", "0")
    assert len(watched.files) == 3 and sum(watched.calls) == 2 + 14
    assert watched.outputs("0").keys() == {"train", "val"} and not watched.calls
    assert set(watched.outputs("0")["val"]) == {"logits", "0"}  # only what is asked for
    assert logits.stat().st_mtime_ns == written and all(f.stat().st_mtime_ns == at for f, at in first.items())
    assert [line.split("layer ")[1] for line in watched.said] == ["0 gives is stored, 0 MB", "1 gives is stored, 0 MB"]


def test_other_data_have_outputs_of_their_own(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    watched.outputs("0")
    watched.outputs("0", dataset="other data")
    assert len(watched.files) == 4


def test_features_of_each_view_are_stored(tmp_path: Path) -> None:
    watched = Watched(tmp_path, ShiftedViews(count=3, most=1))
    outputs, views = watched.outputs("0"), watched.data.views
    assert outputs["train"]["0"].shape == (7, 3, 2, 4, 4) and outputs["val"]["0"].shape == (7, 2, 4, 4)
    assert views is not None
    for view in range(3):
        seen = views.of(inputs_of(watched.data, "train"), torch.arange(7), view)
        assert isinstance(seen, Tensor)
        torch.testing.assert_close(outputs["train"]["0"][:, view], watched.network[0](seen))
        torch.testing.assert_close(outputs["train"]["logits"][:, view], watched.network(seen))
    watched.data.attach(outputs)
    watched.data.teacher_layers = ("0",)
    loader = watched.data.train_dataloader()
    loader.set_epoch(4)
    for batch in (batch for item in loader for batch in item):
        assert torch.equal(batch.teacher["0"], outputs["train"]["0"][batch.ids, 1])


def test_a_damaged_file_is_made_again_and_the_others_are_not(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    watched.outputs()
    (logits,) = watched.files
    whole = watched.outputs("0")["train"]["0"].clone()  # what is loaded is the file
    (features,) = watched.files - {logits}
    written = logits.stat().st_mtime_ns
    features.write_bytes(features.read_bytes()[:-4] + bytes(4))
    again = watched.outputs("0")
    assert "damaged" in watched.said[1] and logits.stat().st_mtime_ns == written
    assert torch.equal(again["train"]["0"], whole)


def test_what_is_loaded_is_mapped_and_not_read(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    outputs = watched.outputs("0")
    mapped = Path("/proc/self/maps")
    if not mapped.exists():
        pytest.skip("this system does not tell what is mapped")
    assert all(str(file) in mapped.read_text() for file in watched.files), outputs.keys()


def test_a_layer_that_the_teacher_does_not_have_is_answered_with_those_that_it_has(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    with pytest.raises(ValueError, match=r"^a layer must be one of 0, 1, 2, but got 'block1'.$"):
        watched.outputs("block1")
    assert not watched.files


def test_outputs_for_training_samples_are_halved_on_request_and_the_error_is_said_once(
    tmp_path: Path,
) -> None:
    watched = Watched(tmp_path)
    whole, half = watched.outputs("0"), watched.outputs("0", dtype=torch.float16)
    assert watched.calls and len(watched.files) == 4  # under keys of their own
    for name in ("logits", "0"):
        assert half["train"][name].dtype == torch.float16 and half["val"][name].dtype == torch.float32
        assert torch.equal(half["train"][name], whole["train"][name].half())
        assert torch.equal(half["val"][name], whole["val"][name])
    error = float((whole["train"]["logits"].half().float() - whole["train"]["logits"]).abs().max())
    told = [line for line in watched.said if "its logits for training samples are stored in float16" in line]
    assert (
        told == [f"teacher   its logits for training samples are stored in float16, off by at most {error:.2g}"]
        and error > 0
    )
    assert torch.equal(watched.outputs("0", dtype=torch.float16)["train"]["0"], half["train"]["0"])
    assert watched.calls == [] and len([line for line in watched.said if "float16" in line]) == 2
    watched.data.attach(half)
    batch = next(iter(watched.data.train_dataloader()))[0]
    assert batch.teacher["logits"].dtype == torch.float32
    assert torch.equal(batch.teacher["logits"], half["train"]["logits"][batch.ids].float())


def test_numbers_that_float16_does_not_hold_are_refused(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    with torch.no_grad():
        watched.network[2].bias += torch.tensor([0.0, 70_000.0, -torch.inf])
    with pytest.raises(
        ValueError, match=r"its logits must be within ±65,504 .* but go up to 7e\+04: leave teacher_outputs_"
    ):
        watched.outputs(dtype=torch.float16)
    with torch.no_grad():
        watched.network[2].bias[1] = 0.0  # -inf stays what it is
    assert bool((watched.outputs(dataset="other", dtype=torch.float16)["train"]["logits"][:, 2] == -torch.inf).all())
