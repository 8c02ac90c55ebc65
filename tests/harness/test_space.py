"""Declarations of what varies: checked, held fixed, listed, suggested from, and loaded from files."""

from __future__ import annotations

import json
import math
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import RandomSampler
from optuna.trial import Trial

from harness.core.errors import HarnessError
from harness.space import SearchSpace
from lightning_modules.methods import make_criterion
from search_spaces import digits_methods, fashion_mnist_methods
from search_spaces.digits import SPACE, Digits

TEMPERATURE, ALPHA = FloatDistribution(1.0, 16.0, log=True), FloatDistribution(0.0, 1.0)
WIDTH = IntDistribution(2, 32, log=True)
HALF = FloatDistribution(0.0, 0.5)
METHODS: dict[str, dict[str, BaseDistribution]] = {
    "soft_target": {"temperature": TEMPERATURE, "alpha": ALPHA},
    "label_smoothing": {"smoothing": FloatDistribution(0.01, 0.4, log=True)},
}


def a_space(
    *, student: dict[str, BaseDistribution] | None = None, training: dict[str, BaseDistribution] | None = None
) -> SearchSpace:
    return SearchSpace(
        task=Digits(),
        student={"width": WIDTH} if student is None else student,
        distillation={"temperature": TEMPERATURE, "alpha": ALPHA},
        training=training or {},
    )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"distillation": {"temperature": TEMPERATURE, "alpha": ALPHA, "tau": ALPHA}}, "'tau', which would reach not"),
        ({"distillation": {"temperature": TEMPERATURE}}, "'alpha' is missing"),
        ({"distillation": {"alpha": ALPHA}}, "'temperature' is missing"),
        ({"training": {"momentums": ALPHA}}, "'momentums', which would reach nothing; did you mean momentum?"),
        ({"training": {"network": ALPHA}}, "'network', which would reach nothing"),
        ({"student": {"alpha": ALPHA}}, "student must not name 'alpha', which is the loss's, in every control too"),
        (
            {"student": {"temperature": ALPHA}, "distillation": {"label_smoothing": {"smoothing": ALPHA}}},
            "student must not name 'temperature', which is the loss's",
        ),
        ({"student": {"learning_rate": ALPHA}, "training": {"learning_rate": ALPHA}}, "one group only"),
        ({"training": {"width": WIDTH}}, "one group only"),
        ({"student": {"width": 8}}, "width must be an optuna distribution, but got 8"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"distillation": {"magic": {"alpha": ALPHA}}}, "methods among soft_target, .*but got 'magic'"),
        ({"distillation": {"decoupled": {"temperature": TEMPERATURE}}}, "'non_target_weight' is missing"),
        ({"distillation": {"label_smoothing": {"smoothing": ALPHA}, "alpha": ALPHA}}, "parameters or methods"),
        (
            {"distillation": METHODS | {"standardized": {"temperature": TEMPERATURE, "alpha": HALF}}},
            "alpha must have one",
        ),
        ({"distillation": METHODS, "student": {"method": WIDTH}}, "one group only"),
    ],
)
def test_a_space_that_reaches_nothing_is_refused(changed: dict[str, Any], message: str) -> None:
    whole = {"student": {"width": WIDTH}, "distillation": {"temperature": TEMPERATURE, "alpha": ALPHA}}
    with pytest.raises(ValueError, match=message):
        SearchSpace(task=Digits(), **{**whole, **changed})


@pytest.mark.parametrize(
    ("distribution", "text", "value"),
    [
        (FloatDistribution(1.0, 16.0, log=True), "3.3", 3.3),
        (FloatDistribution(0.0, 1.0), "1", 1.0),
        (FloatDistribution(0.0, 0.5, step=0.25), "0.25", 0.25),
        (IntDistribution(2, 32, log=True), "32", 32),
        (IntDistribution(2, 10, step=4), "6", 6),
        (CategoricalDistribution(["relu", 3, None]), "relu", "relu"),
        (CategoricalDistribution(["relu", 3, None]), "3", 3),
    ],
)
def test_a_parameter_held_fixed_has_that_one_value(distribution: BaseDistribution, text: str, value: object) -> None:
    space = a_space(student={"x": distribution}).fixed({"x": text})
    assert space.distributions["x"].single()
    assert space.middle()["x"] == value and type(space.middle()["x"]) is type(value)
    study = optuna.create_study(sampler=RandomSampler(seed=0))
    assert space.suggest(study.ask()).student == {"x": value}
    assert space.distributions["alpha"] == ALPHA  # the others vary as before


