"""The `initial` group: what may stand in it, who carries it, and that neither it nor the teacher shapes a student."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import pytorch_lightning as pl
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import RandomSampler
from torch import nn

from harness.core.errors import HarnessError
from harness.sampling.candidates import SpaceEncoder
from harness.sampling.first_trials import first_trials
from harness.space import SearchSpace
from harness.space_initial import start_files
from harness.task import Task
from search_spaces.digits import SPACE

STARTS = CategoricalDistribution(["scratch", "pruned", "own.safetensors"])


def with_starts(**more: Any) -> SearchSpace:
    return replace(SPACE, initial={"start": STARTS}, **more)


def test_a_trial_has_a_start_that_is_no_part_of_its_architecture() -> None:
    space, study = with_starts(), optuna.create_study(sampler=RandomSampler(0))
    seen = set()
    for _ in range(20):
        configuration = space.suggest(study.ask())
        params = configuration.params()
        seen.add(params["start"])
        assert configuration.initial == {"start": params["start"]}
        assert space.configuration(params) == configuration and space.branch_of(params) is not None
        assert space.architecture_of(params) == space.building(params) == configuration.student
        assert space.labels_alone(configuration).initial == configuration.initial  # its control starts alike
    assert seen == set(STARTS.choices)
    assert space.architectures(limit=99) == SPACE.architectures(limit=99)
    assert space.groups["initial"] == ["start"] and "initial" not in SPACE.groups


def test_a_study_is_bound_to_the_starts_of_its_space() -> None:
    assert with_starts().declaration() != SPACE.declaration()
    assert with_starts().declaration()["start"]["attributes"]["choices"] == list(STARTS.choices)
    assert SPACE.configuration(SPACE.middle()).initial == {}


def test_recipes_begin_with_the_first_start() -> None:
    space = with_starts()
    assert space.middle()["start"] == "scratch"
    assert {recipe["start"] for recipe in first_trials(space).values()} == {"scratch"}


def test_a_start_may_be_held() -> None:
    held = with_starts().fixed({"start": "pruned"})
    assert held.middle()["start"] == "pruned" and held.needs_teacher
    assert not with_starts().fixed({"start": "scratch"}).needs_teacher
    with pytest.raises(HarnessError, match="start"):
        with_starts().fixed({"start": "layers"})


def test_points_of_candidates_hold_the_start() -> None:
    space, rng = with_starts(), np.random.default_rng(0)
    encoder = SpaceEncoder(space)
    for candidates in encoder.sample(rng, 9):
        for place in range(len(candidates)):
            np.testing.assert_allclose(encoder.encode(candidates[place]), candidates.points[place])
    one = space.middle()
    assert not np.array_equal(encoder.encode(one), encoder.encode(one | {"start": "pruned"}))


@pytest.mark.parametrize(
    ("initial", "message"),
    [
        ({"begin": STARTS}, "initial must name 'start' alone, but got 'begin'"),
        ({"start": IntDistribution(0, 1)}, "start must be a CategoricalDistribution"),
        ({"start": CategoricalDistribution(["layer"])}, "start must be one of scratch, layers, pruned, or a file"),
        ({"start": CategoricalDistribution(["weights.pt"])}, "a file that ends in .safetensors, but got 'weights.pt'"),
    ],
)
def test_what_is_no_start_is_refused(initial: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SPACE, initial=initial)


def test_start_stands_in_one_group() -> None:
    with pytest.raises(ValueError, match="one group only, but got start in several"):
        with_starts(student={"start": IntDistribution(1, 2)})


def test_files_are_found_beside_the_space_file_and_else_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "spaces").mkdir()
    beside, here = tmp_path / "spaces" / "own.safetensors", Path("own.safetensors")
    monkeypatch.chdir(tmp_path)
    files = {"start": STARTS}
    assert start_files(files, tmp_path / "spaces" / "a.py") == {"own.safetensors": here}
    beside.touch()
    assert start_files(files, tmp_path / "spaces" / "a.py") == {"own.safetensors": beside}
    assert start_files(files, None) == {"own.safetensors": here} and start_files({}, None) == {}


class Handed(Task):
    data = teacher = lambda self, *arguments: None  # type: ignore[assignment]

    def student(self, *, width: int, teacher: nn.Module) -> nn.Module:
        return nn.Linear(width, teacher.out_features)  # type: ignore[arg-type]


def handed(task: Task | None = None, **student: Any) -> SearchSpace:
    names = {"width": IntDistribution(1, 3), **student}
    return SearchSpace(
        task=task or Handed(),
        student=names,
        distillation={"alpha": FloatDistribution(0, 1), "temperature": FloatDistribution(1, 2)},
    )


def test_the_teacher_is_handed_and_is_no_parameter() -> None:
    space = handed()
    assert space.hands_teacher and space.needs_teacher and "teacher" not in space.distributions
    student = space.build_student({"width": 2}, nn.Linear(1, 7))
    assert isinstance(student, nn.Linear) and (student.in_features, student.out_features) == (2, 7)
    assert not SPACE.hands_teacher and not SPACE.needs_teacher
    with pytest.raises(ValueError, match="student must not name 'teacher', which student"):
        handed(teacher=IntDistribution(1, 2))


def test_a_module_is_handed_the_teacher_and_no_start() -> None:
    class OwnTask(Task):
        data = teacher = lambda self, *arguments: None  # type: ignore[assignment]

        def module(self, *, width: int, alpha: float, teacher: nn.Module) -> pl.LightningModule:
            self.given = (width, alpha, teacher)
            return pl.LightningModule()

    task, teacher = OwnTask(), nn.Linear(1, 1)
    space = SearchSpace(
        task=task,
        student={"width": IntDistribution(1, 3)},
        distillation={"alpha": FloatDistribution(0, 1)},
        initial={"start": STARTS},
    )
    params = {"width": 3, "alpha": 0.25, "start": "pruned"}
    assert space.building(params) == {"width": 3, "alpha": 0.25}
    space.build_student(params, teacher)
    assert task.given == (3, 0.25, teacher)
