"""New data of a study's form: taken from its kind of data or from the task's data(path), or refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from harness.core.errors import HarnessError
from harness.preparation.new_data import NEW, attach_new, load_new_data
from harness.task import Task
from lightning_modules.data import Split, TensorDataModule
from lightning_modules.outputs import Classification, Regression

DEVICE = torch.device("cpu")


def split(size: int, seed: int, *, width: int = 3, classes: int = 4) -> Split:
    draw = torch.Generator().manual_seed(seed)
    return Split(torch.randn(size, width, generator=draw), torch.arange(size) % classes)


def module(seed: int, test: Split | None = None) -> TensorDataModule:
    test = split(8, seed + 2) if test is None else test
    return TensorDataModule(train=split(8, seed), val=split(8, seed + 1), test=test)


def task_of(make: Callable[[Path | None], TensorDataModule]) -> Task:
    return cast(Task, SimpleNamespace(data=make, output=Classification()))


@pytest.fixture(autouse=True)
def loaded_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.preparation.new_data.load_data", lambda task, path: task.data(path))


def test_the_test_split_of_the_tasks_data_at_that_place_is_new() -> None:
    seen, other = [], module(50)

    def make(path: Path | None) -> TensorDataModule:
        seen.append(path)
        return other

    old = module(0)
    new = load_new_data(task_of(make), Path("there"), old)
    assert seen == [Path("there")] and list(new.splits) == [NEW] and list(old.splits) == ["train", "val", "test"]
    assert torch.equal(cast(Tensor, new.splits[NEW].inputs), cast(Tensor, other.splits["test"].inputs))


def test_a_kind_of_data_that_knows_how_is_asked_before_the_task() -> None:
    class Knowing(TensorDataModule):
        def new_samples(self, path: Path) -> Split:
            return split(5, 9) if path.name == "there" else split(0, 0)

    data = Knowing(train=split(8, 0), val=split(8, 1), test=split(8, 2))
    assert len(load_new_data(task_of(lambda path: module(1)), Path("there"), data).splits[NEW]) == 5
    with pytest.raises(HarnessError, match=r"^--on elsewhere: inputs and labels of a split must have"):
        load_new_data(task_of(lambda path: module(1)), Path("elsewhere"), data)


def test_batches_of_new_data_are_those_of_the_split_in_order() -> None:
    new = load_new_data(task_of(lambda path: module(50)), Path("there"), module(0))
    new.attach({NEW: {"logits": torch.zeros(8, 4)}})
    batches = [batch for item in new.ordered(NEW) for batch in item]
    assert torch.cat([batch.ids for batch in batches]).tolist() == list(range(8))


@pytest.mark.parametrize(
    ("test", "said"),
    [
        (split(8, 9, width=5), r"inputs of new data must be \(3,\) float32, as in training, but are \(5,\) float32"),
        (split(8, 9, classes=5), "must be of the 4 classes or columns that were trained on, but need 5"),
        (Split({"a": torch.ones(4, 3)}, torch.arange(4)), r"must be \(3,\) float32, as in training, but are a \(3,\)"),
        (Split(torch.ones(4, 3), torch.ones(4)), "labels of new data must be"),
        (split(8, 2), "has not, but these are its samples of test"),  # of a task that has no use for the folder
        (split(8, 0), "has not, but these are its samples of train"),
    ],
)
def test_samples_of_another_form_and_those_of_the_study_are_refused(test: Split, said: str) -> None:
    with pytest.raises(HarnessError, match=said):
        load_new_data(task_of(lambda path: module(50, test)), Path("there"), module(0))


def test_fewer_classes_are_new_data_and_fewer_columns_are_not() -> None:
    few = module(50, split(8, 9, classes=2))
    assert len(load_new_data(task_of(lambda path: few), Path("there"), module(0)).splits[NEW]) == 8

    def of_numbers(columns: int) -> TensorDataModule:
        parts: Any = {name: Split(torch.randn(6, 3), torch.randn(6, columns)) for name in ("train", "val", "test")}
        return TensorDataModule(**parts)

    task = cast(Task, SimpleNamespace(data=lambda path: of_numbers(1), output=Regression()))
    with pytest.raises(HarnessError, match="must be of the 2 classes or columns"):
        load_new_data(task, Path("there"), of_numbers(2))


@pytest.mark.parametrize(
    ("names", "said"), [(("cat", "eel"), "has 2, and 'dog' is not in both"), (("dog", "cat"), "they are in another")]
)
def test_classes_of_other_names_are_refused(names: tuple[str, ...], said: str) -> None:
    old, other = module(0), module(50)
    old.class_names, other.class_names = ("cat", "dog"), names
    with pytest.raises(HarnessError, match=said):
        load_new_data(task_of(lambda path: other), Path("there"), old)


def test_the_average_of_the_teachers_is_joined_to_new_data_and_the_rest_is_as_before() -> None:
    new = load_new_data(task_of(lambda path: module(50)), Path("there"), module(0))
    one, other = torch.randn(8, 4), torch.randn(8, 4)
    known = torch.zeros(8, 4)
    outputs = [{"val": {"logits": known}, NEW: {"logits": logits}} for logits in (one, other)]
    assert attach_new(new, outputs, "logits", Classification()) == [{"val": {"logits": known}}] * 2
    found = new.teacher_outputs[NEW]["logits"]
    torch.testing.assert_close(found.softmax(1), ((one + other) / 2).softmax(1))
