"""The teacher that ``student()`` is handed is a frozen copy, and all that a student takes of it is in its state."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from optuna.distributions import FloatDistribution, IntDistribution
from torch import Tensor, nn

from harness.core.errors import Unfit
from harness.cost.counting import trainable_parameters
from harness.networks.handed_teacher import frozen, teacher_for_student
from harness.networks.student_checks import check_students
from harness.networks.students import build_student
from harness.preparation.origins import check_starts
from harness.space import SearchSpace
from harness.task import Task
from lightning_modules.data.tensors import Split, TensorDataModule
from lightning_modules.initial import Origins

Build = Callable[[int, nn.Module], nn.Module]


def a_teacher() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


def some_data(teacher: nn.Module | None = None) -> TensorDataModule:
    draw = torch.Generator().manual_seed(1)
    parts = [Split(torch.randn(size, 4, generator=draw), torch.arange(size) % 2) for size in (40, 20, 10)]
    data = TensorDataModule(**dict(zip(("train", "val", "test"), parts, strict=True)))
    data.origins = Origins(teacher)
    return data


class Handed(Task):
    def __init__(self, build: Build, teacher: Callable[[], Any] = a_teacher) -> None:
        self._build, self._teacher = build, teacher

    def data(self, data_dir: Path | None) -> TensorDataModule:
        return some_data()

    def teacher(self) -> nn.Module:
        return self._teacher()  # type: ignore[no-any-return]

    def student(self, *, width: int, teacher: nn.Module) -> nn.Module:
        return self._build(width, teacher)


def a_space(build: Build, **more: Any) -> SearchSpace:
    return SearchSpace(
        task=Handed(build, **more),
        student={"width": IntDistribution(2, 3)},
        distillation={"temperature": FloatDistribution(1, 9), "alpha": FloatDistribution(0, 1)},
    )


def by_structure(width: int, teacher: nn.Module) -> nn.Module:
    assert isinstance(teacher, nn.Sequential)
    return nn.Sequential(nn.Linear(4, width), nn.Linear(width, teacher[3].out_features))


def test_a_student_gets_a_copy_in_eval_mode_without_gradients() -> None:
    seen: list[nn.Module] = []

    def build(width: int, teacher: nn.Module) -> nn.Module:
        seen.append(teacher)
        with torch.no_grad():
            next(teacher.parameters()).fill_(9.0)  # of its own
        return by_structure(width, teacher)

    teacher = frozen(a_teacher())
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    for _ in range(2):
        build_student(a_space(build), {"width": 2}, some_data(teacher))
    assert not any(part.training for part in seen[0].modules())
    assert not any(value.requires_grad for value in seen[0].parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert seen[0] is not seen[1] is not teacher


def test_a_fresh_teacher_stands_in_where_none_is_at_hand_and_draws_nothing_of_the_student_s() -> None:
    space, states = a_space(by_structure), []
    for data in (some_data(), some_data(frozen(a_teacher()))):
        torch.manual_seed(3)
        states.append(build_student(space, {"width": 2}, data).state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert teacher_for_student(replace(space, task=Plain()), some_data()) is None


class Plain(Handed):
    def __init__(self) -> None:
        super().__init__(by_structure)

    def student(self, *, width: int) -> nn.Module:  # type: ignore[override]
        return nn.Linear(width, 2)


class Wrapped(nn.Module):
    """Keeps a part of its teacher, as a module or where no one sees it."""

    def __init__(self, teacher: nn.Module, *, hidden: bool) -> None:
        super().__init__()
        self.first = [teacher] if hidden else nn.ModuleList([teacher])
        self.last = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.last(self.first[0](x)))


def test_what_a_student_keeps_as_a_module_is_a_part_of_it() -> None:
    space, data = a_space(lambda width, teacher: Wrapped(teacher, hidden=False)), some_data(frozen(a_teacher()))
    assert list(check_starts(space, data)) == []
    check_students(space, data, lambda what: nullcontext())
    student = build_student(space, {"width": 2}, data)
    own, teachers = 2 * 2 + 2, 4 * 8 + 8 + 2 * 8 + 8 * 2 + 2
    assert sum(value.numel() for value in student.parameters()) == own + teachers
    assert trainable_parameters(student) == own


class Scaled(nn.Module):
    """Takes a number of its teacher that is in no state."""

    def __init__(self, width: int, teacher: nn.Module) -> None:
        super().__init__()
        self.scale = float(next(teacher.parameters()).detach().sum())
        self.last = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.scale * self.last(x))


def by_weights(width: int, teacher: nn.Module) -> nn.Module:
    """A width that training changes."""
    return by_structure(2 + int(next(teacher.parameters()).detach().sum().abs()), teacher)


@pytest.mark.parametrize("build", [lambda width, teacher: Wrapped(teacher, hidden=True), Scaled, by_weights])
def test_what_is_in_no_state_is_refused(build: Build) -> None:
    torch.manual_seed(0)
    with pytest.raises(Unfit, match=r"student\(width=2\) must keep what it takes of the teacher's weights in its own"):
        list(check_starts(a_space(build), some_data(frozen(a_teacher()))))


def test_a_teacher_that_is_no_network_can_not_be_handed() -> None:
    with pytest.raises(Unfit, match="a teacher that is a PyTorch network, but this one is a dict; leave the keyword"):
        build_student(a_space(by_structure, teacher=dict), {"width": 2}, some_data())
