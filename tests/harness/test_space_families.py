"""Families of students: which parameters a trial has, which architectures there are, and a search over them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
from conftest import search
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import RandomSampler

from harness import Choice
from harness.core.errors import HarnessError
from harness.networks.architectures import axes_of, corners, outer_architectures
from harness.sampling.candidates import ABSENT, SpaceEncoder
from harness.space import SearchSpace
from search_spaces.digits import SPACE

WIDTH, DEPTH = IntDistribution(1, 3), IntDistribution(1, 2)
FAMILIES = Choice("family", wide={"width": WIDTH}, deep={"width": WIDTH, "depth": DEPTH}, plain={})


def of_families(student: Any = FAMILIES, **more: Any) -> SearchSpace:
    return replace(SPACE, student=student, **more)


def test_architectures_are_those_of_each_family() -> None:
    expected = [{"family": "wide", "width": width} for width in (1, 2, 3)]
    expected += [{"family": "deep", "width": width, "depth": depth} for width in (1, 2, 3) for depth in (1, 2)]
    space = of_families()
    assert space.architectures(limit=10) == [*expected, {"family": "plain"}]
    assert space.architectures(limit=9) is None
    endless = of_families(Choice("family", a={"width": FloatDistribution(0, 1)}, b={}))
    assert endless.architectures(limit=10**6) is None


def test_a_trial_has_the_parameters_of_its_own_family() -> None:
    space, study = of_families(), optuna.create_study(sampler=RandomSampler(0))
    names = {"wide": {"width"}, "deep": {"width", "depth"}, "plain": set()}
    seen = set()
    for _ in range(40):
        configuration = space.suggest(study.ask())
        family = configuration.student["family"]
        seen.add(family)
        assert configuration.student.keys() == {"family"} | names[family]
        params = configuration.params()
        assert space.branch_of(params) is not None and space.configuration(params) == configuration
        assert space.architecture_of(params) == configuration.student
    assert seen == set(names)
    assert space.branch_of({**space.middle(), "depth": 1}) is None  # of a family that has none
    assert space.middle(family="deep")["depth"] == 1 and space.middle()["family"] == "wide"


def test_students_are_looked_at_in_each_family() -> None:
    space = of_families()
    found = [{"family": "wide", "width": 1}, {"family": "wide", "width": 3}]
    found += [{"family": "deep", "width": 1, "depth": 1}, {"family": "deep", "width": 3, "depth": 2}]
    assert outer_architectures(space) == [*found, {"family": "plain"}, {"family": "plain"}]
    assert {one["family"] for one in corners(space)} == {"wide", "deep", "plain"}
    assert {one["family"] for one in axes_of(space)["width"]} == {"wide", "deep"}
    assert all(one["family"] == "deep" for one in axes_of(space)["depth"])


def test_a_family_may_be_held_and_leaves_the_others_out() -> None:
    space = of_families().fixed({"family": "deep", "depth": "2"})
    assert space.architectures(limit=9) == [{"family": "deep", "width": width, "depth": 2} for width in (1, 2, 3)]
    assert set(space.student) == {"family", "width", "depth"}
    assert "depth" not in of_families().fixed({"family": "wide"}).student
    with pytest.raises(HarnessError, match="--fix depth reaches nothing where family is 'wide'"):
        of_families().fixed({"family": "wide", "depth": "1"})
    with pytest.raises(HarnessError, match="family"):
        of_families().fixed({"family": "narrow"})


def test_points_of_candidates_are_those_of_their_configurations() -> None:
    space, rng = of_families(), np.random.default_rng(0)
    encoder = SpaceEncoder(space)
    families = []
    for candidates in encoder.sample(rng, 60):
        for place in range(len(candidates)):
            configuration = candidates[place]
            families.append(configuration["family"])
            np.testing.assert_allclose(encoder.encode(configuration), candidates.points[place])
            row = candidates.rows(["family", "width", "depth"])[place]
            assert (row[1] == ABSENT) == ("width" not in configuration)
            assert (row[2] == ABSENT) == ("depth" not in configuration)
            near = encoder.neighbours(rng, configuration, 3)
            assert all(near[index].keys() == configuration.keys() for index in range(3))
            assert {near[index]["family"] for index in range(3)} == {configuration["family"]}
    assert set(families) == {"wide", "deep", "plain"}


def test_a_study_is_bound_to_its_families() -> None:
    one, other = of_families(), of_families(Choice("family", wide={"width": WIDTH, "depth": DEPTH}, deep={}, plain={}))
    assert one.declaration() != other.declaration()
    assert SPACE.declaration().keys() == SPACE.distributions.keys()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Choice("family"), "must have a family"),
        (lambda: Choice("", a={}), "must have the name of the parameter that chooses"),
        (lambda: Choice("family", a=3), "family 'a' .* must have its parameters in a dict"),  # type: ignore[arg-type]
        (lambda: Choice("family", a={"family": WIDTH}), "must not be called 'family', which chooses"),
        (lambda: Choice("family", a={"width": WIDTH}, b={"width": DEPTH}), "width must have one range in all families"),
    ],
)
def test_what_is_no_choice_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_names_that_are_no_keywords_are_given_as_a_dict() -> None:
    choice = Choice("network", {"timm:a": {}, "timm:b": {"width": WIDTH}})
    assert choice["network"] == CategoricalDistribution(["timm:a", "timm:b"]) and list(choice) == ["network", "width"]


TWO = """
from optuna.distributions import FloatDistribution, IntDistribution
from torch import nn

from harness import Choice, SearchSpace, Task
from lightning_modules.data.embedded import digits
from lightning_modules.networks import ConvNet


class Digits(Task):
    teacher_epochs = 2

    def data(self, data_dir):
        return digits(batch_size=64)

    def teacher(self):
        return ConvNet(16, size=8)

    def student(self, *, family, **size):
        if family == "conv":
            return ConvNet(size["width"], size=8)
        hidden = [layer for _ in range(size["depth"]) for layer in (nn.LazyLinear(16), nn.ReLU())]
        return nn.Sequential(nn.Flatten(), *hidden, nn.LazyLinear(10))


SPACE = SearchSpace(
    task=Digits(),
    student=Choice("family", conv={"width": IntDistribution(2, 6)}, dense={"depth": IntDistribution(1, 2)}),
    distillation={"temperature": FloatDistribution(1, 10, log=True), "alpha": FloatDistribution(0, 1)},
    training={"learning_rate": FloatDistribution(3e-3, 3e-2, log=True)},
    epochs=3,
)
"""


@pytest.mark.slow
def test_two_families_are_searched_and_reported(tmp_path: Path) -> None:
    (tmp_path / "two.py").write_text(TWO)
    flags = ("--space", "two.py", "--objectives", "accuracy,parameters", "--min", "none")
    output = search(tmp_path, *flags, "--trials", "14")
    assert "14/14 done" in output and "costs     7 architectures" in output
    table = pd.read_csv(tmp_path / "mlruns" / "trials" / "two" / "report" / "trials.csv")
    conv, dense = table[table["family"] == "conv"], table[table["family"] == "dense"]
    assert len(conv) and len(dense) and len(conv) + len(dense) == 14
    assert conv["depth"].isna().all() and conv["width"].notna().all()
    assert dense["width"].isna().all() and dense["depth"].notna().all()
    output = search(tmp_path, *flags, "--trials", "3", "--study", "held", "--fix", "family=dense", "--controls", "none")
    assert "3/3 done" in output and "costs     2 architectures" in output
