"""The file of a student: what it was built from, and what it was handed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from harness.networks.students import build_student
from harness.space import Configuration, SearchSpace
from harness.students.kept import build_kept, metadata_of, read_metadata
from lightning_modules.data.tensors import TensorDataModule
from lightning_modules.initial import Origins
from search_spaces.digits import SPACE, Digits


class Halves(Digits):
    """A student is half as wide as the teacher that it is handed."""

    def teacher(self) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Linear(32, 10))

    def student(self, *, width: int, teacher: Any) -> nn.Module:
        half = teacher[1].out_features // 2
        return nn.Sequential(nn.Flatten(), nn.Linear(64, half), nn.Linear(half, 10))


@pytest.fixture(scope="module")
def data() -> TensorDataModule:
    return Digits().data(None)


def saved(space: SearchSpace, data: TensorDataModule, file: Path, teacher: Path | None) -> nn.Module:
    """A student in a file, of a study whose teacher is in another one."""
    own = TensorDataModule(**data.splits)
    own.origins = Origins(None if teacher is None else build_kept(read_metadata(teacher), space, data))
    network = build_student(space, {"width": 4}, own)
    settings: Any = SimpleNamespace(space_name="digits", teachers=() if teacher is None else (teacher,))
    configuration, state = Configuration({"width": 4}, {}, {}), dict(network.state_dict())
    save_file(state, file, metadata_of(configuration, space, settings, state))
    return network


def test_a_chain_of_students_that_were_handed_one_another_is_built_again(
    tmp_path: Path, data: TensorDataModule
) -> None:
    space, before = replace(SPACE, task=Halves()), None
    for place, width in enumerate((16, 8, 4)):
        file = tmp_path / f"{place}.safetensors"
        network = saved(space, data, file, before)
        assert network[1].out_features == width  # type: ignore[index]
        torch.manual_seed(place)
        again = build_kept(read_metadata(file), space, data)
        again.load_state_dict(network.state_dict())
        before = file
    first = read_metadata(tmp_path / "0.safetensors")
    assert "handed" not in first and set(first) == {"space", "architecture", "digest"}


def test_a_student_that_asks_for_no_teacher_does_not_say_what_that_was(tmp_path: Path, data: TensorDataModule) -> None:
    saved(SPACE, data, tmp_path / "one.safetensors", None)
    saved(SPACE, data, tmp_path / "two.safetensors", tmp_path / "one.safetensors")
    assert "handed" not in read_metadata(tmp_path / "two.safetensors")
