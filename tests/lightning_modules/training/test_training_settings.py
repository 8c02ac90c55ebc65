"""What a training can be told, and what it refuses: values out of range, and keywords without effect."""

from __future__ import annotations

import functools
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch

from lightning_modules.training import Training
from lightning_modules.training.settings import without_effect
from lightning_modules.training.values import KEYWORDS, checked


def test_each_keyword_has_a_check_and_each_check_a_keyword() -> None:
    assert [field.name for field in fields(Training)] == list(KEYWORDS)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"optimizer": "adamv"}, r"optimizer must be one of adamw, adam, sgd, or a factory, but got 'adamv'; did you"),
        ({"optimizer": None}, "optimizer must be one of adamw, adam, sgd, or a factory, but got None"),
        ({"learning_rate": 0}, "learning_rate must be positive and finite, but got 0"),
        ({"learning_rate": float("inf")}, "learning_rate must be positive and finite, but got inf"),
        ({"learning_rate": "0.1"}, "learning_rate must be positive and finite, but got '0.1'"),
        ({"learning_rate": True}, "learning_rate must be positive and finite, but got True"),
        ({"optimizer": "sgd", "momentum": 1.0}, r"momentum must be in \[0, 1\), but got 1.0"),
        ({"weight_decay": -1e-4}, "weight_decay must be at least 0 and finite, but got -0.0001"),
        ({"weight_decay": float("nan")}, "weight_decay must be at least 0 and finite, but got nan"),
        ({"decay_on": "norms"}, "decay_on must be one of weights, all, but got 'norms'"),
        ({"schedule": "cosinus"}, "schedule must be one of one_cycle, cosine, step, constant, .*; did you mean 'cosi"),
        ({"warmup": 1.0}, r"warmup must be in \[0, 1\), but got 1.0"),
        ({"schedule": "step", "milestones": (0.75, 0.5)}, r"milestones must be shares of the steps in \(0, 1\), asc"),
        ({"schedule": "step", "milestones": (30, 60)}, r"milestones must be shares of the steps in \(0, 1\)"),
        ({"schedule": "step", "milestones": ()}, r"milestones must be shares of the steps in \(0, 1\)"),
        ({"schedule": "step", "step_factor": 1.0}, r"step_factor must be in \(0, 1\), but got 1.0"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, but got 0"),
        ({"batch_size": 32.0}, "batch_size must be a whole number of at least 1, but got 32.0"),
        ({"accumulate": 0}, "accumulate must be a whole number of at least 1, but got 0"),
        ({"accumulate": True}, "accumulate must be a whole number of at least 1, but got True"),
        ({"clip_norm": 0.0}, "clip_norm must be positive and finite, but got 0.0"),
        ({"precision": "bf16"}, "precision must be one of 32, bf16-mixed, but got 'bf16'"),
        ({"precision": 16}, "precision must be one of 32, bf16-mixed, but got 16"),
        ({"ema_decay": 1.0}, r"ema_decay must be in \(0, 1\), but got 1.0"),
        ({"label_smoothing": 1.0}, r"label_smoothing must be in \[0, 1\), but got 1.0"),
        ({"groups": {"head.*": 10.0}}, "groups must be patterns of names with factors, as .*but got {'head.*': 10.0}"),
        ({"groups": {"head.*": {"lr": 10.0}}}, "groups must be one of learning_rate, weight_decay, frozen, but got"),
        ({"groups": {"head.*": {"learning_rate": -1.0}}}, "groups must be factors of at least 0 and finite, but got"),
        ({"groups": ["head.*"]}, "groups must be patterns of names with factors"),
    ],
)  # fmt: skip
def test_a_value_out_of_its_range_is_refused_in_one_line(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}") as caught:
        Training(**given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"momentum": 0.9},
            "momentum has no effect with optimizer 'adamw', which has betas in its place; leave it out",
        ),
        ({"optimizer": "adam", "momentum": 0.9}, "momentum has no effect with optimizer 'adam'"),
        ({"milestones": (0.5,)}, "milestones has no effect with schedule 'one_cycle', only with 'step'"),
        ({"schedule": "cosine", "step_factor": 0.5}, "step_factor has no effect with schedule 'cosine'"),
        ({"weight_decay": 0.0, "decay_on": "weights"}, "decay_on has no effect with weight_decay 0"),
        ({"optimizer": torch.optim.SGD, "decay_on": "all"}, "decay_on has no effect with a factory's optimizer"),
    ],
)
def test_a_keyword_without_effect_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        Training(**given)


def test_numbers_of_numpy_become_pythons() -> None:
    made = Training(learning_rate=np.float32(0.5), batch_size=np.int64(8), schedule="step", milestones=[0.25, 0.5])
    assert (made.learning_rate, made.batch_size, made.milestones) == (0.5, 8, (0.25, 0.5))
    assert type(made.learning_rate) is float and type(made.batch_size) is int


def test_what_is_varied_wins_and_what_it_leaves_without_effect_goes() -> None:
    base = Training(optimizer="sgd", momentum=0.8, schedule="cosine", learning_rate=0.1)
    assert base.varied({"learning_rate": 0.5}) == Training(
        optimizer="sgd", momentum=0.8, schedule="cosine", learning_rate=0.5
    )
    assert base.varied({"optimizer": "adam"}) == Training(optimizer="adam", schedule="cosine", learning_rate=0.1)
    assert base.varied({"optimizer": "adam", "momentum": 0.5}).momentum is None
    assert base.varied({}) == base
    with pytest.raises(ValueError, match=r"momentum must be in \[0, 1\), but got 2"):
        base.varied({"optimizer": "adam", "momentum": 2})  # though adam has none
    with pytest.raises(ValueError, match=r"a training must name some of optimizer, .*but got 'lr'"):
        base.varied({"lr": 2})


def test_defaults_depend_on_optimizer_and_schedule() -> None:
    assert [Training(schedule=name).warm_up for name in ("one_cycle", "cosine", "constant")] == [0.3, 0.0, 0.0]
    assert [Training(optimizer=name).decays_all for name in ("adamw", "adam", "sgd")] == [True, False, False]
    assert not Training(decay_on="weights").decays_all and Training(optimizer="sgd", decay_on="all").decays_all
    assert Training().decay == 1e-4 and Training(optimizer=torch.optim.SGD).decay is None
    assert Training(optimizer=torch.optim.SGD, weight_decay=0.5).decay == 0.5


@pytest.mark.parametrize(("batches", "accumulate", "steps"), [(6, 1, 6), (6, 3, 2), (7, 3, 3), (2, 4, 1)])
def test_the_last_step_of_an_epoch_takes_the_batches_that_are_left(batches: int, accumulate: int, steps: int) -> None:
    assert Training(accumulate=accumulate).steps_per_epoch(batches) == steps


def test_the_text_says_what_is_not_the_default() -> None:
    assert Training().texts() == {}
    factory = functools.partial(torch.optim.RMSprop, alpha=0.5)
    made = Training(optimizer=factory, label_smoothing=0.1, groups={"a": {"learning_rate": 2}})
    assert made.texts() == {
        "optimizer": "RMSprop(alpha=0.5)", "label_smoothing": "0.1", "groups": "{'a': {'learning_rate': 2.0}}",
    }  # fmt: skip


def test_a_keyword_that_is_not_given_has_no_say() -> None:
    assert without_effect({"momentum": None, "milestones": None, "decay_on": None}) == {}
    assert checked("ema_decay", None) is None
