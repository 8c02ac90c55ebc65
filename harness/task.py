"""What is being compressed: the contract between a user's task and the engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytorch_lightning as pl
import torch
from torch import nn
from torchmetrics import Metric

from lightning_modules.batch import Inputs
from lightning_modules.data.own import data_module_of, is_lightning
from lightning_modules.data.sampling import EpochSampler
from lightning_modules.data.tensors import Split, TensorDataModule
from lightning_modules.data.unlabelled import check_labels
from lightning_modules.outputs import Classification, Output
from lightning_modules.top_k import TopK
from lightning_modules.training import Training


class Task(ABC):
    """A teacher, its data, and the students that may replace it.

    A task defines either ``student``, whose networks are trained by the space's method, or ``module``, whose
    LightningModules are trained by their own code.

    Attributes:
        output: What a network's output means (``lightning_modules.outputs``).
        metric_name: Name of what ``metric`` returns, in the log and as an objective; empty takes that of the output's
            own primary metric.
        metric_direction: ``"maximize"`` or ``"minimize"``: which way ``metric`` is better; empty takes that of the
            output's own primary metric, or ``"maximize"`` where ``metric`` is the task's own.
        training: How students are trained; what a space varies in its ``training`` group wins. Not beside ``module``.
        class_names: Names of the classes in reports, in their order; empty uses their numbers.
        teacher_epochs: Epochs of the teacher's training, where no checkpoint is given.
        teacher_learning_rate: Peak learning rate of that training.
        teacher_outputs_dtype: ``"float16"`` stores what teachers say of training samples in half of the bytes; the
            largest error is said, and losses are computed in float32 all the same.
        teacher_outputs: ``TopK(64)`` of ``harness.teachers`` stores the 64 largest logits of a teacher, and the rest as
            one bucket, for outputs of many classes; ``None`` stores all.
        teacher_training: How it is trained, in place of ``teacher_learning_rate``; ``None`` is the default training.
    """

    output: ClassVar[Output] = Classification()
    metric_name: ClassVar[str] = ""
    metric_direction: ClassVar[str] = ""
    training: ClassVar[Training] = Training()
    class_names: ClassVar[tuple[str, ...]] = ()
    teacher_epochs: ClassVar[int] = 20
    teacher_learning_rate: ClassVar[float] = 1e-2
    teacher_training: ClassVar[Training | None] = None
    teacher_outputs_dtype: ClassVar[str] = "float32"
    teacher_outputs: ClassVar[TopK | None] = None

    @abstractmethod
    def data(self, data_dir: Path | None) -> TensorDataModule | Any:
        """Return the data in fixed train, validation and test splits; the same ones at each call.

        Training samples may have no label, as each output kind marks it (``Output.is_labelled``): the teacher labels
        them.

        A ``LightningDataModule`` of map-style datasets is taken too (``lightning_modules.data.own``).

        Args:
            data_dir: The value of ``--data-dir``.
        """

    def sampler(self, split: Split, seed: int, epoch: int) -> Iterable[int]:
        """Return which training samples an epoch shows, in their order, as positions in the split.

        By default each is shown once, in an order drawn by seed and epoch. Leave samples out or repeat them, as many in
        each epoch; the seed (of a trial and its controls) and the epoch alone must decide. Teachers that are trained
        here are shown the same.

        Args:
            split: The training samples, on the CPU.
            seed: Seed of the training.
            epoch: The epoch, from 0.
        """
        raise NotImplementedError

    @abstractmethod
    def teacher(self) -> nn.Module:
        """Return a teacher with fresh weights: from a batch's inputs to an output, for a classifier logits (B, C).

        The output may be an object with ``logits``, as networks of Transformers give it; so may a student's.
        """

    def student(self, *args: Any, **architecture: Any) -> nn.Module:
        """Return a student with fresh weights: from a batch's inputs to an output of the teacher's shape.

        Args:
            args: Empty; it lets a task declare its own keywords, as ``student(self, *, width: int)``, under mypy too.
            architecture: A value for each parameter of the space's ``student`` group. A keyword ``teacher`` is no
                parameter: it is given a frozen copy of the teacher, in eval mode, on the CPU. What is taken of its
                weights must be in the student's own state.
        """
        raise NotImplementedError

    def module(self, *args: Any, **parameters: Any) -> pl.LightningModule:
        """Return a student that trains itself, with fresh weights: a LightningModule with its own ``training_step``.

        Its ``forward`` maps a batch's inputs to an output of the teacher's shape, and is what is costed, scored and
        saved. Its ``training_step`` gets one ``lightning_modules.batch.Batch`` at a time, with ``inputs``, ``target``,
        ``ids`` and ``teacher["logits"]``. With ``alpha=1`` it must read no output of the teacher: so its control is
        trained.

        Args:
            args: Empty, as of ``student``.
            parameters: A value for each parameter of the space, of its groups ``student``, ``distillation`` and
                ``training``. What is built must depend on those of ``student`` alone. A keyword ``teacher`` is given
                a frozen copy of the teacher, as to ``student``.
        """
        raise NotImplementedError

    def teacher_inputs(self, inputs: Inputs) -> Any:
        """Return what a teacher takes that is no PyTorch network, for the inputs of a batch.

        It is asked of such a teacher alone, from ``--teacher FILE`` or from ``teacher()``, as of one that knows images
        with their channels last: ``return inputs.permute(0, 2, 3, 1).numpy()``. Without it, each kind has its default
        (``harness.teachers``). Outputs in a file are joined by ids, and take no inputs.

        Args:
            inputs: A tensor (B, ...), or a dict of tensors.
        """
        return inputs

    def deployed(self, student: nn.Module) -> nn.Module:
        """Return the network that is deployed of a student: it is scored, costed and saved in the student's place.

        By default this is the student itself. Return another network where training needs more than use does: averaged
        weights, a network with its adapters merged, the network within a wrapper. Training changes the student, and an
        epoch's curves and checkpoints are the student's; this method is called after the last epoch, and with a fresh
        student for the costs and wherever a saved student is loaded.

        Args:
            student: From ``student`` or ``module``, trained or fresh; it may be taken apart, for it is not used any
                more. The network must have the same names, shapes and types of state for both: the fresh one is
                costed, and a trained state is loaded into one.
        """
        return student

    def metric(self, classes: int) -> Metric:
        """Return a new primary metric, the only one of the task. By default that of the output.

        Args:
            classes: Number of classes C, labels L or values V of the output.
        """
        return next(iter(self.output.metrics(classes).values()))[0]

    def metrics(self) -> Mapping[str, Metric | tuple[Metric, str]]:
        """Return new metrics by name, the primary one first: each to be maximized, or with its direction beside it.

        All are logged, and may be objectives. By default there is ``metric``, or what the output kind declares.
        """
        return {}


def maps_teacher_inputs(task: Task) -> bool:
    """Return whether a task says what a teacher takes that is no PyTorch network."""
    return _is_overridden(task, "teacher_inputs")


def teacher_outputs_dtype(task: Task) -> torch.dtype:
    """Return the type in which a teacher's outputs for training samples are stored.

    Raises:
        ValueError: If a task names another one than float32 and float16.
    """
    known = {"float32": torch.float32, "float16": torch.float16}
    if task.teacher_outputs_dtype not in known:
        raise ValueError(
            f"teacher_outputs_dtype must be 'float32' or 'float16', but got {task.teacher_outputs_dtype!r}."
        )
    return known[task.teacher_outputs_dtype]


def check_teacher_outputs(task: Task) -> None:
    """Check in which form a task has its teacher's outputs stored.

    Raises:
        ValueError: If it is none, or the task names a type too.
    """
    form: Any = task.teacher_outputs
    if form is not None and not isinstance(form, TopK):
        raise ValueError(f"teacher_outputs must be TopK(..) of harness.teachers, or None for all, but got {form!r}.")
    if teacher_outputs_dtype(task) != torch.float32 and form is not None:
        raise ValueError(f"TopK({form.k}) is stored in float16 in any case: leave teacher_outputs_dtype out.")


def teacher_training(task: Task) -> Training:
    """Return how the teacher of a task is trained."""
    return task.teacher_training or Training(learning_rate=task.teacher_learning_rate)


def has_own_training(task: Task) -> bool:
    """Return whether a task's students train themselves: it defines ``module`` in place of ``student``.

    Raises:
        ValueError: If it defines both, or neither.
    """
    own, by_method = _is_overridden(task, "module"), _is_overridden(task, "student")
    if own == by_method:
        raise ValueError(
            "a task must define student(), trained by the space's method, or module(), a LightningModule trained by "
            f"its own code, but {type(task).__name__} defines {'both; leave one out' if own else 'neither'}."
        )
    return own


def class_names(task: Task, from_data: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Return the names of the classes as strings; empty where neither a task nor its data name any.

    Args:
        task: The task.
        from_data: The names that its data give, for a task that gives none.

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
    return texts or from_data


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


@dataclass(frozen=True)
class TaskMetric:
    """A metric that a task declares.

    Attributes:
        name: Its name in the log and as an objective.
        direction: ``"maximize"`` or ``"minimize"``.
    """

    name: str
    direction: str


def declared_metrics(task: Task) -> tuple[TaskMetric, ...]:
    """Return the metrics that a task declares, the primary one first.

    Raises:
        ValueError: If they are declared in another form.
    """
    if _is_overridden(task, "metrics"):
        if _is_overridden(task, "metric"):
            raise ValueError(
                "a task must declare metrics() or metric(), but has both; give metrics() the one of metric()."
            )
        for name in ("metric_name", "metric_direction"):
            if getattr(task, name):
                raise ValueError(
                    f"{name} belongs to metric(), but the task has metrics(), which says both; leave it out."
                )
        return tuple(TaskMetric(name, direction) for name, (_, direction) in _given_metrics(task).items())
    default = [TaskMetric(name, direction) for name, direction in task.output.metric_directions.items()]
    if not _has_one_metric(task):
        return tuple(default)
    direction = task.metric_direction or ("maximize" if _is_overridden(task, "metric") else default[0].direction)
    return (TaskMetric(task.metric_name or default[0].name, direction),)


def primary_metric(task: Task) -> TaskMetric:
    """Return the primary metric of a task."""
    return declared_metrics(task)[0]


def make_metrics(task: Task, classes: int) -> dict[str, Metric]:
    """Return new metrics of a task by name, the primary one first.

    Args:
        task: The task.
        classes: Number of classes C, labels L or values V of its output.
    """
    if _is_overridden(task, "metrics"):
        return {name: metric for name, (metric, _) in _given_metrics(task).items()}
    if _has_one_metric(task):
        return {primary_metric(task).name: task.metric(classes)}
    return {name: metric for name, (metric, _) in task.output.metrics(classes).items()}


def _has_one_metric(task: Task) -> bool:
    """Return whether a task names or defines its only metric itself."""
    return _is_overridden(task, "metric") or bool(task.metric_name or task.metric_direction)


def _given_metrics(task: Task) -> dict[str, tuple[Metric, str]]:
    given: Any = task.metrics()
    if not isinstance(given, Mapping) or not given:
        raise ValueError(
            f"metrics() must return metrics by name, the primary one first, but returned {type(given).__name__}."
        )
    found = {}
    for name, value in given.items():
        metric, direction = value if isinstance(value, tuple) and len(value) == 2 else (value, "maximize")
        if not isinstance(metric, Metric):
            raise ValueError(
                f"metrics() must give a torchmetrics.Metric for {name!r}, or one with 'maximize' or 'minimize' beside "
                f"it, but gives {value!r}."
            )
        found[str(name)] = (metric, str(direction))
    return found


def _is_overridden(task: Task, method: str) -> bool:
    return getattr(type(task), method) is not getattr(Task, method)


def load_data(task: Task, data_dir: Path | None) -> TensorDataModule:
    """Return the data of a task, its labels checked against the task's output kind.

    Raises:
        TypeError: If the task returns no data module.
        ValueError: If labels are not of the output's kind or missing where they are needed, or the task's sampler can't
            be followed.
    """
    data = task.data(data_dir)
    if not isinstance(data, TensorDataModule) and is_lightning(data):
        data = data_module_of(data)
    if not isinstance(data, TensorDataModule):
        raise TypeError(
            f"data() must return a TensorDataModule or a LightningDataModule, but returned {type(data).__name__}."
        )
    for fold in data.folds:
        check_labels(fold.splits, task.output, folds=len(data.folds))
        fold.is_labelled = task.output.is_labelled
        if _is_overridden(task, "sampler"):
            fold.sampler = EpochSampler(task.sampler, fold.splits["train"])
    return data