@pytest.mark.parametrize(
    ("distribution", "text", "message"),
    [
        (FloatDistribution(1.0, 16.0), "16.5", r"must lie in \[1.0, 16.0\], but got 16.5"),
        (FloatDistribution(1.0, 16.0), "nan", r"must lie in \[1.0, 16.0\], but got nan"),
        (FloatDistribution(1.0, 16.0), "inf", r"must lie in \[1.0, 16.0\], but got inf"),
        (FloatDistribution(1.0, 16.0), "four", r"must be a number \(float\), but got 'four'"),
        (FloatDistribution(0.0, 0.5, step=0.25), "0.3", r"must lie in \[0.0, 0.5\] in steps of 0.25, but got 0.3"),
        (IntDistribution(2, 32), "1", r"must lie in \[2, 32\], but got 1"),
        (IntDistribution(2, 32), "2.5", r"must be a number \(int\), but got '2.5'"),
        (IntDistribution(2, 10, step=4), "8", r"must lie in \[2, 10\] in steps of 4, but got 8"),
        (CategoricalDistribution(["a", "b"]), "c", r"must be one of \['a', 'b'\], but got 'c'"),
    ],
)
def test_a_value_that_a_parameter_cannot_have_is_refused(
    distribution: BaseDistribution, text: str, message: str
) -> None:
    with pytest.raises(HarnessError, match=rf"^--fix x {message}\.$"):
        a_space(student={"x": distribution}).fixed({"x": text})


def test_a_parameter_of_no_space_cannot_be_fixed() -> None:
    with pytest.raises(HarnessError, match=r"parameter of the space \(width, temperature, alpha\), but got 'wdith'"):
        a_space().fixed({"wdith": "3"})


def test_fixing_leaves_the_whole_space_as_it_was() -> None:
    space = a_space()
    fixed = space.fixed({"width": "4"})
    assert fixed != space and (fixed.task, fixed.epochs) == (space.task, space.epochs)
    assert space.distributions["width"] == WIDTH


@pytest.mark.parametrize(
    ("student", "limit", "expected"),
    [
        ({"a": IntDistribution(1, 3)}, 3, [{"a": 1}, {"a": 2}, {"a": 3}]),
        ({"a": IntDistribution(1, 3)}, 2, None),
        ({"a": IntDistribution(2, 10, step=4), "b": CategoricalDistribution(["x", "y"])}, 6,
         [{"a": a, "b": b} for a in (2, 6, 10) for b in ("x", "y")]),
        ({"a": IntDistribution(1, 3), "b": CategoricalDistribution(["x", "y"])}, 5, None),
        ({"a": FloatDistribution(0.0, 1.0)}, 1000, None),
        ({"a": FloatDistribution(0.5, 0.5)}, 1, [{"a": 0.5}]),
        ({"a": FloatDistribution(0.0, 1.0, step=0.5)}, 3, [{"a": 0.0}, {"a": 0.5}, {"a": 1.0}]),
        ({}, 1, [{}]),
    ],
)  # fmt: skip
def test_architectures_are_listed_up_to_a_limit(
    student: dict[str, BaseDistribution], limit: int, expected: list[dict[str, Any]] | None
) -> None:
    assert a_space(student=student).architectures(limit=limit) == expected


def test_a_range_far_beyond_the_limit_is_never_written_out() -> None:
    assert a_space(student={"a": IntDistribution(1, 10**15)}).architectures(limit=256) is None


@pytest.mark.parametrize(
    "distribution", [FloatDistribution(0.1, 0.3, step=0.1), FloatDistribution(0.0, 0.7, step=0.1), WIDTH]
)
def test_the_architectures_listed_are_those_that_trials_are_given(distribution: BaseDistribution) -> None:
    space = a_space(student={"a": distribution})
    study = optuna.create_study(sampler=RandomSampler(seed=0))
    given = {space.suggest(study.ask()).student["a"] for _ in range(300)}
    listed = space.architectures(limit=100)
    assert listed is not None and given == {architecture["a"] for architecture in listed}


def test_the_middle_is_that_of_the_logarithm_where_it_is_sampled_so() -> None:
    space = a_space(
        student={"width": WIDTH, "depth": IntDistribution(2, 10, step=4), "act": CategoricalDistribution(["a", "b"])},
        training={"learning_rate": FloatDistribution(1e-4, 1e-2, log=True)},
    )
    middle = space.middle()
    assert middle == {
        "width": 8, "depth": 6, "act": "a", "temperature": 4.0, "alpha": 0.5, "learning_rate": pytest.approx(1e-3),
    }  # fmt: skip
    assert type(middle["width"]) is int and type(middle["depth"]) is int


def test_a_resumed_trial_keeps_its_values_and_draws_only_the_rest() -> None:
    study = optuna.create_study(sampler=RandomSampler(seed=0))
    study.enqueue_trial({"alpha": 0.25})
    trial, space = study.ask(), a_space(training={"learning_rate": FloatDistribution(1e-3, 1e-1, log=True)})
    width = trial.suggest_int("width", 2, 32, log=True)  # cut after this one
    study.sampler = RandomSampler(seed=7)
    begun = space.suggest(Trial(study, trial._trial_id))
    assert begun.student == {"width": width} and begun.distillation["alpha"] == 0.25
    study.sampler = RandomSampler(seed=99)
    resumed = space.suggest(Trial(study, trial._trial_id))
    assert resumed == begun and resumed.params() == study.trials[0].params
    assert list(resumed.params()) == ["width", "temperature", "alpha", "learning_rate"]
    assert space.suggest(study.ask()) != begun


