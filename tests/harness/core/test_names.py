"""Names and values that a space gives: kept apart, kept exactly, or refused where the space is declared."""

from __future__ import annotations

import contextlib
import pickle
import warnings
from contextlib import nullcontext
from dataclasses import replace
from enum import Enum
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from mlflow.utils.validation import validate_param_and_metric_name
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from torch import nn

from harness.core.errors import HarnessError, did_you_mean
from harness.core.names import column_names, logged_name
from harness.preparation.steps import check_class_names
from harness.sampling.candidates import SpaceEncoder
from harness.space import SearchSpace
from harness.task import Task, class_names
from lightning_modules.outputs import Regression
from lightning_modules.training import Training
from search_spaces.digits import SPACE, Digits


class Act(Enum):
    RELU = 1
    GELU = 2


def of_choices(*choices: Any) -> SearchSpace:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna's, of choices that are no numbers or strings
        return replace(SPACE, student={"width": CategoricalDistribution(choices)})


class Told(Digits):
    """A task whose student is what it was asked for."""

    def student(self, **architecture: Any) -> Any:
        return architecture


@pytest.mark.parametrize(
    ("choices", "stored"),
    [
        (((4, 2), (8, 4)), ["(4, 2)", "(8, 4)"]),
        (([1], {"a": 2}), ["[1]", "{'a': 2}"]),
        ((Act.RELU, Act.GELU), ["RELU", "GELU"]),
        (("relu", "ReLU"), ["relu", "ReLU"]),
        ((None, True, 3, 0.5, ""), [None, True, 3, 0.5, ""]),
    ],
)
def test_choices_of_any_kind_reach_the_student_and_are_stored_as_text(choices: Any, stored: list[Any]) -> None:
    space = replace(of_choices(*choices), task=Told())
    assert space.declaration()["width"]["attributes"]["choices"] == stored
    for choice, text in zip(choices, stored, strict=True):
        assert space.build_student({"width": text}) == {"width": choice}
        assert space.fixed({"width": str(text)}).build_student({"width": text}) == {"width": choice}
    kept = pickle.loads(pickle.dumps(space.student["width"]))
    assert replace(space, student={"width": kept}).build_student({"width": stored[0]}) == {"width": choices[0]}


def test_a_student_that_modifies_a_choice_modifies_its_own_copy() -> None:
    space = replace(of_choices([1], [2]), task=Told())
    space.build_student({"width": "[1]"})["width"].append(9)
    assert space.build_student({"width": "[1]"}) == {"width": [1]}


def test_numpy_numbers_become_python_numbers() -> None:
    choices = of_choices(*np.array([4, 8]), np.float32(0.5), np.bool_(True)).student["width"].choices
    assert choices == (4, 8, 0.5, True) and {type(choice) for choice in choices} == {int, float, bool}


