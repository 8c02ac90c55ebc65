"""One trial: build the student, fit it, score it, keep it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from harness.content import derived_seed, tensors_digest
from harness.cost import key_of
from harness.errors import NO_ROOM, TrialFailed, is_out_of_memory, one_line
from harness.preparation.costs import check_as_costed, costs_of
from harness.preparation.misgivings import number_wanted
from harness.preparation.prepared import Prepared
from harness.preparation.scoring import score
from harness.preparation.students import build_student
from harness.settings import Settings
from harness.space import Configuration, SearchSpace
from harness.storage.claims import Hold
from harness.studies.claim import Claim
from harness.studies.study import Study
from harness.task import deployed_network
from harness.tracking.autologging import switch_off_autologging
from harness.tracking.spool import Spool
from harness.training.answers import ANSWERS, compare, keep_answers
from harness.training.fit import EpochListener, check_losses, fit, seed_draws
from harness.training.tensor_file import cpu_state, save_tensors
from lightning_modules.batch import call
from lightning_modules.classifier import StudentModule
from lightning_modules.criteria import make_criterion
from lightning_modules.tensors import TensorDataModule

STUDENT = "student.safetensors"


def run_trial(
    claim: Claim,
    spool: Spool,
    *,
    settings: Settings,
    space: SearchSpace,
    study: Study,
    prepared: Prepared,
    on_epoch: EpochListener,
) -> dict[str, float]:
    """Train the claimed trial's student to the end and score it on the validation split.

    Its draws come from (study seed, trial number), its data's order from (study seed, epoch). Takes, returns and raises
    what ``run_student`` does.
    """
    return run_student(
        claim.configuration,
        spool,
        seed=seed_of(settings, claim.trial.number),
        order_seed=settings.seed,
        settings=settings,
        space=space,
        study=study,
        prepared=prepared,
        hold=claim.hold,
        on_epoch=on_epoch,
    )


def seed_of(settings: Settings, number: int) -> int:
    """Seed of a trial's weights and of what is drawn in its epochs."""
    return derived_seed(settings.seed, "trial", number)


def run_student(
    configuration: Configuration,
    spool: Spool,
    *,
    seed: int,
    order_seed: int,
    split: str = "val",
    settings: Settings,
    space: SearchSpace,
    study: Study,
    prepared: Prepared,
    hold: Hold,
    on_epoch: EpochListener,
) -> dict[str, float]:
    """Train a student to the end, score what is deployed of it, and keep that in the folder of its log.

    Whatever ran before it, and however often it was cut, the numbers are the same.

    Args:
        configuration: What it is, and how it is trained.
        spool: Its log, begun.
        seed: Seed of its weights and of what is drawn in an epoch.
        order_seed: Seed of the order of the data.
        split: The split that it is scored on at its end.
        settings: How the study is searched.
        space: Gives the student.
        study: Keeps the costs.
        prepared: Data with teacher outputs, and costs.
        hold: Says that it is this worker's; asked before anything is written.
        on_epoch: Told of each epoch that ends; it may stop the training.

    Returns:
        The final metrics by name: the primary metric, the scores and the costs of ``METRICS``. Scores of another split
        than ``val`` begin with its name, as in ``test/agreement``.

    Raises:
        TrialFailed: If the loss is not finite, memory or the disk does not suffice, or what is deployed has other
            shapes than before training.
        TrialPruned: If ``on_epoch`` stops it.
        PieceTaken: If it is another worker's by now.
    """
    data, folder = prepared.data, spool.folder

    def log_epoch(epoch: int, metrics: dict[str, float]) -> None:
        hold.confirm(epoch + 1)
        spool.metrics(metrics, step=epoch)
        check_losses(epoch, metrics, data)  # before it is judged: what has no loss may have an accuracy
        on_epoch(epoch, metrics)

    with _own_doing():
        costs = costs_of(configuration.student, space, study, prepared)
        spool.metrics(costs)
        student = train_student(
            configuration,
            space,
            prepared,
            epochs=space.epochs,
            seed=seed,
            order_seed=order_seed,
            folder=folder,
            accelerator=settings.accelerator,
            on_epoch=log_epoch,
        )
        network = deployed_network(space.task, student.to(data.device)).to(data.device)
        check_as_costed(network, configuration.student, space, study, prepared)
        logits = ordered_logits(network, data, split)
        scores = score(logits, data, space, prepared.classes, split=split)
        for name, value in scores.items():
            if not math.isfinite(value):
                raise TrialFailed(
                    number_wanted(name, value) if name == space.task.metric_name else f"{name} is {value}"
                )
        hold.confirm(space.epochs)
        state = cpu_state(network)
        metadata = {"space": settings.space_name, "architecture": key_of(configuration.student)}
        metadata["digest"] = tensors_digest(state)
        save_tensors(state, folder / STUDENT, metadata)
        scored = data.splits[split]
        keep_answers(compare(logits, data.teacher_outputs[split]["logits"], scored.labels), folder / ANSWERS)
    if split != "val":
        scores = {f"{split}/{name}": value for name, value in scores.items()}
    spool.metrics(scores)
    spool.artifact(folder / STUDENT)
    spool.artifact(folder / ANSWERS)
    return scores | costs


def train_student(
    configuration: Configuration,
    space: SearchSpace,
    prepared: Prepared,
    *,
    epochs: int,
    seed: int,
    order_seed: int,
    folder: Path,
    accelerator: str,
    on_epoch: EpochListener,
) -> nn.Module:
    """Build a student and train it to the end, from the checkpoint in ``folder`` if there is one.

    Args:
        configuration: What it is, and how it is trained.
        space: Its task builds it.
        prepared: Data with teacher outputs.
        epochs: Length of the training.
        seed: Seed of its weights and of what is drawn in an epoch.
        order_seed: Seed of the order of the data, the same for all that are compared.
        folder: Its own folder.
        accelerator: Lightning's name of the device.
        on_epoch: Told of each epoch that ends.

    Raises:
        TrialFailed: If a loss is not finite.
    """
    data = prepared.data
    module = student_module(
        configuration,
        space,
        data,
        classes=prepared.classes,
        epochs=epochs,
        total_steps=epochs * data.steps_per_epoch,
        seed=seed,
    )
    data.seed, data.teacher_layers = order_seed, module.criterion.teacher_layers
    switch_off_autologging()
    fit(module, data, epochs=epochs, folder=folder, accelerator=accelerator, seed=seed, on_epoch=on_epoch)
    return module.network


def student_module(
    configuration: Configuration,
    space: SearchSpace,
    data: TensorDataModule,
    *,
    classes: int,
    epochs: int,
    total_steps: int,
    seed: int,
) -> StudentModule:
    """A student with fresh weights, ready to be trained.

    Args:
        configuration: What it is, and how it is trained.
        space: Its task builds it.
        data: The data, with the teacher's outputs.
        classes: Number of classes C.
        epochs: Length of the whole training.
        total_steps: Its optimizer steps.
        seed: Seed of its weights.
    """
    seed_draws(seed, torch.device("cpu"))  # weights are drawn on the CPU, whatever the device
    student = build_student(space, configuration.student, data)
    criterion = make_criterion(**configuration.distillation)
    criterion.setup(student, data, epochs=epochs)  # after the student, whose weights are the same for all methods
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
    """The student's logits for every sample of a split in order, shape (N, C)."""
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