def test_a_declaration_is_json_and_knows_every_range() -> None:
    declared = a_space().declaration()
    assert json.loads(json.dumps(declared)) == declared == a_space().declaration()
    assert declared != a_space(student={"width": IntDistribution(2, 33, log=True)}).declaration()
    assert declared != a_space(student={"width": IntDistribution(2, 32)}).declaration()


def test_the_embedded_digits_space_reaches_its_task() -> None:
    listed = SPACE.architectures(limit=100)
    assert listed == [{"width": width} for width in range(1, 33)]
    assert sum(p.numel() for p in SPACE.task.student(**listed[0]).parameters()) == 123  # by hand, see test_networks
    assert math.isclose(SPACE.middle()["temperature"], math.sqrt(20))


def of_methods() -> SearchSpace:
    return SearchSpace(task=Digits(), student={"width": WIDTH}, distillation=METHODS)


def test_a_method_s_parameters_exist_in_its_own_trials_only() -> None:
    space, study = of_methods(), optuna.create_study(sampler=RandomSampler(0))
    found = [space.suggest(study.ask()).params() for _ in range(20)]
    own = {"soft_target": {"temperature", "alpha"}, "label_smoothing": {"smoothing"}}
    assert {params["method"] for params in found} == set(own)
    for params in found:
        assert params.keys() == {"width", "method"} | own[params["method"]]
        assert space.branch_of(params) == space.branches[params["method"], ""]
        assert space.branch_of({**params, "temperature": 1.0, "smoothing": 0.1}) is None
    assert space.branch_of({"width": 3, "method": "magic"}) is None


def test_one_method_alone_is_no_choice() -> None:
    assert "method" not in a_space().distributions
    assert a_space().methods == {"soft_target": {"temperature": TEMPERATURE, "alpha": ALPHA}}


def test_the_middle_is_a_method_s_own() -> None:
    assert of_methods().middle() == {"width": 8, "method": "soft_target", "temperature": 4.0, "alpha": 0.5}
    assert of_methods().middle("label_smoothing").keys() == {"width", "method", "smoothing"}


def test_a_method_that_is_held_where_none_is_searched_is_refused_with_how_methods_are_searched() -> None:
    with pytest.raises(HarnessError, match=r"'method'; .* -methods .*, or .* distillation=\{'soft_target'") as one:
        SPACE.fixed({"method": "hint"})
    assert "\n" not in str(one.value)


def test_a_method_is_held_fixed_with_its_own_parameters_only() -> None:
    held = of_methods().fixed({"method": "soft_target", "alpha": "0.25"})
    assert list(held.methods) == ["soft_target"]
    params = held.suggest(optuna.create_study(sampler=RandomSampler(0)).ask()).params()
    assert (params["method"], params["alpha"]) == ("soft_target", 0.25)
    with pytest.raises(HarnessError, match="--fix smoothing reaches nothing where method is 'soft_target'"):
        of_methods().fixed({"method": "soft_target", "smoothing": "0.1"})
    with pytest.raises(HarnessError, match=r"--fix method must be one of \['soft_target', 'label_smoothing'\], but"):
        of_methods().fixed({"method": "magic"})


@pytest.mark.parametrize("space", [digits_methods.SPACE, fashion_mnist_methods.SPACE])
def test_the_embedded_methods_are_searched_by_parameters_that_reach_them(space: SearchSpace) -> None:
    for method in space.methods:
        middle = space.middle(method)
        names = list(space.methods[method])
        make_criterion(method, **{name: middle[name] for name in names})
        assert middle["method"] == method and space.branch_of(middle) is not None


def test_a_temperature_that_has_no_say_is_not_searched() -> None:
    held = a_space().fixed({"alpha": "1"})
    assert held.distributions["temperature"].single() and held.middle()["temperature"] == pytest.approx(4.0)
    given = a_space().fixed({"alpha": "1", "temperature": "2"})
    assert given.middle()["temperature"] == 2.0
    assert not a_space().fixed({"alpha": "0.5"}).distributions["temperature"].single()
    one = of_methods().fixed({"alpha": "1", "method": "soft_target"})
    assert one.distributions["temperature"].single() and set(one.methods) == {"soft_target"}
    with pytest.raises(HarnessError, match=r"alpha=1 is labels alone, .*: --fix alpha=1 --fix method=soft_target"):
        of_methods().fixed({"alpha": "1"})
