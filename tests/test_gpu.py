"""Training on a GPU: as on the CPU, in bfloat16, with a live teacher, with readers, and resumed.

They skip where there is no GPU. ``KD_GPU_TESTS_ON=cpu`` runs them with the CPU in its place, which shows that they are
not broken, and nothing of a GPU. Tolerances were chosen before any of them ran on a GPU.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from harness.core.content import tensors_digest
from harness.core.errors import Interrupted
from harness.space import Configuration, SearchSpace
from harness.teachers.outputs import run_teacher
from harness.training.fit import EpochListener, device_of
from harness.training.tensor_file import cpu_state
from harness.trials.trial import TrainingSpec, ordered_logits, train_student
from lightning_modules.data import DatasetDataModule, TensorDataModule
from lightning_modules.data.live import LiveTeacher
from lightning_modules.training import Training
from search_spaces.digits import SPACE, Digits

ACCELERATOR = os.environ.get("KD_GPU_TESTS_ON", "cuda")
REASON = "no GPU that PyTorch can use is here; KD_GPU_TESTS_ON=cpu tries these tests with the CPU"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(ACCELERATOR != "cpu" and not torch.cuda.is_available(), reason=REASON),
    pytest.mark.usefixtures("exact", "kept_each_epoch"),
]

SHORT = replace(SPACE, epochs=3)
STUDENT = Configuration({"width": 8}, {"temperature": 4.0, "alpha": 0.3}, {"learning_rate": 0.01})
SPEC = TrainingSpec(configuration=STUDENT, seed=1, order_seed=2)


class Half(Digits):
    """Digits, trained in bfloat16."""

    training: ClassVar[Training] = Training(precision="bf16-mixed")


@pytest.fixture
def exact() -> Iterator[None]:
    """Convolutions and products in whole float32, by the same algorithm each time."""
    backends: Any = torch.backends
    before = backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32, backends.cudnn.deterministic
    backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32, backends.cudnn.deterministic = False, False, True
    yield
    backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32, backends.cudnn.deterministic = before


def accelerator() -> str:
    return "cpu" if ACCELERATOR == "cpu" else "gpu"


def teacher() -> nn.Module:
    """A teacher that answers something of each digit, whose weights are drawn."""
    torch.manual_seed(0)
    return SPACE.task.teacher().eval().requires_grad_(False)


def on(device: torch.device, data: TensorDataModule, *, live: bool = False) -> TensorDataModule:
    """The data on a device, with the teacher's outputs, or with the teacher."""
    network = teacher()
    outputs = run_teacher(network, data)
    data.attach({"val": outputs["val"]} if live else outputs)
    data.move_to(device)
    if live:
        data.live = LiveTeacher([network.to(device)], average=lambda logits: logits[0])
    return data


def digits(where: str, *, live: bool = False) -> TensorDataModule:
    return on(device_of(where), SPACE.task.data(None), live=live)


def trained(
    data: TensorDataModule,
    folder: Path,
    *,
    space: SearchSpace = SHORT,
    listeners: Sequence[EpochListener] | None = None,
) -> nn.Module:
    """A student trained on the device of the data."""
    folder.mkdir(exist_ok=True)
    where = "cpu" if data.device.type == "cpu" else "gpu"
    prepared: Any = SimpleNamespace(data=data, classes=10)
    return train_student(SPEC, space, prepared, folder=folder, accelerator=where, listeners=listeners)


def answers(student: nn.Module, data: TensorDataModule) -> Tensor:
    return ordered_logits(student.to(data.device), data, "val").cpu()


def accuracy(logits: Tensor, data: TensorDataModule) -> float:
    return float((logits.argmax(1) == data.splits["val"].labels.cpu()).float().mean())


def test_a_student_trained_on_the_device_is_that_of_the_cpu_within_rounding(tmp_path: Path) -> None:
    here, there = digits("cpu"), digits(accelerator())
    assert there.splits["train"].labels.device.type == device_of(accelerator()).type
    expected = answers(trained(here, tmp_path / "cpu"), here)
    found = answers(trained(there, tmp_path / "gpu"), there)
    # Rounding grows with each step; the answers are those of one student all the same.
    assert float((found - expected).abs().mean() / expected.abs().mean()) < 0.05
    assert float((found.argmax(1) == expected.argmax(1)).float().mean()) > 0.97


def test_a_student_trained_in_bfloat16_is_kept_in_float32_and_is_as_good(tmp_path: Path) -> None:
    data = digits(accelerator())
    whole = accuracy(answers(trained(data, tmp_path / "whole"), data), data)
    student = trained(data, tmp_path / "half", space=replace(SHORT, task=Half()))
    assert {value.dtype for value in student.parameters()} == {torch.float32}
    found = answers(student, data)
    assert bool(found.isfinite().all()) and accuracy(found, data) > whole - 0.05


def test_a_live_teacher_on_the_device_teaches_what_its_stored_outputs_teach(tmp_path: Path) -> None:
    stored, live = digits(accelerator()), digits(accelerator(), live=True)
    expected = answers(trained(stored, tmp_path / "stored"), stored)
    found = answers(trained(live, tmp_path / "live"), live)
    assert float((found - expected).abs().mean() / expected.abs().mean()) < 0.05
    assert live.live is not None and "train" not in live.teacher_outputs


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_samples_that_workers_read_come_to_the_device_and_train_as_those_in_memory(tmp_path: Path) -> None:
    memory = digits(accelerator())
    parts: dict[str, Any] = {}
    for name, split in SPACE.task.data(None).splits.items():
        assert isinstance(split.inputs, Tensor)
        parts[name] = TensorDataset(split.inputs, split.labels)
    read = on(memory.device, DatasetDataModule(**parts, batch_size=64, eval_batch_size=512, workers=2))
    (first,) = next(iter(read.train_dataloader()))
    assert isinstance(first.inputs, Tensor)
    places = {one.device.type for one in (first.inputs, first.target, first.ids, first.teacher["logits"])}
    assert places == {memory.device.type}
    expected = answers(trained(memory, tmp_path / "memory"), memory)
    found = answers(trained(read, tmp_path / "read"), read)
    assert float((found - expected).abs().mean() / expected.abs().mean()) < 0.05


def test_a_training_that_is_cut_goes_on_to_the_same_bits_on_the_device(tmp_path: Path) -> None:
    data = digits(accelerator())

    def digest(folder: str, listeners: Sequence[EpochListener] | None = None) -> str:
        return tensors_digest(cpu_state(trained(data, tmp_path / folder, listeners=listeners)))

    undisturbed = digest("undisturbed")
    if digest("again") != undisturbed:
        pytest.skip("two trainings without a cut differ on this device: its kernels are not deterministic")
    epochs = []

    def cut(epoch: int, metrics: dict[str, float]) -> None:
        epochs.append(epoch)
        if epoch == 1:
            raise Interrupted(2)

    with pytest.raises(Interrupted):
        digest("cut", [cut])
    assert digest("cut", [lambda epoch, metrics: epochs.append(epoch)]) == undisturbed
    assert epochs == [0, 1, 1, 2]
