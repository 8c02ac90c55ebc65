"""What is being compressed: the contract between a user's task and the engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from torch import nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from lightning_modules.tensors import TensorDataModule


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
        """The data in fixed train, validation and test splits; the same ones at each call.

        Args:
            data_dir: What the person passed as ``--data-dir``.
        """

    @abstractmethod
    def teacher(self) -> nn.Module:
        """A teacher with fresh weights: from a batch's inputs to logits (B, C)."""

    @abstractmethod
    def student(self, *args: Any, **architecture: Any) -> nn.Module:
        """A student with fresh weights: from a batch's inputs to logits (B, C).

        Args:
            args: None; it lets a task name its own keywords, as ``student(self, *, width: int)``, under mypy too.
            architecture: A value for each parameter of the space's ``student`` group.
        """

    def metric(self, classes: int) -> Metric:
        """A new primary metric, updated with logits (B, C) and labels (B,)."""
        return MulticlassAccuracy(num_classes=classes, average="micro", validate_args=False)
