"""A student of an earlier study as a teacher: known by its file, checked, and none but a student of the space."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import EXAMPLE
from optuna.distributions import CategoricalDistribution
from safetensors.torch import save_file
from torch import Tensor, nn

from harness.core.content import tensors_digest
from harness.core.errors import HarnessError
from harness.cost.table import key_of
from harness.networks.students import build_student
from harness.space import SearchSpace, load_space
from harness.students.kept import is_student
from harness.teachers.assistant import load_assistant
from lightning_modules.initial import Origins


@pytest.fixture
def space(tmp_path: Path) -> SearchSpace:
    (tmp_path / "cancer.py").write_text(EXAMPLE)
    return load_space(tmp_path / "cancer.py")


@pytest.fixture
def state(space: SearchSpace) -> dict[str, Tensor]:
    torch.manual_seed(5)
    return dict(space.task.student(width=4).state_dict())


def kept(folder: Path, state: dict[str, Tensor], **changed: str) -> Path:
    """A file as a trial leaves it, but for what is changed."""
    metadata = {"space": "cancer", "architecture": key_of({"width": 4}), "digest": tensors_digest(state)}
    save_file(state, folder / "student.safetensors", metadata=metadata | changed)
    return folder / "student.safetensors"


def refused(file: Path, space: SearchSpace) -> str:
    with pytest.raises(HarnessError) as raised:
        load_assistant(file, space, space.task.data(None), "cancer")
    return str(raised.value)


def test_a_student_is_built_and_filled(tmp_path: Path, space: SearchSpace, state: dict[str, Tensor]) -> None:
    loaded = load_assistant(kept(tmp_path, state), space, space.task.data(None), "cancer").state_dict()
    assert set(loaded) == set(state) and all(torch.equal(loaded[name], state[name]) for name in state)


def test_a_student_that_was_handed_another_teacher_is_built_beside_the_task_s_own(
    tmp_path: Path, space: SearchSpace
) -> None:
    class Handed(type(space.task)):  # type: ignore[misc]
        def teacher(self) -> nn.Module:
            return nn.Sequential(nn.Linear(30, 5), nn.Linear(5, 2))

        def student(self, *, width: int, teacher: nn.Sequential) -> nn.Module:
            return nn.Sequential(nn.Linear(30, width), nn.Linear(width, teacher[1].in_features), nn.Linear(5, 2))

    handed = replace(space, task=Handed())
    data = handed.task.data(None)
    state = dict(build_student(handed, {"width": 4}, data).state_dict())
    data.origins = Origins(nn.Sequential(nn.Linear(30, 7), nn.Linear(7, 2)))  # as the assistant itself would be
    loaded = load_assistant(kept(tmp_path, state, digest=tensors_digest(state)), handed, data, "cancer").state_dict()
    assert all(torch.equal(loaded[name], state[name]) for name in state)


def test_a_student_is_told_from_other_checkpoints(tmp_path: Path, state: dict[str, Tensor]) -> None:
    assert is_student(kept(tmp_path, state))
    save_file(state, tmp_path / "plain.safetensors")
    save_file(state, tmp_path / "teacher.safetensors", metadata={"key": "k", "digest": tensors_digest(state)})
    torch.save(state, tmp_path / "teacher.ckpt")
    (tmp_path / "noise.ckpt").write_bytes(b"noise")
    for name in ("plain.safetensors", "teacher.safetensors", "teacher.ckpt", "noise.ckpt", "none.ckpt"):
        assert not is_student(tmp_path / name), name


def test_a_student_of_another_space_is_refused(tmp_path: Path, space: SearchSpace, state: dict[str, Tensor]) -> None:
    file = kept(tmp_path, state, space="other")
    assert refused(file, space) == (
        f"--teacher {file} must be a student of the space 'cancer' to teach there, but is one of 'other'; a study of "
        "'cancer' can train one."
    )


def test_a_student_that_was_changed_is_refused(tmp_path: Path, space: SearchSpace, state: dict[str, Tensor]) -> None:
    file = kept(tmp_path, state, digest="0123456789abcdef")
    assert "must be as its trial left it, but its content does not match its hash" in refused(file, space)
    whole = kept(tmp_path, state).read_bytes()
    file.write_bytes(whole[:-7] + bytes(7))
    assert "its content does not match its hash" in refused(file, space)


def test_a_student_that_the_task_does_not_build_is_refused(
    tmp_path: Path, space: SearchSpace, state: dict[str, Tensor]
) -> None:
    error = refused(kept(tmp_path, state, architecture=key_of({"depth": 4})), space)
    assert "must be a student of the space's parameters (width), but is student(depth=4); train it again" in error
    error = refused(kept(tmp_path, state, architecture=key_of({"width": 5})), space)
    assert "but its student(width=5) fails: RuntimeError: Error(s) in loading state_dict" in error


@pytest.mark.filterwarnings("ignore:Choices for a categorical distribution")
def test_a_student_whose_choices_are_no_json_is_built_as_its_trial_was(tmp_path: Path, space: SearchSpace) -> None:
    class Shaped(type(space.task)):  # type: ignore[misc]
        def student(self, *, shape: tuple[int, ...]) -> nn.Module:
            return nn.Sequential(nn.Linear(30, shape[0]), nn.Linear(shape[0], 2))

    shapes = replace(space, task=Shaped(), student={"shape": CategoricalDistribution([(4, 4), (8, 8)])})
    shape = shapes.middle()["shape"]
    state = dict(shapes.build_student({"shape": shape}).state_dict())
    file = kept(tmp_path, state, architecture=key_of({"shape": shape}), digest=tensors_digest(state))
    loaded = load_assistant(file, shapes, space.task.data(None), "cancer")
    assert len(loaded[0].weight) == len(state["0.weight"])