def test_numpy_numbers_within_a_choice_become_python_numbers() -> None:
    space = of_choices((np.int64(4), 2), [np.float64(0.5)], {np.str_("a"): (np.bool_(True),)})
    assert space.student["width"].choices == ("(4, 2)", "[0.5]", "{'a': (True,)}")


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ((nn.ReLU, nn.GELU), "must be None, bool, int, float or str, .*<class 'torch.*ReLU'>; name it by a string"),
        (((nn.ReLU,),), "must be None, bool"),
        (({1, 2},), "must be None, bool"),
        ((float("nan"), 1.0), "but got nan"),
        ((2**64,), "but got 18446744073709551616"),
        ((1, True), "must differ, also when they are written, but got 1 and True"),
        ((1, 1.0), "but got 1 and 1.0"),
        (("1", 1), "but got '1' and 1"),
    ],
)
def test_choices_that_can_not_be_stored_or_distinguished_are_refused(choices: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        of_choices(*choices)


@pytest.mark.parametrize(
    ("group", "given", "words"),
    [
        ("student", {"width": IntDistribution(0, 2**63)}, r"within ±9,007,199,254,740,992 \(2\^53\)"),
        ("student", {"width": FloatDistribution(0, float("inf"))}, "finite ends"),
        ("student", {"width": FloatDistribution(-1e308, 1e308)}, "finite ends"),
        ("student", {"width": 3}, "must be an optuna distribution, but got 3"),
        (
            "distillation",
            {"temperature": IntDistribution(0, 10)},
            "must be positive, but got temperature=0",
        ),
        ("distillation", {"alpha": FloatDistribution(0, 2)}, r"alpha must lie in \[0, 1\], but got alpha=2.0"),
        (
            "distillation",
            {"alpha": CategoricalDistribution(["half"])},
            "alpha must be a number, but 'half' is one of its values",
        ),
        ("training", {"learning_rate": FloatDistribution(0, 1)}, "learning_rate must be positive and finite"),
        ("training", {"weight_decay": FloatDistribution(-1, 0)}, "weight_decay must be at least 0"),
        ("training", {"learning_rte": FloatDistribution(0.1, 1)}, "did you mean learning_rate?"),
        ("distillation", {"hnt": {}}, "did you mean hint?"),
    ],
)
def test_invalid_ranges_are_refused_where_they_are_declared(group: str, given: dict[str, Any], words: str) -> None:
    whole = given if group != "distillation" or "hnt" in given else {**SPACE.distillation, **given}
    with pytest.raises(ValueError, match=words):
        replace(SPACE, **{group: whole})


@pytest.mark.parametrize(
    ("method", "given", "words"),
    [
        ("hint", {"hint_weight": FloatDistribution(-1, 1)}, "hint_weight must be positive"),
        ("label_smoothing", {"smoothing": FloatDistribution(0, 1)}, r"smoothing must lie in \[0, 1\)"),
        ("self_distillation", {"trust": FloatDistribution(0, 1)}, r"trust must lie in \(0, 1\]"),
        ("contrastive", {"contrastive_temperature": FloatDistribution(0, 1)}, "must be positive"),
    ],
)
def test_each_method_names_the_parameters_that_it_takes(method: str, given: dict[str, Any], words: str) -> None:
    from search_spaces.digits_methods import SPACE as METHODS_SPACE

    methods = {method: {**METHODS_SPACE.methods[method], **given}}
    with pytest.raises(ValueError, match=words):
        replace(SPACE, distillation=methods)


def test_the_largest_integers_that_can_be_stored_can_be_drawn() -> None:
    space = replace(
        SPACE, student={"salt": IntDistribution(-(2**53), 2**53), "width": IntDistribution(1, 2**53, log=True)}
    )
    pool = SpaceEncoder(space).sample(np.random.default_rng(0), 50)[0]
    for place in range(len(pool)):
        assert space.branch_of(pool[place]) is not None
        assert -(2**53) <= pool[place]["salt"] <= 2**53 and isinstance(pool[place]["salt"], int)
    assert space.architectures(limit=1000) is None and space.middle()["salt"] == 0


@pytest.mark.parametrize("name", ["state", "parameters", "accuracy", "µ", "幅", "f1 (macro)", "a/b", "recall@1"])
def test_a_parameter_may_have_any_name_that_can_be_given_in_a_flag(name: str) -> None:
    space = replace(SPACE, student={name: IntDistribution(1, 4)})
    assert space.fixed({name: "2"}).student[name].low == 2


@pytest.mark.parametrize("name", ["", " a", "a=b", "a,b", "a\nb", "\x1b[31m", "x" * 201, 3])
def test_a_name_that_can_not_be_given_in_a_flag_is_refused(name: Any) -> None:
    with pytest.raises(ValueError, match="a parameter must"):
        replace(SPACE, student={name: IntDistribution(1, 4)})
    with pytest.raises(ValueError, match="metric_name must") if name else contextlib.nullcontext():  # "" is the default
        replace(SPACE, task=type("T", (Digits,), {"metric_name": name})())


@pytest.mark.parametrize("name", ["parameters", "loss", "hard_loss", "front", "number", "val/loss", "alpha", "ece"])
def test_a_metric_s_name_must_be_unique(name: str) -> None:
    with pytest.raises(ValueError, match=f"metric_name must be a name of its own, but '{name}' has another meaning"):
        replace(SPACE, task=type("T", (Digits,), {"metric_name": name})())


def test_a_metric_s_name_must_be_unique_in_mlflow_too() -> None:
    with pytest.raises(ValueError, match=r"but 'teacher@kl' \(in MLflow 'teacher_kl'\) has another meaning"):
        replace(SPACE, task=type("T", (Digits,), {"metric_name": "teacher@kl"})())


def test_parameters_with_the_same_name_in_mlflow_are_refused() -> None:
    with pytest.raises(ValueError, match="both would be 'a_'"):
        replace(SPACE, student={"a@": IntDistribution(1, 4), "a#": IntDistribution(1, 4)})


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"metric_direction": "max"}, "must be 'maximize' or 'minimize', but got 'max'; did you mean maximize?"),
        ({"teacher_epochs": 0}, "teacher_epochs must be at least 1"),
        ({"teacher_epochs": "20"}, "teacher_epochs must be at least 1, a whole number, but got '20'"),
        ({"teacher_learning_rate": -1.0}, "teacher_learning_rate must be a positive number, but got -1.0"),
        ({"teacher_learning_rate": "0.1"}, "teacher_learning_rate must be a positive number, but got '0.1'"),
        ({"teacher_training": "sgd"}, r"teacher_training must be Training\(…\), but got 'sgd'"),
        (
            {"teacher_training": Training(), "teacher_learning_rate": 0.5},
            "must set teacher_training or teacher_learning_rate, but has both",
        ),
        (
            {"teacher_training": Training(label_smoothing=0.1), "output": Regression(1)},
            r"teacher_training can't have label_smoothing, .* the output is Regression\(1\)",
        ),
        ({"class_names": "ab"}, "class_names must be a sequence of strings or integers, .*but got 'ab'"),
        ({"class_names": {0: "a", 1: "b"}}, "class_names must be a sequence"),
        ({"class_names": {"a", "b"}}, "class_names must be a sequence"),
        ({"class_names": (None, "b")}, "class_names must be a sequence"),
        ({"class_names": np.array([["a"], ["b"]])}, "class_names must be a sequence"),
    ],
)
def test_a_task_with_an_invalid_attribute_is_refused(attributes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(SPACE, task=type("T", (Digits,), attributes)())


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (None, ()),
        ([], ()),
        (range(2), ("0", "1")),
        (["a", np.int64(1)], ("a", "1")),
        (np.array(["a", "b"]), ("a", "b")),
        (np.array([3, 4]), ("3", "4")),
    ],
)
def test_class_names_are_any_sequence_of_strings_and_integers(given: Any, names: tuple[str, ...]) -> None:
    space = replace(SPACE, task=type("T", (Digits,), {"class_names": given})())
    assert class_names(space.task) == names


