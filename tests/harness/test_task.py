"""What a task declares: its output, its metrics and their names, and data that fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassF1Score
from torchmetrics.regression import MeanAbsoluteError, R2Score

from harness.core.errors import HarnessError, Unfit
from harness.preparation.steps import check_class_names
from harness.task import Task, TaskMetric, declared_metrics, load_data, make_metrics, primary_metric
from harness.teachers import StoredOutputs
from harness.teachers.untrained import build_teacher
from lightning_modules.data import Split, TensorDataModule
from lightning_modules.outputs import MultiLabel, Output, Regression, Segmentation
from search_spaces.digits import SPACE, Digits


def task(**attributes: Any) -> Task:
    found: Task = type("Own", (Digits,), attributes)()
    return found


def f1(self: Task, classes: int) -> Metric:
    return MulticlassF1Score(classes)


def several(self: Task) -> dict[str, Any]:
    return {"mae": (MeanAbsoluteError(), "minimize"), "r2": R2Score()}


@pytest.mark.parametrize(
    ("declared", "metrics"),
    [
        ({}, [("accuracy", "maximize")]),
        ({"output": Regression()}, [("mae", "minimize"), ("r2", "maximize")]),
        ({"output": Regression(), "metric_name": "error"}, [("error", "minimize")]),
        ({"metric_name": "acc"}, [("acc", "maximize")]),
        ({"metric": f1}, [("accuracy", "maximize")]),
        ({"metric": f1, "metric_name": "f1"}, [("f1", "maximize")]),
        ({"metric": f1, "metric_name": "loss_of_f1", "metric_direction": "minimize"}, [("loss_of_f1", "minimize")]),
        ({"metrics": several}, [("mae", "minimize"), ("r2", "maximize")]),
    ],
)
def test_the_first_declared_metric_is_primary(declared: dict[str, Any], metrics: list[tuple[str, str]]) -> None:
    found = task(**declared)
    assert declared_metrics(found) == tuple(TaskMetric(*one) for one in metrics)
    assert primary_metric(found) == TaskMetric(*metrics[0])
    made = make_metrics(found, 10)
    assert list(made) == [name for name, _ in metrics] and all(isinstance(one, Metric) for one in made.values())


@pytest.mark.parametrize(
    ("declared", "told"),
    [
        ({"metrics": several, "metric": f1}, r"metrics\(\) or metric\(\), but has both"),
        ({"metrics": several, "metric_name": "f1"}, r"metric_name belongs to metric\(\)"),
        ({"metrics": several, "metric_direction": "minimize"}, r"metric_direction belongs to metric\(\)"),
        ({"metrics": lambda self: {}}, "primary one first, but returned dict"),
        ({"metrics": lambda self: [R2Score()]}, "but returned list"),
        ({"metrics": lambda self: {"r2": 3}}, "a torchmetrics.Metric for 'r2'"),
        ({"metrics": lambda self: {"r2": (R2Score(), "up")}}, "must be 'maximize' or 'minimize', but got 'up'"),
        ({"metrics": lambda self: {"r2": R2Score(), "macs": R2Score()}}, "'macs' has another meaning"),
        ({"metrics": lambda self: {"f1": R2Score(), "width": R2Score()}}, "another name than a parameter"),
        ({"teacher_outputs_dtype": "half"}, "teacher_outputs_dtype must be 'float32' or 'float16', but got 'half'"),
        ({"output": "regression"}, r"output must be an output kind, as Classification\(\)"),
    ],
)
def test_metrics_in_another_form_are_refused_where_the_space_is_declared(declared: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        replace(SPACE, task=task(**declared))


def numbers(output: Output, labels: torch.Tensor) -> Task:
    split = Split(torch.zeros(len(labels), 1, 8, 8), labels)
    return task(output=output, data=lambda self, data_dir: TensorDataModule(train=split, val=split, test=split))


def test_labels_of_another_kind_are_refused_with_the_split_and_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"labels of train must be numbers of shape .* but got .*: call \.float\(\)"):
        load_data(numbers(Regression(), torch.zeros(3, 1, dtype=torch.int64)), None)
    assert len(load_data(numbers(Regression(), torch.zeros(3, 1)), None).splits["val"]) == 3
    with pytest.raises(TypeError, match="must return a TensorDataModule or a LightningDataModule, but returned list"):
        load_data(task(data=lambda self, data_dir: []), None)


def test_class_names_of_a_task_without_classes_are_refused() -> None:
    with pytest.raises(Unfit, match="has class_names, but its output, Regression"):
        check_class_names(task(output=Regression(), class_names=("a",)), 1, 1)
    assert check_class_names(task(output=MultiLabel(2), class_names=("a", "b")), 2, 2) == ("a", "b")
    assert check_class_names(task(), 2, 2, ("cat", "dog")) == ("cat", "dog")  # those of the data


def test_a_teacher_that_is_no_network_teaches_one_row_a_sample(tmp_path: Path) -> None:
    teacher = StoredOutputs([1, 2], [[0.5, 0.5], [0.1, 0.9]], kind="probabilities")

    class Traits(Digits):
        output = Segmentation(2)

        def teacher(self) -> Any:
            return teacher

        def student(self, *, width: int) -> Any:
            return nn.Linear(1, 2)

    from conftest import settings_in

    space = replace(SPACE, task=Traits())
    with pytest.raises(
        HarnessError,
        match=r"a StoredOutputs must give one row of numbers for each sample, but .* Segmentation\(2\)",
    ):
        build_teacher(space, space.task.data(None), settings_in(tmp_path / "runs", trials=1))
