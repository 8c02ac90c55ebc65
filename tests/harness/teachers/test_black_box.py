"""Kinds of teachers are found by listing a folder, and their names are there without importing anything heavy."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import ROOT, environment
from grounds import NAMES, clusters, ground, outputs
from torch import Tensor

import harness.teachers
import harness.teachers.kinds
from harness.core.errors import HarnessError
from harness.settings import Settings
from harness.teachers import FunctionTeacher
from harness.teachers.black_box import BlackBoxTeacher, flat_inputs, is_black_box, missing_extra, teacher_in
from harness.teachers.untrained import build_teacher
from lightning_modules.batch import Inputs
from search_spaces.digits import SPACE, Digits

THIRD = """
from harness.teachers.answers import to_logits
from harness.teachers.black_box import BlackBoxTeacher


def recognizes(path):
    return path.suffix == ".constant"


def load(path, names):
    return ConstantTeacher([float(one) for one in path.read_text().split()])


class ConstantTeacher(BlackBoxTeacher):
    who = "the constant"
    is_costed = False

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    @property
    def content(self):
        return str(self.logits)

    def _prepare(self, ground):
        pass

    def _ask(self, query):
        import torch

        return torch.tensor([self.logits] * len(query.rows))
"""


def test_a_file_in_the_folder_of_kinds_is_a_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "constant.py").write_text(THIRD)
    monkeypatch.setattr(harness.teachers.kinds, "__path__", [*harness.teachers.kinds.__path__, str(tmp_path)])
    file = tmp_path / "some.constant"
    file.write_text("1 2 3")
    assert is_black_box(file)
    given = teacher_in(file, NAMES)
    assert given is not None and type(given) is harness.teachers.ConstantTeacher
    found = outputs(given, ground(clusters()))
    assert torch.equal(found["val"], torch.tensor([[1.0, 2.0, 3.0]] * 15))
    file.write_text("1 2")
    with pytest.raises(HarnessError, match="must give 10 samples one row of 3 numbers each"):
        outputs(teacher_in(file, NAMES) or given, ground(clusters()))


@pytest.mark.parametrize("name", ["model.pt", "best.ckpt", "weights.safetensors", "folder"])
def test_checkpoints_are_no_black_boxes(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("")
    assert not is_black_box(tmp_path / name) and teacher_in(tmp_path / name, ()) is None


def test_the_names_are_there_and_nothing_heavy_is_imported_for_the_package() -> None:
    code = (
        "import sys, harness.teachers\n"
        "heavy = {'torch', 'sklearn', 'numpy', 'pandas', 'skops', 'onnxruntime', 'keras', 'tensorflow'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "from harness.teachers import FunctionTeacher, KerasTeacher, OnnxTeacher, SklearnTeacher, StoredOutputs\n"
        "assert not {'skops', 'onnxruntime', 'keras', 'tensorflow'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment(), check=True, capture_output=True)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        harness.teachers.Nothing  # noqa: B018


def test_inputs_of_a_dict_are_laid_beside_one_another() -> None:
    given = {"a": torch.ones(2, 3), "b": torch.zeros(2, 1, 2)}
    assert flat_inputs(given).tolist() == [[1, 1, 1, 0, 0]] * 2


def test_a_missing_library_is_named_with_what_installs_it() -> None:
    told = str(missing_extra("skops", "sklearn", "keeping it"))
    assert told == (
        "keeping it needs skops, which is not installed; pip install skops (kd-harness[sklearn] has all it needs)."
    )


class TakesSums(Digits):
    """Digits whose teacher takes the sum of a picture's pixels."""

    def teacher_inputs(self, inputs: Inputs) -> Tensor:
        assert isinstance(inputs, Tensor)
        return inputs.sum((1, 2, 3))


def sums_in_each_class(sums: Tensor) -> Tensor:
    assert sums.ndim == 1
    return sums[:, None] * torch.arange(10)


class OfFunction(TakesSums):
    def teacher(self) -> FunctionTeacher:  # type: ignore[override]
        return FunctionTeacher(sums_in_each_class, digest="sums")


class SaidTwice(TakesSums):
    def teacher(self) -> FunctionTeacher:  # type: ignore[override]
        return FunctionTeacher(sums_in_each_class, digest="sums", inputs=lambda inputs: inputs)


def built(task: Digits, folder: Path, *teachers: Path) -> BlackBoxTeacher:
    settings = Settings(space_name="s", study="s", runs_dir=folder, teachers=teachers)
    given = build_teacher(replace(SPACE, task=task), task.data(None), settings)
    assert isinstance(given, BlackBoxTeacher)
    return given


def test_a_task_says_what_its_teacher_takes(tmp_path: Path) -> None:
    data = SPACE.task.data(None)
    given = built(OfFunction(), tmp_path)
    found = outputs(given, ground(data, classes=10, names=()), "val")["val"]
    inputs = data.splits["val"].inputs
    assert isinstance(inputs, Tensor)
    torch.testing.assert_close(found, inputs.flatten(1).sum(1)[:, None] * torch.arange(10.0))


def test_a_task_says_what_a_teacher_in_a_file_takes(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="pip install 'kd-harness[onnx]'")
    pytest.importorskip("onnxruntime", reason="pip install 'kd-harness[onnx]'")
    kinds = onnx.TensorProto
    helper = onnx.helper
    graph = helper.make_graph(
        [
            helper.make_node("Unsqueeze", ["sums", "last"], ["column"]),
            helper.make_node("Mul", ["column", "row"], ["y"]),
        ],
        "sums",
        [helper.make_tensor_value_info("sums", kinds.FLOAT, ["batch"])],
        [helper.make_tensor_value_info("y", kinds.FLOAT, ["batch", 10])],
        [
            helper.make_tensor("last", kinds.INT64, [1], [1]),
            helper.make_tensor("row", kinds.FLOAT, [1, 10], [float(place) for place in range(10)]),
        ],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(made, tmp_path / "sums.onnx")
    data = SPACE.task.data(None)
    on = ground(data, classes=10, names=())
    found = outputs(built(TakesSums(), tmp_path, tmp_path / "sums.onnx"), on, "val")["val"]
    inputs = data.splits["val"].inputs
    assert isinstance(inputs, Tensor)
    torch.testing.assert_close(found, inputs.flatten(1).sum(1)[:, None] * torch.arange(10.0))
    with pytest.raises(HarnessError, match=r"takes 'sums' of shape .*teacher_inputs\(\)"):
        built(Digits(), tmp_path, tmp_path / "sums.onnx").prepare(on)


def test_what_a_teacher_takes_is_said_once(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match=r"has teacher_inputs\(\) and a FunctionTeacher with inputs="):
        built(SaidTwice(), tmp_path)
