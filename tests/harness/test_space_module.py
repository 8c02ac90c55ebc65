"""Spaces whose students train themselves: what they declare reaches module(), or is refused in one line."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from harness.core.errors import HarnessError
from harness.recipes import RECIPES
from harness.sampling.first_trials import first_trials
from harness.space import Configuration, Method, SearchSpace, is_own_control
from harness.task import Task, has_own_training
from harness.trials.controls import control_configuration
from lightning_modules.methods import Criterion
from lightning_modules.outputs import Classification
from lightning_modules.training import Training
from search_spaces.digits import Digits

Group = dict[str, BaseDistribution]
WIDTH: Group = {"width": IntDistribution(4, 16)}
LOSS: Group = {"temperature": FloatDistribution(1, 9), "alpha": FloatDistribution(0, 1)}
RATE: Group = {"lr": FloatDistribution(0.001, 0.1, log=True), "milestones": CategoricalDistribution(["(1, 2)", "()"])}


class Told(pl.LightningModule):
    """Knows what it was built with."""

    def __init__(self, **given: Any) -> None:
        super().__init__()
        self.given = given


class Own(Task):
    output = Classification(10)
    data = Digits.data
    teacher = Digits.teacher

    def module(self, *, width: int, temperature: float, alpha: float, lr: float, milestones: Any) -> Told:
        return Told(width=width, temperature=temperature, alpha=alpha, lr=lr, milestones=milestones)


def a_space(student: Any = None, distillation: Any = None, training: Any = None, task: type[Task] = Own) -> SearchSpace:
    groups = (
        default if given is None else given
        for given, default in ((student, WIDTH), (distillation, LOSS), (training, RATE))
    )
    return SearchSpace(task(), *groups)


def given_to(space: SearchSpace, **values: Any) -> dict[str, Any]:
    built = space.build_student(values)
    assert isinstance(built, Told)
    return built.given


def test_every_parameter_reaches_module() -> None:
    space = a_space()
    params = {"width": 5, "temperature": 2.0, "alpha": 0.25, "lr": 0.01, "milestones": "()"}
    assert list(space.distributions) == list(params) and space.configuration(params).params() == params
    assert given_to(space, **params) == params
    assert space.building(params) == params
    assert space.groups == {"student": ["width"], "training": ["lr", "milestones"], "tuned": ["lr", "milestones"]}


def test_what_is_not_given_is_in_the_middle_of_its_range() -> None:
    assert given_to(a_space(), width=5) == {
        "width": 5,
        "temperature": 5.0,
        "alpha": 0.5,
        "lr": pytest.approx(0.01),  # of its logarithm
        "milestones": "(1, 2)",
    }


@pytest.mark.filterwarnings("ignore:Choices for a categorical distribution:UserWarning")
def test_choices_of_any_group_reach_module_as_they_are() -> None:
    space = a_space(training={**RATE, "milestones": CategoricalDistribution([(1, 2), ()])})
    assert given_to(space)["milestones"] == (1, 2)
    assert given_to(space, milestones="()")["milestones"] == ()


def test_a_control_is_built_with_alpha_1_and_without_a_teacher() -> None:
    params = {"width": 5, "temperature": 2.0, "alpha": 0.25, "lr": 0.01, "milestones": "()"}
    space = a_space()
    assert control_configuration(params, space) == Configuration(
        {"width": 5}, {"temperature": 2.0, "alpha": 1.0}, {"lr": 0.01, "milestones": "()"}, is_taught=False
    )
    tuned = control_configuration(params, space, {"lr": 0.1, "milestones": "(1, 2)"})
    assert tuned.training == {"lr": 0.1, "milestones": "(1, 2)"} and not tuned.is_taught
    assert is_own_control({**params, "alpha": 1.0}) and not is_own_control(params)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (
            {"student": {"witdh": IntDistribution(1, 2)}},
            r"student must name keywords of module\(\), .*'witdh', which would reach nothing; did you mean width\?$",
        ),
        (
            {"distillation": {**LOSS, "temprature": FloatDistribution(1, 2)}},
            r"distillation must name keywords of .*'temprature', .*did you mean temperature\?$",
        ),
        (
            {"training": {**RATE, "learning_rate": FloatDistribution(0, 1)}},
            r"training must name keywords of module\(\), .*, but got 'learning_rate', which would reach nothing\.$",
        ),
        (
            {"training": {"lr": RATE["lr"]}},
            r"must name every keyword of module\(\), but 'milestones' is missing; a distribution of one value holds",
        ),
        ({"training": {**RATE, "width": WIDTH["width"]}}, r"must stand in one group only, but got width in several"),
        (
            {"distillation": {"temperature": LOSS["temperature"]}, "training": {**RATE, "alpha": LOSS["alpha"]}},
            r"'alpha' must stand in distillation: it weighs the true labels",
        ),
        (
            {"distillation": {"soft_target": LOSS}},
            r"distillation must give each parameter of module\(\) a distribution, .*'soft_target' is dict",
        ),
        ({"distillation": {"mine": Method(Criterion, LOSS)}}, r"have no method, but 'mine' is Method"),
        ({"training": {**RATE, "method": RATE["lr"]}}, r"must have another name than 'method'; rename it"),
    ],
)
def test_a_declaration_that_reaches_nothing_is_refused_in_one_line(groups: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        a_space(**groups)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        (
            {"training": Training(batch_size=16, clip_norm=1.0)},
            r"training = Training\(…\) reaches nothing beside module\(\), .* sets batch_size, clip_norm; let module",
        ),
        ({"output": Classification(10, class_weights="balanced")}, r"class_weights of the output reach nothing beside"),
    ],
)
def test_what_a_task_says_of_training_beside_module_is_refused(attributes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        a_space(task=type("More", (Own,), attributes))


def test_a_task_defines_either_student_or_module() -> None:
    class Both(Own):
        student = Digits.student

    class Neither(Task):
        data = Digits.data
        teacher = Digits.teacher

    assert has_own_training(Own()) and not has_own_training(Digits())
    for task, said in ((Both, "Both defines both; leave one out"), (Neither, "Neither defines neither")):
        with pytest.raises(ValueError, match=rf"^a task must define student\(\), .* or module\(\), .*, but {said}\.$"):
            a_space(task=task)
    for method in (Neither().student, Neither().module):
        with pytest.raises(NotImplementedError):
            method()


def test_fixing_a_parameter_holds_no_other_one() -> None:
    held = a_space().fixed({"alpha": "1", "lr": "0.01"})
    assert held.middle()["alpha"] == 1.0 and held.middle()["lr"] == 0.01 and held.groups["tuned"] == ["milestones"]
    assert not held.distributions["temperature"].single()
    with pytest.raises(HarnessError, match=r"--fix must name a parameter of the space .*'lrr'; did you mean lr\?"):
        held.fixed({"lrr": "1"})


def test_recipes_set_temperature_and_alpha_where_module_takes_them() -> None:
    found = first_trials(a_space(), ["hinton"], defaults=False)["hinton"]
    assert {name: found[name] for name in RECIPES["hinton"]} == RECIPES["hinton"]
    assert found["width"] == 10 and found["lr"] == pytest.approx(0.01)

    class Without(Own):
        def module(self, *, width: int, alpha: float) -> Told:  # type: ignore[override]
            return Told(width=width, alpha=alpha)

    space = a_space(WIDTH, {"alpha": LOSS["alpha"]}, {}, task=Without)
    assert first_trials(space) == {}
    with pytest.raises(HarnessError, match=r"--recipe hinton can't be tried: its temperature is 2, and temperature is"):
        first_trials(space, ["hinton"])


def test_nothing_of_a_training_varies() -> None:
    space = a_space()
    assert space.varied_training == {} and space.criteria == {} and space.own_methods == []
    assert space.training_of(space.configuration(space.middle())) == Training()
