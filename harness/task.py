"""What is being compressed: the contract between a user's task and the engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from lightning_modules.data.tensors import TensorDataModule


class Task(ABC):
    """A teacher, the data it knows, and the students that may replace it.

    Attributes:
        metric_name: Name of the primary metric, in the log and as an objective.
        metric_direction: ``"maximize"`` or ``"minimize"``.
        class_names: What a report calls the classes, in their order; empty calls them by their numbers.
        teacher_epochs: Epochs for which a teacher is trained, where none is given.
        teacher_learning_rate: Peak learning rate of that training.
    """

    metric_name: ClassVar[str] = "accuracy"
    metric_direction: ClassVar[str] = "maximize"
    class_names: ClassVar[tuple[str, ...]] = ()
    teacher_epochs: ClassVar[int] = 20
    teacher_learning_rate: ClassVar[float] = 1e-2

    @abstractmethod
    def data(self, data_dir: Path | None) -> TensorDataModule:
        """Return the data in fixed train, validation and test splits; the same ones at each call.

        Args:
            data_dir: What the person passed as ``--data-dir``.
        """

    @abstractmethod
    def teacher(self) -> nn.Module:
        """Return a teacher with fresh weights: from a batch's inputs to logits (B, C)."""

    @abstractmethod
    def student(self, *args: Any, **architecture: Any) -> nn.Module:
        """Return a student with fresh weights: from a batch's inputs to logits (B, C).

        Args:
            args: None; it lets a task name its own keywords, as ``student(self, *, width: int)``, under mypy too.
            architecture: A value for each parameter of the space's ``student`` group.
        """

    def deployed(self, student: nn.Module) -> nn.Module:
        """Return the network that is used in the end, of a student: scored, costed and saved in the student's place.

        By default the student itself. Return what stands in for it where training needs more than use does: averaged
        weights, a network with its adapters merged, the network within a wrapper. What training changes is the student,
        and what an epoch's curves say is of the student; this is asked once its last epoch is over, and of a fresh
        student, for the costs and wherever a saved student is loaded. A student's checkpoints hold the student.

        Args:
            student: From ``student``, trained or fresh; it may be taken apart, for nothing else is done with it. Of
                either, the network must have a state of the same names, shapes and types: the costs are those of the
                fresh one, and what was trained is loaded into one.
        """
        return student

    def metric(self, classes: int) -> Metric:
        """Return a new primary metric, updated with logits (B, C) and labels (B,)."""
        return MulticlassAccuracy(num_classes=classes, average="micro", validate_args=False)


def class_names(task: Task) -> tuple[str, ...]:
    """Return what a report calls the classes; empty where a task names none.

    Raises:
        ValueError: If the task has no sequence of names, or one names several classes.
    """
    given: Any = task.class_names
    names = given.tolist() if isinstance(given, np.ndarray) else () if given is None else given
    if (
        not isinstance(names, Sequence)
        or isinstance(names, str | bytes)
        or not all(isinstance(name, str | Integral) for name in names)
    ):
        raise ValueError(
            f"class_names must be a sequence of strings or integers, in the order of the classes, but got {given!r}."
        )
    texts = tuple(map(str, names))
    for name in texts:
        if texts.count(name) > 1:
            classes = [str(number) for number, text in enumerate(texts) if text == name]
            shown = [*classes[:_SHOWN], *([f"{len(classes) - _SHOWN} more"] if len(classes) > _SHOWN else [])]
            raise ValueError(
                f"class_names must tell the classes apart, but {name!r} names classes {', '.join(shown[:-1])} and "
                f"{shown[-1]}; give each a name of its own."
            )
    return texts


_SHOWN = 3  # classes that are named


def deployed_network(task: Task, student: nn.Module) -> nn.Module:
    """Return the network that the task deploys of a student.

    Raises:
        TypeError: If the task returns anything else.
    """
    network = task.deployed(student)
    if not isinstance(network, nn.Module):
        raise TypeError(f"deployed(student) must return an nn.Module, but returned {type(network).__name__}")
    return network
