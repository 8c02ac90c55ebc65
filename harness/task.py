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
from lightning_modules.training import Training


class Task(ABC):
    """A teacher, its data, and the students that may replace it.

    Attributes:
        metric_name: Name of the primary metric, in the log and as an objective.
        metric_direction: ``"maximize"`` or ``"minimize"``.
        training: How students are trained; what a space varies in its ``training`` group wins.
        class_names: Names of the classes in reports, in their order; empty uses their numbers.
        teacher_epochs: Epochs of the teacher's training, where no checkpoint is given.
        teacher_learning_rate: Peak learning rate of that training.
    """

    metric_name: ClassVar[str] = "accuracy"
    metric_direction: ClassVar[str] = "maximize"
    training: ClassVar[Training] = Training()
    class_names: ClassVar[tuple[str, ...]] = ()
    teacher_epochs: ClassVar[int] = 20
    teacher_learning_rate: ClassVar[float] = 1e-2

    @abstractmethod
    def data(self, data_dir: Path | None) -> TensorDataModule:
        """Return the data in fixed train, validation and test splits; the same ones at each call.

        Args:
            data_dir: The value of ``--data-dir``.
        """

    @abstractmethod
    def teacher(self) -> nn.Module:
        """Return a teacher with fresh weights: from a batch's inputs to logits (B, C)."""

    @abstractmethod
    def student(self, *args: Any, **architecture: Any) -> nn.Module:
        """Return a student with fresh weights: from a batch's inputs to logits (B, C).

        Args:
            args: Empty; it lets a task declare its own keywords, as ``student(self, *, width: int)``, under mypy too.
            architecture: A value for each parameter of the space's ``student`` group.
        """

    def deployed(self, student: nn.Module) -> nn.Module:
        """Return the network that is deployed of a student: it is scored, costed and saved in the student's place.

        By default this is the student itself. Return another network where training needs more than use does: averaged
        weights, a network with its adapters merged, the network within a wrapper. Training changes the student, and an
        epoch's curves and checkpoints are the student's; this method is called after the last epoch, and with a fresh
        student for the costs and wherever a saved student is loaded.

        Args:
            student: From ``student``, trained or fresh; it may be taken apart, for it is not used any more. The network
                must have the same names, shapes and types of state for both: the fresh one is costed, and a trained
                state is loaded into one.
        """
        return student

    def metric(self, classes: int) -> Metric:
        """Return a new primary metric, updated with logits (B, C) and labels (B,)."""
        return MulticlassAccuracy(num_classes=classes, average="micro", validate_args=False)


def class_names(task: Task) -> tuple[str, ...]:
    """Return the names of the classes as strings; empty where a task names none.

    Raises:
        ValueError: If ``class_names`` is no sequence of names, or a name stands for several classes.
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
        TypeError: If the task returns no network.
    """
    network = task.deployed(student)
    if not isinstance(network, nn.Module):
        raise TypeError(f"deployed(student) must return an nn.Module, but returned {type(network).__name__}")
    return network
