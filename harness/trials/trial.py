"""One trial: build the student, fit it, score it, keep it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from harness.core.content import derived_seed, tensors_digest
from harness.core.errors import NO_ROOM, TrialFailed, is_out_of_memory, one_line
from harness.cost.measure import key_of
from harness.networks.students import build_student
from harness.preparation.cost_table import check_as_costed, costs_of
from harness.preparation.prepared import Prepared
from harness.preparation.sanity_warnings import number_wanted
from harness.preparation.scoring import score
from harness.settings import Settings
from harness.space import Configuration, SearchSpace
from harness.storage.leases import Lease
from harness.task import deployed_network
from harness.tracking.autologging import switch_off_autologging
from harness.tracking.spool import Spool
from harness.training.answers import ANSWERS, compare, keep_answers
from harness.training.fit import EpochListener, fit, seed_draws
from harness.training.tensor_file import cpu_state, save_tensors
from harness.trials.context import TrialContext
from lightning_modules.batch import call
from lightning_modules.classifier import StudentModule
from lightning_modules.data.tensors import TensorDataModule

STUDENT = "student.safetensors"


@dataclass(frozen=True, kw_only=True)
class StudentJob:
    """A student to be trained.

    Attributes:
        configuration: What it is, and how it is trained.
        seed: Seed of its weights and of what is drawn in an epoch.
        order_seed: Seed of the order of the data, the same for all that are compared.
        split: The split that it is scored on at its end; the metrics of any but ``val`` begin with its name.
    """

    configuration: Configuration
    seed: int
    order_seed: int
    split: str = "val"


def seed_of(settings: Settings, number: int) -> int:
    """Return the seed of a trial's weights and of what is drawn in its epochs."""
    return derived_seed(settings.seed, "trial", number)


def run_student(
    job: StudentJob, spool: Spool, hold: Lease, context: TrialContext, listeners: Sequence[EpochListener]
) -> dict[str, float]:
    """Train a student to the end, score what is deployed of it, and keep that in the folder of its log.

    Whatever ran before it, and however often it was cut, the numbers are the same.

    Args:
        job: The student.
        spool: Its log, begun.
        hold: Says that it is this worker's; asked before anything is written.
        context: What it stands on.
        listeners: Told, one after the other, of each epoch that ends; any of them may stop the training.

    Returns:
        The final metrics by name: the primary metric, the scores and the costs of ``METRICS``. Scores of another split
        than ``val`` begin with its name, as in ``test/agreement``.

    Raises:
        TrialFailed: If the loss is not finite, memory or the disk does not suffice, or what is deployed has other
            shapes than before training.
        TrialPruned: If a listener stops it.
        LeaseLost: If it is another worker's by now.
    """
    space, study, prepared = context.space, context.study, context.prepared
    data, folder, architecture = prepared.data, spool.folder, job.configuration.student
    with _own_doing():
        costs = costs_of(architecture, space, study, prepared)
        spool.metrics(costs)
        student = train_student(
            job, space, prepared, folder=folder, accelerator=context.settings.accelerator, listeners=listeners
        )
        network = deployed_network(space.task, student.to(data.device)).to(data.device)
        check_as_costed(network, architecture, space, study, prepared)
        logits = ordered_logits(network, data, job.split)
        scores = score(logits, data, space, prepared.classes, split=job.split)
        for name, value in scores.items():
            if not math.isfinite(value):
                raise TrialFailed(
                    number_wanted(name, value) if name == space.task.metric_name else f"{name} is {value}"
                )
        hold.report_progress(space.epochs)
        state = cpu_state(network)
        metadata = {"space": context.settings.space_name, "architecture": key_of(architecture)}
        metadata["digest"] = tensors_digest(state)
        save_tensors(state, folder / STUDENT, metadata)
        scored = data.splits[job.split]
        keep_answers(compare(logits, data.teacher_outputs[job.split]["logits"], scored.labels), folder / ANSWERS)
    if job.split != "val":
        scores = {f"{job.split}/{name}": value for name, value in scores.items()}
    spool.metrics(scores)
    spool.artifact(folder / STUDENT)
    spool.artifact(folder / ANSWERS)
    return scores | costs


def train_student(
    job: StudentJob,
    space: SearchSpace,
    prepared: Prepared,
    *,
    folder: Path,
    accelerator: str,
    listeners: Sequence[EpochListener] = (),
) -> nn.Module:
    """Build a student and train it to the end, from the checkpoint in ``folder`` if there is one.

    Args:
        job: The student.
        space: Its task builds the student; its epochs are the length of the training.
        prepared: Data with teacher outputs.
        folder: The student's own folder.
        accelerator: Lightning's name of the device.
        listeners: Told of each epoch that ends.

    Raises:
        TrialFailed: If a loss is not finite.
    """
    data = prepared.data
    module = student_module(
        job.configuration,
        space,
        data,
        classes=prepared.classes,
        total_steps=space.epochs * data.steps_per_epoch,
        seed=job.seed,
    )
    data.seed, data.teacher_layers = job.order_seed, module.criterion.teacher_layers
    switch_off_autologging()
    fit(module, data, epochs=space.epochs, folder=folder, accelerator=accelerator, seed=job.seed, listeners=listeners)
    return module.network


def student_module(
    configuration: Configuration,
    space: SearchSpace,
    data: TensorDataModule,
    *,
    classes: int,
    total_steps: int,
    seed: int,
) -> StudentModule:
    """Build a student with fresh weights, ready to be trained.

    Args:
        configuration: What it is, and how it is trained.
        space: Its task builds the student; its epochs are the length of the whole training.
        data: The data, with the teacher's outputs.
        classes: Number of classes C.
        total_steps: Optimizer steps of the whole training.
        seed: Seed of its weights.
    """
    seed_draws(seed, torch.device("cpu"))  # weights are drawn on the CPU, whatever the device
    student = build_student(space, configuration.student, data)
    criterion = space.criterion(configuration)
    criterion.setup(student, data, epochs=space.epochs)  # after the student: its weights are alike for all methods
    return StudentModule(
        student,
        criterion,
        metric=space.task.metric(classes),
        metric_name=space.task.metric_name,
        total_steps=total_steps,
        **configuration.training,
    )


@torch.no_grad()
def ordered_logits(student: nn.Module, data: TensorDataModule, split: str) -> Tensor:
    """Return the student's logits for every sample of a split in order, shape (N, C)."""
    student.eval()
    return torch.cat([call(student, batch.inputs) for item in data.ordered(split) for batch in item])


@contextmanager
def _own_doing() -> Iterator[None]:
    """Turn what a trial does to itself into ``TrialFailed``; any other error is a bug and passes."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise TrialFailed(f"out of memory: {one_line(error)}") from error
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise TrialFailed(f"disk full: {error}") from error
