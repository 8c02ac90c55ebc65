"""ONNX models teach, run by the real ONNX Runtime."""

from __future__ import annotations

import sys
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import pytest
import torch
from grounds import NAMES, clusters, ground, outputs
from torch import Tensor, nn

from harness.core.errors import HarnessError
from harness.teachers import OnnxTeacher
from harness.teachers.black_box import teacher_in
from lightning_modules.data.live import LiveTeacher

onnx = pytest.importorskip("onnx", reason="pip install 'kd-harness[onnx]'")
pytest.importorskip("onnxruntime", reason="pip install 'kd-harness[onnx]'")

DATA = clusters()


def model(weights: Tensor, *, softmax: bool = False, batch: Any = "n", second: bool = False) -> Any:
    """x (n, 4) → x · weights (n, 3), perhaps softmaxed, perhaps with the classes as a second output."""
    helper, kind = onnx.helper, onnx.TensorProto
    nodes = [helper.make_node("MatMul", ["x", "w"], ["scores" if softmax else "y"])]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["scores"], ["y"], axis=1))
    found = [helper.make_tensor_value_info("y", kind.FLOAT, [batch, 3])]
    if second:
        nodes.append(helper.make_node("ArgMax", ["y"], ["label"], axis=1, keepdims=0))
        found.insert(0, helper.make_tensor_value_info("label", kind.INT64, [batch]))
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("x", kind.FLOAT, [batch, 4])],
        found,
        [onnx.numpy_helper.from_array(weights.numpy(), "w")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made)
    return made


@pytest.fixture
def weights() -> Tensor:
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


def saved(folder: Path, made: Any, name: str = "model.onnx") -> Path:
    onnx.save(made, folder / name)
    return folder / name


def expected(weights: Tensor, split: str) -> Tensor:
    inputs = DATA.splits[split].inputs
    assert isinstance(inputs, Tensor)
    return inputs @ weights


def test_its_answers_are_those_of_the_same_sum_in_torch(tmp_path: Path, weights: Tensor) -> None:
    given = teacher_in(saved(tmp_path, model(weights)), NAMES)
    assert isinstance(given, OnnxTeacher)
    for split, logits in outputs(given, ground(DATA)).items():
        torch.testing.assert_close(logits, expected(weights, split))
    size = (tmp_path / "model.onnx").stat().st_size / 1e6
    assert given.costs() == {"parameters": 12, "size_mb": size}


@pytest.mark.slow
def test_a_network_that_torch_exports_teaches(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    network = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).eval()
    size = torch.export.Dim("size")
    torch.onnx.export(
        network, (torch.zeros(2, 4),), tmp_path / "net.onnx", dynamo=True, dynamic_shapes=({0: size},), verbose=False
    )
    given = OnnxTeacher(tmp_path / "net.onnx")
    inputs = DATA.splits["val"].inputs
    assert isinstance(inputs, Tensor)
    with torch.no_grad():
        torch.testing.assert_close(outputs(given, ground(DATA))["val"], network(inputs))
    assert given.costs()["parameters"] == 4 * 5 + 5 + 5 * 3 + 3


def test_it_is_asked_live_here_and_in_a_worker(tmp_path: Path, weights: Tensor) -> None:
    teacher = OnnxTeacher(saved(tmp_path, model(weights)))
    teacher.prepare(ground(DATA))
    asked, inputs = LiveTeacher([teacher.live_network()], average=max), torch.randn(5, 4)
    for one in (asked, ForkingPickler.loads(ForkingPickler.dumps(asked))):
        torch.testing.assert_close(one(inputs)["logits"], inputs @ weights)


def test_probabilities_are_seen_and_said(tmp_path: Path, weights: Tensor) -> None:
    notes: list[str] = []
    given = OnnxTeacher(saved(tmp_path, model(weights, softmax=True)))
    found = outputs(given, ground(DATA, note=notes.append))["val"]
    torch.testing.assert_close(found, expected(weights, "val").log_softmax(1))
    assert notes == ["model.onnx answers with probabilities: their logarithms are stored as its logits"]
    as_logits = outputs(OnnxTeacher(tmp_path / "model.onnx", kind="logits"), ground(DATA))["val"]
    torch.testing.assert_close(as_logits, expected(weights, "val").softmax(1))


def test_a_fixed_batch_size_is_met(tmp_path: Path, weights: Tensor) -> None:
    given = OnnxTeacher(saved(tmp_path, model(weights, batch=4)))
    for split, logits in outputs(given, ground(DATA)).items():  # 10 of 4 are 2 whole batches and a half
        torch.testing.assert_close(logits, expected(weights, split))


def test_of_several_outputs_the_rows_of_numbers_are_taken(tmp_path: Path, weights: Tensor) -> None:
    notes: list[str] = []
    file = saved(tmp_path, model(weights, second=True))
    found = outputs(OnnxTeacher(file), ground(DATA, note=notes.append))["val"]
    torch.testing.assert_close(found, expected(weights, "val"))
    assert notes == ["model.onnx has several outputs (label, y): y is taken"]
    with pytest.raises(HarnessError, match="has no output 'z', but label, y"):
        OnnxTeacher(file, output="z").prepare(ground(DATA))
    with pytest.raises(HarnessError, match=r"one row of numbers for each sample, but gives shape \(15,\)"):
        OnnxTeacher(file, output="label").prepare(ground(DATA))


def test_other_weights_are_another_teacher(tmp_path: Path, weights: Tensor) -> None:
    digests = set()
    for place, numbers in enumerate((weights, weights.clone(), weights + 1e-4)):
        (tmp_path / str(place)).mkdir()
        given = OnnxTeacher(saved(tmp_path / str(place), model(numbers)))
        given.prepare(ground(DATA))
        digests.add(given.start(DATA).digest)
    assert len(digests) == 2


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        (lambda x: x[:, :3].numpy(), r"takes 'x' of shape \(\*, 4\), but is given \(15, 3\)"),
        (lambda x: {"a": x.numpy()}, "takes x, but is given a"),
        (lambda x: x[:, None].numpy(), r"of shape \(\*, 4\), but is given \(15, 1, 4\)"),
        (lambda x: x.nonsense, "can't answer: AttributeError"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(tmp_path: Path, weights: Tensor, inputs: Any, told: str) -> None:
    with pytest.raises(HarnessError, match=told):
        OnnxTeacher(saved(tmp_path, model(weights)), inputs=inputs).prepare(ground(DATA))


def test_other_classes_are_refused(tmp_path: Path, weights: Tensor) -> None:
    with pytest.raises(HarnessError, match=r"one row of 2 numbers each, .* shape \(10, 3\)"):
        outputs(OnnxTeacher(saved(tmp_path, model(weights))), ground(DATA, classes=2))


def test_files_that_are_no_models_are_refused(tmp_path: Path) -> None:
    (tmp_path / "no.onnx").write_text("nothing")
    with pytest.raises(HarnessError, match=r"must be a model that ONNX Runtime runs, but"):
        OnnxTeacher(tmp_path / "no.onnx").prepare(ground(DATA))
    with pytest.raises(HarnessError, match="but there is no"):
        OnnxTeacher(tmp_path / "nowhere.onnx").prepare(ground(DATA))


def test_a_missing_library_is_named_with_its_extra(
    tmp_path: Path, weights: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = saved(tmp_path, model(weights))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(HarnessError, match=r"needs onnxruntime, which is not installed; .* \(kd-harness\[onnx"):
        OnnxTeacher(file).prepare(ground(DATA))
