"""Checks of how students are trained, before a trial trains: optimizers that are built, patterns, the device."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from torch import nn

from harness.core.errors import Unfit
from harness.preparation.training_checks import check_trainings, fixed_training, training_line, training_surprises
from harness.space import SearchSpace
from harness.task import Task
from lightning_modules.data.tensors import Split, TensorDataModule
from lightning_modules.training import Training

CPU = torch.device("cpu")
SAMPLES = 20


def a_space(training: Training, group: dict[str, BaseDistribution] | None = None, *, epochs: int = 5) -> SearchSpace:
    given = training

    class Own(Task):
        training = given

        def data(self, data_dir: object) -> TensorDataModule:
            raise NotImplementedError

        def teacher(self) -> nn.Module:
            raise NotImplementedError

        def student(self, *, depth: int) -> nn.Module:
            return nn.Sequential(*(nn.Linear(3, 3) for _ in range(depth)))

    return SearchSpace(
        task=Own(),
        student={"depth": IntDistribution(1, 3)},
        distillation={"temperature": FloatDistribution(1, 9), "alpha": FloatDistribution(0, 1)},
        training=group or {},
        epochs=epochs,
    )


def some_data() -> TensorDataModule:
    split = Split(torch.randn(SAMPLES, 3), torch.arange(SAMPLES) % 3)
    return TensorDataModule(train=split, val=split, test=split, batch_size=4)


@pytest.fixture
def no_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_modules.training.precision.has_bfloat16", lambda device: False)


def test_a_pattern_must_match_a_parameter_of_some_student() -> None:
    check_trainings(a_space(Training(groups={"2.*": {"learning_rate": 2.0}})), some_data())  # of the deepest
    with pytest.raises(
        Unfit, match=r"'head\.\*' matches none, .*; student\(depth=2\) has 0.weight, 0.bias, 1.weight, 1"
    ):
        check_trainings(a_space(Training(groups={"head.*": {"learning_rate": 2.0}})), some_data())


def test_a_factory_is_tried_before_anything_trains() -> None:
    check_trainings(a_space(Training(optimizer=torch.optim.NAdam)), some_data())
    with pytest.raises(ValueError, match="Adagrad must return an optimizer with momentum, which is set"):
        check_trainings(
            a_space(Training(optimizer=torch.optim.Adagrad), {"momentum": FloatDistribution(0, 0.9)}), some_data()
        )


@pytest.mark.usefixtures("no_bfloat16")
def test_a_precision_that_the_device_lacks_is_named_and_not_searched() -> None:
    space, data = a_space(Training(precision="bf16-mixed")), some_data()
    check_trainings(space, data)
    assert list(training_surprises(space, data)) == [
        "students are trained in precision 32 in place of bf16-mixed, for the cpu has no bfloat16"
    ]
    assert fixed_training(space, CPU) == {"precision": "32"}
    searched = a_space(Training(), {"precision": CategoricalDistribution(["32", "bf16-mixed"])})
    with pytest.raises(
        Unfit, match=r"the cpu has no bfloat16: all trials would be the same; hold it: --fix precision="
    ):
        check_trainings(searched, data)
    check_trainings(searched.fixed({"precision": "32"}), data)


def test_where_the_device_has_it_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_modules.training.precision.has_bfloat16", lambda device: True)
    space = a_space(Training(precision="bf16-mixed"))
    assert list(training_surprises(space, some_data())) == []
    assert fixed_training(space, CPU) == {"precision": "bf16-mixed"}


@pytest.mark.parametrize(
    ("given", "group", "said"),
    [
        ({}, {}, []),
        ({"batch_size": 64}, {}, ["a batch_size of 64 is that of all 20 training samples in one batch"]),
        (
            {},
            {"batch_size": IntDistribution(4, 32)},
            ["a batch_size of 32 is that of all 20 training samples in one ba"],
        ),
        ({"accumulate": 6}, {}, ["accumulate 6 takes all batches of an epoch, 5, into one step"]),
        ({"accumulate": 5}, {}, []),
        # 5 epochs of 5 steps: 26 / 35
        ({"ema_decay": 0.8}, {}, ["ema_decay 0.8 is not reached: it has grown to 0.743 after 25 steps"]),
        ({"ema_decay": 0.7}, {}, []),
        (
            {},
            {"ema_decay": FloatDistribution(0.9, 0.99)},
            ["ema_decay 0.9 is not reached: it has grown to 0.743 after 25 steps; all from there on are the same"],
        ),
        (
            {"schedule": "step"},
            {"schedule": CategoricalDistribution(["step", "cosine"]), "step_factor": FloatDistribution(0.1, 0.5)},
            ["step_factor is searched in all trials, but step_factor has no effect with schedule 'cosine', only with"],
        ),
    ],
)
def test_what_is_not_as_it_seems_is_said(
    given: dict[str, Any], group: dict[str, BaseDistribution], said: list[str]
) -> None:
    found = list(training_surprises(a_space(Training(**given), group), some_data()))
    assert len(found) == len(said) and all(one.startswith(start) for one, start in zip(found, said, strict=True))


def test_what_is_set_is_told_and_what_is_searched_too() -> None:
    assert training_line(a_space(Training()), CPU) == ""
    assert training_line(a_space(Training(), {"batch_size": IntDistribution(4, 8)}), CPU) == ""
    given = Training(optimizer="sgd", batch_size=8)
    assert training_line(a_space(given), CPU) == "optimizer sgd, batch_size 8"
    searched = a_space(given, {"batch_size": IntDistribution(4, 8)})
    assert training_line(searched, CPU) == "optimizer sgd; searched: batch_size"
    assert fixed_training(searched, CPU) == {"optimizer": "sgd"}
