"""What is doubtful of teachers and students at a glance, and who hears of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from conftest import EXAMPLE, prepared_with_fresh_teacher
from torch import Tensor
from torchmetrics.classification import BinaryAUROC, MulticlassAccuracy, MulticlassAUROC

from harness.core.errors import Unfit
from harness.preparation.chance import chance_level, check_metrics
from harness.preparation.sanity_warnings import network_warnings, task_warnings, training_warnings, unused_methods
from harness.region import Scores
from harness.reporting.notes import notes
from harness.reporting.result import collect
from harness.task import Task
from lightning_modules.outputs import Classification
from search_spaces.digits import Digits

LABELS = torch.tensor([0, 0, 0, 1, 2])
CLASSES = Classification()


def sure_of(classes: Tensor) -> Tensor:
    """Logits that name these classes."""
    return 4 * torch.nn.functional.one_hot(classes, 3) - torch.tensor([1.0, 2.0, 0.5])


def scores(chance: float, *, sign: int = 1) -> Scores:
    return Scores(metric="f1", sign=sign, bounds=(0.0, 1.0), chance=chance, samples=len(LABELS))


def test_a_teacher_that_is_better_than_a_constant_answer_raises_none() -> None:
    assert network_warnings(sure_of(LABELS), CLASSES, scores(0.6), 0.61) == []
    assert network_warnings(sure_of(LABELS), CLASSES, scores(0.6, sign=-1), 0.59) == []
    assert network_warnings(sure_of(LABELS), CLASSES, scores(math.nan), 0.1) == []  # a constant answer has no score
    assert network_warnings(sure_of(LABELS).abs(), CLASSES, scores(0.6), 1.0) == []  # a ReLU is the doctor's to doubt


@pytest.mark.parametrize(("sign", "reached"), [(1, 0.6), (1, 0.2), (-1, 0.7)])
def test_a_teacher_that_is_no_better_than_a_constant_answer_raises_one(sign: int, reached: float) -> None:
    (found,) = network_warnings(sure_of(LABELS), CLASSES, scores(0.6, sign=sign), reached)
    assert found == (
        f"has f1 {reached:.4f} on the validation split, no better than a constant answer, which has 0.6000"
    )


def test_an_imbalanced_tasks_teacher_is_judged_by_the_tasks_own_metric() -> None:
    # 49 of 50 samples are of class 0, which the teacher always names; yet it ranks the one of class 1 first.
    labels = torch.tensor([0] * 49 + [1])
    logits = torch.stack([torch.full((50,), 5.0), torch.linspace(-1, 1, 50)], 1)
    found = {}
    for metric in (MulticlassAUROC(num_classes=2), MulticlassAccuracy(num_classes=2, average="micro")):
        chance = chance_level(metric, CLASSES, labels, 2, sign=1)
        metric.reset()
        metric.update(logits, labels)
        scored = Scores(metric="m", sign=1, bounds=(0.0, 1.0), chance=chance, samples=50)
        found[type(metric).__name__] = (chance, network_warnings(logits, CLASSES, scored, float(metric.compute())))
    assert found["MulticlassAUROC"] == (0.5, [])
    assert found["MulticlassAccuracy"][0] == pytest.approx(0.98) and len(found["MulticlassAccuracy"][1]) == 1


def test_a_teacher_without_a_number_of_its_metric_raises_one() -> None:
    (found,) = network_warnings(sure_of(LABELS), CLASSES, scores(0.6), math.nan)
    assert found.startswith("has f1 nan on the samples that it is scored on: ")
    assert "e.g. zero_division=0" in found


def with_metric(metric: Callable[[int], object]) -> Task:
    """Return a task with a metric of its own."""
    task: Task = type("Own", (Digits,), {"metric": lambda self, classes: metric(classes)})()
    return task


def test_a_metric_must_give_one_number_for_a_perfect_answer() -> None:
    def refusal(metric: Callable[[int], object]) -> str:
        with pytest.raises(Unfit) as told:
            check_metrics(with_metric(metric), LABELS, 3)
        assert "MulticlassAUROC(num_classes=3, average='macro')" in str(told.value)
        return str(told.value)

    shapes = f"outputs of shape ({len(LABELS)}, 3) and labels of shape ({len(LABELS)},)"
    assert f"{shapes}, but BinaryAUROC fails: " in refusal(lambda classes: BinaryAUROC())
    assert "but MulticlassAUROC gives a tensor of shape (3,)" in refusal(lambda c: MulticlassAUROC(c, average=None))
    assert "but float is no torchmetrics.Metric" in refusal(lambda classes: 0.5)
    assert "but it fails: KeyError: 'a'" in refusal(lambda classes: {}["a"])
    one = check_metrics(with_metric(MulticlassAUROC), LABELS, 3)
    assert isinstance(one, MulticlassAUROC)
    assert one.update_count == 0


def test_probabilities_raise_one() -> None:
    (found,) = network_warnings(sure_of(LABELS).softmax(1), CLASSES)
    assert found.startswith("gives probabilities where logits are wanted")
    assert network_warnings(sure_of(LABELS), CLASSES) == []


@pytest.mark.parametrize(("network", "who"), [("perceptron(256)", "the teacher"), ("perceptron(width)", "a student")])
def test_a_search_says_it_of_either_at_its_start_and_beneath_its_result(
    network: str, who: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "cancer.py"
    assert EXAMPLE.count(f"return {network}\n") == 1
    file.write_text(EXAMPLE.replace(f"return {network}\n", f"return nn.Sequential({network}, nn.Softmax(1))\n"))
    study = prepared_with_fresh_teacher(file)
    settings, (checkpoint,) = study.settings, study.settings.teachers
    said = f"{who} gives probabilities where logits are wanted: T and the losses soften them twice"
    look = f"python -m harness doctor --space {file} --runs-dir {settings.runs_dir} --teacher {checkpoint}"
    output = capsys.readouterr().out
    assert f"warning   {said}; look: " in output and f"{look}\n" in output
    assert f"Warning: {said}." in notes(collect(study))


class Trained(pl.LightningModule):
    """Says itself how it is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Linear(2, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.as_tensor(self.net(inputs))

    def training_step(self, batch: object, batch_idx: int) -> None:
        raise AssertionError

    def configure_optimizers(self) -> None:
        raise AssertionError

    def on_train_epoch_end(self) -> None:
        raise AssertionError

    def on_the_side(self) -> None:
        """No hook of Lightning's."""


def test_what_a_lightning_module_says_of_its_training_is_named() -> None:
    names = ["configure_optimizers", "training_step", "on_train_epoch_end"]
    assert unused_methods(Trained()) == unused_methods(torch.nn.Sequential(Trained())) == names
    (found,) = training_warnings(Trained())
    assert "whose configure_optimizers, training_step, on_train_epoch_end will not be used" in found
    assert "--teacher FILE" in found
    assert training_warnings(torch.nn.Linear(2, 2)) == training_warnings(pl.LightningModule()) == []


def test_a_network_in_eval_mode_is_trained_so() -> None:
    (found,) = training_warnings(torch.nn.Linear(2, 2).eval())
    assert found.startswith("is given in eval mode")


def test_what_a_task_declares_almost_right_is_named() -> None:
    class Mine(Task):
        teacher_epoch = 3
        widths = (1, 2)

        def train_dataloader(self) -> None: ...

        def helper(self) -> None: ...

    class Right(Task):
        teacher_epochs = 3

    for cls in (Mine, Right):
        cls.__abstractmethods__ = frozenset()  # type: ignore[attr-defined]
    assert task_warnings(Mine(), Task) == [  # type: ignore[abstract]
        "declares 'teacher_epoch', which nothing asks for; did you mean 'teacher_epochs'?",
        "declares 'train_dataloader', which nothing asks for: a task's networks are trained by the space's method",
    ]
    assert task_warnings(Right(), Task) == []  # type: ignore[abstract]
