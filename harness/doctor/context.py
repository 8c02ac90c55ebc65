"""Hold the task under examination, with what earlier checks found of it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from harness.networks.student_checks import Students
from harness.networks.students import build_student
from harness.preparation.method_checks import teacher_layers
from harness.preparation.teacher_checks import sample_of
from harness.settings import Settings
from harness.space import Configuration, SearchSpace
from harness.students.training import StudentTraining, begin_student, student_module, student_training
from harness.task import deployed_network
from harness.teachers.black_box import BlackBoxTeacher
from harness.training.fit import seed_draws
from lightning_modules.batch import Batch, Inputs, select
from lightning_modules.classifier import ClassifierModule, StudentModule, weighted_sum
from lightning_modules.data.tensors import TensorDataModule
from lightning_modules.data.unlabelled import spread_over_both

SAMPLES = 128  # of a split, evenly spaced: enough for batches and views, and fast to evaluate
BATCH = 64
STEPS = 3
EPOCHS = 2  # length of a training: terms that grow over epochs are present in the last one


@dataclass(eq=False)
class CheckContext:
    """A task and its space under examination.

    Attributes:
        settings: The settings of the command.
        device: Device of the networks.
        space: The space.
        data: Its whole data, on the CPU.
        dataset: Fingerprint of the data.
        classes: Number of classes C, by the labels first, and by the logits once they are known.
        sample: Some samples of each split, on the device, joined to the teacher's outputs once there are any.
        teacher: The teacher, in eval mode.
        black_box: What is asked, where the teacher is no PyTorch network: ``teacher`` calls it, if it can be called.
        teacher_map: Maps what the teacher answers to what students are to give; ``None`` where it is the same.
        teacher_is_trained: Whether it is trained, or used as it is: only then do its predictions mean anything.
        students: Architectures with their number of parameters, in ascending order.
        kinds: Results of students of every kind.
        methods: The space's methods that fit the task.
        trained: What Lightning trains of a student, after an epoch on the sample.
        trained_student: The student of it.
    """

    settings: Settings
    device: torch.device
    space: SearchSpace = field(init=False)
    data: TensorDataModule = field(init=False)
    dataset: str = field(init=False)
    classes: int = field(init=False)
    sample: TensorDataModule = field(init=False)
    teacher: nn.Module = field(init=False)
    teacher_is_trained: bool = field(init=False)
    black_box: BlackBoxTeacher | None = field(init=False, default=None)
    teacher_map: Callable[[Tensor], Tensor] | None = field(init=False, default=None)
    students: list[tuple[dict[str, Any], int]] = field(init=False)
    kinds: Students = field(init=False)
    methods: list[str] = field(init=False)
    trained: pl.LightningModule = field(init=False)
    trained_student: nn.Module = field(init=False)

    @property
    def has_only_answers(self) -> bool:
        """Return whether the teacher can't be called with inputs: all that is known of it are its answers."""
        return self.black_box is not None and not self.black_box.is_costed

    def inputs(self, size: int) -> Inputs:
        """Return the inputs of the first ``size`` validation samples, on the device."""
        return select(self.sample.splits["val"].inputs, slice(0, size))

    def batches(self, batch_size: int | None = None) -> list[Batch]:
        """Return ``STEPS`` + 1 training batches of the sample, as a trial gets them.

        Args:
            batch_size: Samples in a batch; ``None`` takes the task's batch size, at most ``BATCH``.
        """
        self.sample.seed, self.sample.teacher_layers = 0, tuple(teacher_layers(self.space))
        sample = copy.copy(self.sample)
        sample.batch_size = batch_size or sample.batch_size
        loader, found = sample.train_dataloader(), list[Batch]()
        while len(found) <= STEPS:
            found += [batch for item in loader for batch in item]
            loader.set_epoch(loader.epoch + 1)
        return found[: STEPS + 1]

    def student(self, architecture: Mapping[str, Any]) -> nn.Module:
        """Build a student with the same fresh weights at each call, on the device."""
        seed_draws(0, torch.device("cpu"))
        return build_student(self.space, architecture, self.sample).to(self.device)

    def deployed(self, architecture: Mapping[str, Any]) -> nn.Module:
        """Build the deployed network of such a student, on the device."""
        return deployed_network(self.space.task, self.student(architecture)).to(self.device)

    def extremes(self) -> dict[str, dict[str, Any]]:
        """Return the architectures of the smallest and the largest student by their text."""
        return {format_values(architecture): architecture for architecture, _ in (self.students[0], self.students[-1])}

    def configuration(self, method: str, **values: Any) -> Configuration:
        """Return the middle of a method's ranges, with ``values`` for some parameters."""
        return self.space.configuration(self.space.middle(method) | values)

    def training(
        self, configuration: Configuration, *, epochs: int = 1, data: TensorDataModule | None = None
    ) -> StudentTraining:
        """Build a student's training of some epochs on the sample, or on other data of it."""
        space = replace(self.space, epochs=epochs)
        data = self.sample if data is None else data
        return student_training(configuration, space, data, classes=self.classes, seed=0, order_seed=0)

    def module(self, configuration: Configuration, *, steps: int = STEPS) -> StudentModule:
        """Build a student's module for some steps, with the same fresh weights at each call, on the device."""
        student, _ = begin_student(configuration, self.space, self.sample, seed=0)
        module = student_module(
            student,
            configuration,
            replace(self.space, epochs=EPOCHS),
            self.sample,
            classes=self.classes,
            total_steps=steps,
        )
        return module.to(self.device)


def subsample(data: TensorDataModule, device: torch.device, batch_size: int) -> TensorDataModule:
    """Return a copy of a data module with evenly spaced samples of each split, on ``device``.

    Args:
        data: The data.
        device: The device.
        batch_size: Samples in a batch, of which ``BATCH`` are taken at most.
    """
    sample = copy.copy(data)
    sample.splits = {name: sample_of(data, name, sampled_rows(data, name)) for name in data.splits}
    sample.batch_size = min(batch_size, BATCH)
    sample.teacher_outputs = {}
    sample.sampler = None  # which knows the positions of all samples
    sample.move_to(device)
    return sample


def sampled_rows(data: TensorDataModule, name: str) -> Tensor:
    """Return the positions of the samples that ``subsample`` takes of a split."""
    return spread_over_both(data, SAMPLES, name)


def format_values(values: Mapping[str, Any]) -> str:
    """Format parameters as keyword arguments, such as ``width=8, depth=2``."""
    texts = {name: f"{value:.4g}" if isinstance(value, float) else repr(value) for name, value in values.items()}
    return ", ".join(f"{name}={text}" for name, text in texts.items())


def train_steps(module: ClassifierModule, batches: list[Batch]) -> Iterator[Tensor]:
    """Yield the loss on each batch, a scalar with its gradients computed, then take an optimizer step."""
    configured: Any = module.configure_optimizers()
    optimizer, schedule = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    for step, batch in enumerate(batches):
        optimizer.zero_grad()
        loss = weighted_sum(module.terms(batch))
        loss.backward()
        yield loss
        if step < module.total_steps:
            optimizer.step()
            schedule.step()
