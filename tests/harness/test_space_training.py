"""The training group of a space: which names and values it may have, and what wins over what."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from harness.core.errors import HarnessError
from harness.space import Configuration, SearchSpace
from harness.space_training import batch_sizes, beside_effect, idle_warnings, training_variants
from harness.task import Task
from lightning_modules.training import Training
from lightning_modules.training.values import KEYWORDS
from search_spaces.digits import Digits

OPTIMIZER = CategoricalDistribution(["adamw", "sgd"])
MOMENTUM = FloatDistribution(0.0, 0.95)
RATE = FloatDistribution(1e-3, 1e-1, log=True)


def a_space(training: dict[str, BaseDistribution], of_task: Any = None, task: type[Task] = Digits) -> SearchSpace:
    own = type("Own", (task,), {} if of_task is None else {"training": of_task})
    return SearchSpace(
        task=own(),
        student={"width": IntDistribution(2, 8)},
        distillation={"temperature": FloatDistribution(1, 9), "alpha": FloatDistribution(0, 1)},
        training=training,
    )


def configured(space: SearchSpace, **training: Any) -> Training:
    return space.training_of(Configuration({}, {}, training))


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"batchsize": OPTIMIZER}, r"training must name some of optimizer, .*'batchsize', .* mean batch_size\?$"),
        ({"lr": RATE}, r"training must name some of .*, but got 'lr', which would reach nothing"),
        ({"epochs": IntDistribution(1, 9)}, r"training must not vary 'epochs': all trials .* or --epochs\.$"),
        ({"momentum": MOMENTUM}, r"training must not vary 'momentum': momentum has no effect with optimizer 'adamw"),
        ({"step_factor": FloatDistribution(0.1, 0.5)}, r"must not vary 'step_factor': step_factor has no effect"),
        (
            {"momentum": MOMENTUM, "optimizer": CategoricalDistribution(["adam", "adamw"])},
            r"training must not vary 'momentum': momentum has no effect with optimizer 'adam'",
        ),
        (
            {"optimizer": CategoricalDistribution(["sgd", "sdg"])},
            r"must take all that its ranges hold, but does not take optimizer='sdg': optimizer must be .* mean 'sgd'\?",
        ),
        (
            {"optimizer": OPTIMIZER, "momentum": FloatDistribution(0.5, 1.5)},
            r"does not take momentum=1.5: momentum must be in \[0, 1\), but got 1.5",
        ),
        ({"batch_size": FloatDistribution(8, 32)}, r"does not take batch_size=8.0: batch_size must be a whole"),
        ({"batch_size": IntDistribution(0, 32)}, r"does not take batch_size=0: batch_size must be a whole number"),
        ({"label_smoothing": FloatDistribution(0, 1)}, r"does not take label_smoothing=1.0: label_smoothing must"),
        ({"learning_rate": FloatDistribution(0, 1)}, r"does not take learning_rate=0.0: learning_rate must be pos"),
    ],
)  # fmt: skip
def test_a_training_group_that_reaches_nothing_is_refused_in_one_line(
    training: dict[str, BaseDistribution], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        a_space(training)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:Choices for a categorical distribution:UserWarning")
def test_a_factory_can_not_be_searched() -> None:
    with pytest.raises(
        ValueError, match=r"^optimizer must be searched by name, for a study can't store a factory; give"
    ):
        a_space({"optimizer": CategoricalDistribution(["sgd", torch.optim.SGD])})


@pytest.mark.parametrize("given", [{"optimizer": "sgd"}, "sgd", None, Training])
def test_a_tasks_training_that_is_none_is_refused(given: Any) -> None:
    class Own(Digits):
        training = given

    with pytest.raises(ValueError, match=r"training of a task must be a Training\(…\) of lightning_modules.training"):
        a_space({}, task=Own)


@pytest.mark.filterwarnings("ignore:Choices for a categorical distribution:UserWarning")
def test_every_keyword_may_be_searched_with_values_that_storages_keep() -> None:
    choices: dict[str, list[Any]] = {
        "optimizer": ["sgd", "adam"],
        "decay_on": ["weights", "all"],
        "schedule": ["step", "cosine"],
        "milestones": [(0.5,), (0.25, 0.75)],
        "precision": ["32", "bf16-mixed"],
        "clip_norm": [None, 1.0],
        "groups": [{}, {"head.*": {"learning_rate": 10.0}}],
    }
    numbers: dict[str, BaseDistribution] = {
        "learning_rate": RATE,
        "momentum": MOMENTUM,
        "weight_decay": FloatDistribution(1e-5, 1e-2, log=True),
        "warmup": FloatDistribution(0, 0.5),
        "step_factor": FloatDistribution(0.1, 0.5),
        "batch_size": IntDistribution(8, 64, log=True),
        "accumulate": IntDistribution(1, 4),
        "ema_decay": FloatDistribution(0.9, 0.999),
        "label_smoothing": FloatDistribution(0, 0.2),
    }
    space = a_space({name: CategoricalDistribution(values) for name, values in choices.items()} | numbers)
    assert set(space.training) == set(KEYWORDS)
    values = {**space.middle(), "milestones": "(0.25, 0.75)", "groups": "{'head.*': {'learning_rate': 10.0}}"}
    made = space.training_of(space.configuration(values))
    assert made.milestones == (0.25, 0.75) and made.groups == {"head.*": {"learning_rate": 10.0}}
    assert (made.optimizer, made.momentum, made.clip_norm) == ("sgd", 0.475, None)


def test_what_a_space_varies_wins_over_the_tasks_training() -> None:
    given = Training(optimizer="sgd", momentum=0.8, learning_rate=0.5, batch_size=16)
    space = a_space({"learning_rate": RATE, "optimizer": OPTIMIZER}, given)
    assert configured(space, learning_rate=0.1, optimizer="sgd") == Training(
        optimizer="sgd", momentum=0.8, learning_rate=0.1, batch_size=16
    )
    assert configured(space, learning_rate=0.1, optimizer="adamw") == Training(learning_rate=0.1, batch_size=16)
    assert configured(a_space({}, given)) == given
    assert configured(a_space({})) == Training()


def test_what_has_an_effect_in_some_trials_only_is_named() -> None:
    space = a_space({"optimizer": OPTIMIZER, "momentum": MOMENTUM})
    (warning,) = idle_warnings(space.task.training, space.training)
    assert warning == (
        "momentum is searched in all trials, but momentum has no effect with optimizer 'adamw', which has betas in its "
        "place"
    )
    assert idle_warnings(Training(optimizer="sgd"), {"momentum": MOMENTUM}) == []


def test_what_a_task_sets_and_the_space_leaves_without_effect_is_named() -> None:
    given = Training(optimizer="sgd", momentum=0.8)
    (warning,) = idle_warnings(given, {"optimizer": CategoricalDistribution(["adam", "adamw"])})
    assert warning.startswith("the training's momentum has no effect with optimizer 'adam'")
    assert idle_warnings(given, {"optimizer": OPTIMIZER}) == []


def test_fixing_a_parameter_holds_what_has_no_effect_beside_it() -> None:
    space = a_space({"optimizer": OPTIMIZER, "momentum": MOMENTUM})
    held = space.fixed({"optimizer": "adamw"})
    assert held.training["momentum"].single() and held.groups["tuned"] == []
    assert space.fixed({"optimizer": "sgd"}).groups["tuned"] == ["momentum"]
    assert space.fixed({"optimizer": "sgd", "momentum": "0.5"}).middle()["momentum"] == 0.5
    with pytest.raises(HarnessError, match=r"--fix optimizer must be one of \['adamw', 'sgd'\], but got 'adam'"):
        space.fixed({"optimizer": "adam"})


@pytest.mark.parametrize(
    ("training", "group", "sizes"),
    [
        (Training(), {}, [64]),
        (Training(batch_size=16), {}, [16]),
        (Training(batch_size=16), {"batch_size": CategoricalDistribution([128, 32])}, [32, 128]),
        (Training(batch_size=16), {"batch_size": CategoricalDistribution([None, 32])}, [16, 32]),
        (Training(), {"batch_size": IntDistribution(8, 256, log=True)}, [8, 256]),
    ],
)
def test_batch_sizes_are_those_that_trials_may_have(
    training: Training, group: dict[str, BaseDistribution], sizes: list[int]
) -> None:
    assert batch_sizes(training, group, 64) == sizes


def test_the_variants_have_each_choice_and_each_end_beside_the_middle() -> None:
    space = a_space({"optimizer": OPTIMIZER, "label_smoothing": FloatDistribution(0, 0.2)})
    found = training_variants(space.task.training, space.training)
    assert [(one.optimizer, one.label_smoothing) for one in found] == [
        ("adamw", 0.1), ("adamw", 0.1), ("sgd", 0.1), ("adamw", 0.0), ("adamw", 0.2),
    ]  # fmt: skip


def test_a_parameter_has_an_effect_beside_the_choices_that_are_named() -> None:
    group = {"optimizer": OPTIMIZER, "momentum": MOMENTUM, "schedule": CategoricalDistribution(["cosine", "step"])}
    assert beside_effect(Training(), group, "momentum") == {"optimizer": "sgd", "schedule": "cosine"}
    assert beside_effect(Training(), group, "optimizer") == {"schedule": "cosine"}
