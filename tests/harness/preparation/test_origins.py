"""What students start from is found, checked and told before anything trains, and is part of what a study is."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from optuna.distributions import CategoricalDistribution
from safetensors.torch import save_file
from torch import nn

from harness.core.errors import HarnessError, TrialFailed
from harness.preparation.origins import check_starts, file_starts, find_origins, trained_origins
from harness.settings import Settings
from harness.space import SearchSpace
from harness.students.training import begin_student
from harness.teachers.kinds.function import FunctionTeacher
from lightning_modules.data.tensors import TensorDataModule
from lightning_modules.initial import Origins
from search_spaces.digits import SPACE, Digits


class Small(Digits):
    def teacher(self) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 10))

    def student(self, *, width: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


def a_space(*starts: str, task: Any = None, widths: tuple[int, ...] = (3, 4)) -> SearchSpace:
    return replace(
        SPACE,
        task=task or Small(),
        student={"width": CategoricalDistribution(list(widths))},
        initial={"start": CategoricalDistribution(list(starts))},
    )


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(space_name="space", study="s", space_file=tmp_path / "space.py", runs_dir=tmp_path / "mlruns")


@pytest.fixture
def data() -> TensorDataModule:
    return Small().data(None)


def test_each_start_is_told_once_with_what_is_drawn(data: TensorDataModule, settings: Settings) -> None:
    space = a_space("scratch", "layers", "pruned")
    data.origins = find_origins(space, data, settings)
    assert list(check_starts(space, data)) == [
        "layers: of student(width=3) 10 of 235 parameters, 1 of 4 tensors; its 1.weight and 2 more are drawn",
        "pruned: of student(width=3) 235 of 235 parameters, 4 of 4 tensors",
    ]


def test_a_teacher_is_at_hand_only_where_a_space_needs_it(data: TensorDataModule, settings: Settings) -> None:
    drawn = torch.get_rng_state()
    assert find_origins(SPACE, data, settings).teacher is None
    teacher = find_origins(a_space("layers"), data, settings).teacher
    assert teacher is not None and not teacher.training
    assert torch.equal(torch.get_rng_state(), drawn)


def test_the_trained_teacher_replaces_the_one_that_stood_in(data: TensorDataModule, settings: Settings) -> None:
    made: Any = SimpleNamespace(network=Small().teacher())
    before = find_origins(a_space("pruned"), data, settings)
    assert trained_origins(before, made).teacher is made.network  # on the CPU, where nothing trains it
    assert not any(value.requires_grad for value in made.network.parameters())
    assert trained_origins(Origins(), made).teacher is None


def test_a_student_that_starts_pruned_begins_with_the_teacher_s_numbers(data: TensorDataModule) -> None:
    space, teacher = a_space("scratch", "pruned"), Small().teacher().eval()
    data.origins = Origins(teacher)
    drawn, cut = (
        begin_student(space.configuration(space.middle() | {"start": start}), space, data, seed=4)
        for start in ("scratch", "pruned")
    )
    assert drawn[1] is None and cut[1] is not None
    assert torch.equal(cut[0].state_dict()["3.bias"], teacher.state_dict()["3.bias"])
    fresh, _ = begin_student(SPACE_OF_SCRATCH.configuration(SPACE_OF_SCRATCH.middle()), SPACE_OF_SCRATCH, data, seed=4)
    assert all(torch.equal(value, drawn[0].state_dict()[name]) for name, value in fresh.state_dict().items())


SPACE_OF_SCRATCH = replace(a_space("scratch"), initial={})


def test_a_start_that_is_impossible_fails_its_trial_alone(data: TensorDataModule) -> None:
    space = a_space("layers", task=Renamed())
    data.origins = Origins(Small().teacher())
    with pytest.raises(TrialFailed, match="start=layers is impossible: a student that starts from its teacher must"):
        begin_student(space.configuration(space.middle()), space, data, seed=0)


class Renamed(Small):
    def student(self, *, width: int) -> nn.Module:
        parts = {"body": nn.Linear(64, width), "head": nn.Linear(width, 10)}
        return nn.Sequential(OrderedDict([("flat", nn.Flatten()), *parts.items()]))


def test_a_space_whose_students_match_nothing_is_refused_in_one_line(
    data: TensorDataModule, settings: Settings
) -> None:
    space = a_space("layers", task=Renamed())
    data.origins = find_origins(space, data, settings)
    with pytest.raises(HarnessError) as refused:
        list(check_starts(space, data))
    assert "student(width=3) can't begin with start=layers" in str(refused.value)
    assert "none of body.weight, body.bias, head.weight, .. is in the teacher" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_no_student_starts_from_an_ensemble_or_from_what_is_no_network(
    data: TensorDataModule, settings: Settings
) -> None:
    two = replace(settings, trained_teachers=2)
    with pytest.raises(HarnessError, match=r"students start from one teacher, but there are 2; .* hold start=scratch"):
        find_origins(a_space("pruned"), data, two)
    find_origins(a_space("scratch"), data, two)

    class Asked(Small):
        def teacher(self) -> Any:
            return FunctionTeacher(lambda inputs: inputs, digest="a")

    with pytest.raises(HarnessError, match="a teacher that is a PyTorch network, but this one is a FunctionTeacher"):
        find_origins(a_space("pruned", task=Asked()), data, settings)


def test_a_file_is_read_before_anything_trains_and_its_content_is_part_of_the_study(
    data: TensorDataModule, settings: Settings, tmp_path: Path
) -> None:
    space, file = a_space("scratch", "w.safetensors", widths=(3,)), tmp_path / "w.safetensors"
    with pytest.raises(
        HarnessError, match=r"start=w\.safetensors must be a file of safetensors, beside the space file"
    ):
        find_origins(space, data, settings)
    digests = []
    for value in (0.5, 0.5, 0.75):
        save_file({"1.bias": torch.full((3,), value)}, file)
        data.origins = find_origins(space, data, settings)
        digests.append(file_starts(data.origins)["start=w.safetensors"])
    assert digests[0] == digests[1] != digests[2]
    told = "w.safetensors: of student(width=3) 3 of 235 parameters, 1 of 4 tensors; its 1.weight and 2 more are drawn"
    assert list(check_starts(space, data)) == [told]
    configuration = space.configuration(space.middle() | {"start": "w.safetensors"})
    student, _ = begin_student(configuration, space, data, seed=0)
    assert student.state_dict()["1.bias"].tolist() == [0.75] * 3


def test_a_file_that_fits_only_some_of_the_students_is_refused(
    data: TensorDataModule, settings: Settings, tmp_path: Path
) -> None:
    save_file({"1.bias": torch.zeros(3)}, tmp_path / "w.safetensors")
    space = a_space("w.safetensors")
    data.origins = find_origins(space, data, settings)
    with pytest.raises(HarnessError, match=r"student\(width=4\) can't .*'1.bias' is \[3\], and the student's \[4\]"):
        list(check_starts(space, data))