@pytest.mark.parametrize(("names", "is_fit"), [("ab", False), ("abc", True), ("abcd", True), ("abcde", False)])
def test_class_names_are_as_many_as_the_labels_or_up_to_as_many_as_the_logits(names: str, is_fit: bool) -> None:
    task = type("T", (Digits,), {"class_names": list(names)})()
    with (
        nullcontext() if is_fit else pytest.raises(HarnessError, match=f"each of its 3 classes, but name {len(names)}")
    ):
        assert check_class_names(task, labelled=3, classes=4) == tuple(names)


@pytest.mark.parametrize(
    ("name", "logged"),
    [
        ("recall@1", "recall_1"),
        ("f1 (macro)", "f1 _macro_"),
        ("val/a/b", "val/a/b"),
        ("µ", "µ"),
        ("../x", "_/x"),
        ("a//b", "a/_/b"),
        ("..a", "_a"),
        (".", "_"),
    ],
)
def test_mlflow_takes_every_logged_name(name: str, logged: str) -> None:
    assert logged_name(name) == logged and validate_param_and_metric_name(logged)


def test_a_parameter_s_column_is_its_name_or_has_a_prefix() -> None:
    assert column_names(["width", "state"], ["number", "state"]) == {"width": "width", "state": "params.state"}


@pytest.mark.parametrize("names", [["state", "params.state"], ["params.state", "state"]])
def test_no_two_parameters_share_a_column(names: list[str]) -> None:
    assert column_names(names, ["state"]) == {"state": "params.params.state", "params.state": "params.state"}


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("latency", "; did you mean latency_p50_ms?"),
        ("Accuracy", "; did you mean accuracy?"),
        ("acuracy", "; did you mean accuracy?"),
        ("nothing like it", "."),
        ("", "."),
    ],
)
def test_a_misspelt_name_gets_a_suggestion(name: str, told: str) -> None:
    assert did_you_mean(name, ["accuracy", "latency_p50_ms", "latency_p95_ms"], otherwise=".") == told


def test_a_misspelt_parameter_gets_a_suggestion() -> None:
    with pytest.raises(HarnessError, match=r"but got 'alpa'; did you mean alpha\?"):
        SPACE.fixed({"alpa": "1"})


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("a", "b", "a"), "'a' names classes 0 and 2"),
        ((1, "x", "1"), "'1' names classes 0 and 2"),
        (["b", *["a"] * 6], "'a' names classes 1, 2, 3 and 3 more"),
    ],
)
def test_a_name_of_several_classes_is_refused(names: Any, told: str) -> None:
    task = SimpleNamespace(class_names=names)
    with pytest.raises(ValueError) as refused:
        class_names(cast(Task, task))
    assert str(refused.value) == (f"class_names must tell the classes apart, but {told}; give each a name of its own.")
    task.class_names = ("a", "b", 1)
    assert class_names(cast(Task, task)) == ("a", "b", "1")
