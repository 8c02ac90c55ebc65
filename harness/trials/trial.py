"""Run one trial: build the student, train it, score it, save it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import stdev

import torch
from torch import Tensor, nn

from harness.core.content import derived_seed
from harness.core.errors import NO_ROOM, TrialFailed, is_out_of_memory, one_line
from harness.core.names import FOLD_SPREAD
from harness.metrics import METRICS
from harness.preparation.prepared import Prepared
from harness.preparation.sanity_warnings import no_score_text
from harness.preparation.scoring import mean_of_folds, score
from harness.preparation.student_costs import check_as_costed, costs_of
from harness.settings import Settings
from harness.space import Configuration, SearchSpace
from harness.storage.leases import Lease
from harness.students.kept import metadata_of
from harness.students.training import StudentTraining, student_training
from harness.task import deployed_network, primary_metric
from harness.tracking.spool import Spool
from harness.training.checkpoint import fold_folder
from harness.training.fit import EpochListener
from harness.training.predictions import PREDICTIONS
from harness.training.tensor_file import cpu_state, save_tensors
from harness.trials.comparison import save_comparison, score_and_compare
from harness.trials.context import TrialContext
from lightning_modules.batch import call
from lightning_modules.data.tensors import TensorDataModule

STUDENT = "student.safetensors"


@dataclass(frozen=True, kw_only=True)
class TrainingSpec:
    """What a training trains, and how it is scored.

    Attributes:
        configuration: Architecture, distillation and training parameters.
        seed: Seed of the initial weights and of the draws in each epoch.
        order_seed: Seed of the order of the data, equal for all students that are compared.
        split: The split of the final score; names of metrics of a split other than ``val`` have its prefix.
    """

    configuration: Configuration
    seed: int
    order_seed: int
    split: str = "val"


def seed_of(settings: Settings, number: int) -> int:
    """Return the seed of a trial's initial weights and of the draws in its epochs."""
    return derived_seed(settings.seed, "trial", number)


def run_student(
    spec: TrainingSpec,
    spool: Spool,
    lease: Lease,
    context: TrialContext,
    listeners: Callable[[int], Sequence[EpochListener]],
) -> dict[str, float]:
    """Train a student to the end, score its deployed network, and save that network in the spool's folder.

    The numbers are the same whatever ran before, and however often the training was interrupted. Where samples are cut
    into folds, a student is trained for each, the scores are means over folds, and the first fold's student is saved.

    Args:
        spec: What to train.
        spool: The spool of its run, begun.
        lease: This worker's lease of it; confirmed before anything is written.
        context: What every training needs.
        listeners: Returns, for a fold from 0, what is called in order at the end of each epoch, the loss check among
            it; each may end the training.

    Returns:
        The final metrics by name: the primary metric, the scores and the costs of ``METRICS``. Scores of another split
        than ``val`` have its name as prefix, as in ``test/agreement``. Of folds also the primary metric of each, and
        its standard deviation over them, ``FOLD_SPREAD``.

    Raises:
        TrialFailed: If the loss is not finite, memory or disk space runs out, or the deployed network has other shapes
            than before training.
        TrialPruned: If a listener prunes it.
        LeaseLost: If another worker has taken it over.
    """
    space, prepared, folder = context.space, context.prepared, spool.folder
    with _resource_errors_as_failures():
        costs = costs_of(spec.configuration.student, space, context.study, prepared)
        spool.metrics(costs)
        is_compared, of_folds = False, []
        for fold, data in enumerate(prepared.data.folds):
            network = _run_fold(spec, fold, spool, context, listeners(fold))
            answers = parts_of_answers(network, data, spec.split)
            if fold == 0:
                scores, comparison = score_and_compare(answers, data, space, prepared.classes, spec.split)
            else:
                scores = score(answers, data, space, prepared.classes, split=spec.split)
            of_folds.append(_finite(scores, primary_metric(space.task).name, context.study.objectives))
            lease.report_progress(space.epochs)
            if fold == 0:
                _save(network, spec.configuration, folder / STUDENT, context)
                is_compared = save_comparison(comparison, folder)
        scores = mean_scores(of_folds, primary_metric(space.task).name)
    if spec.split != "val":
        scores = {f"{spec.split}/{name}": value for name, value in scores.items()}
    spool.metrics(scores)
    spool.artifact(folder / STUDENT)
    if is_compared:
        spool.artifact(folder / PREDICTIONS)
    return scores | costs


def _run_fold(
    spec: TrainingSpec,
    fold: int,
    spool: Spool,
    context: TrialContext,
    listeners: Sequence[EpochListener],
) -> nn.Module:
    """Train a student on a fold, and return its deployed network.

    Args:
        spec: What to train.
        fold: The fold, from 0.
        spool: The spool of the whole training's run.
        context: What every training needs.
        listeners: As in ``harness.training.fit.fit``.
    """
    space, study, prepared = context.space, context.study, context.prepared
    own, data = fold_folder(spool.folder, fold), prepared.data.folds[fold]
    own.mkdir(exist_ok=True)
    training = _training_of(spec, space, prepared, fold)
    if training.started is not None and fold == 0:
        spool.tags({"kd.start": str(training.started)})
    student = training.run(own, context.settings.accelerator, listeners)
    network = deployed_network(space.task, student.to(data.device)).to(data.device)
    check_as_costed(network, spec.configuration.student, space, study, prepared)
    return network


def mean_scores(of_folds: Sequence[Mapping[str, float]], primary: str) -> dict[str, float]:
    """Return the mean of each score over folds; of several folds also the primary metric of each, and its spread.

    Args:
        of_folds: Scores by name of each fold.
        primary: Name of the primary metric.
    """
    if len(of_folds) == 1:
        return dict(of_folds[0])
    values = [scores[primary] for scores in of_folds]
    each = {f"fold_{number}/{primary}": value for number, value in enumerate(values, 1)}
    return {**mean_of_folds(of_folds), FOLD_SPREAD: stdev(values), **each}


def _save(network: nn.Module, configuration: Configuration, file: Path, context: TrialContext) -> None:
    """Save the state of a deployed network, and what it was built from."""
    state = cpu_state(network)
    save_tensors(state, file, metadata_of(configuration, context.space, context.settings, state))


def train_student(
    spec: TrainingSpec,
    space: SearchSpace,
    prepared: Prepared,
    *,
    folder: Path,
    accelerator: str,
    listeners: Sequence[EpochListener] | None = None,
) -> nn.Module:
    """Build a student and train it to the end, from the newest checkpoint in ``folder`` if there is one.

    Args:
        spec: What to train.
        space: Its task builds the student; its epochs are the length of the training.
        prepared: Data with teacher outputs.
        folder: Folder of the training.
        accelerator: Lightning's name of the device.
        listeners: As in ``harness.training.fit.fit``.

    Raises:
        TrialFailed, TrialPruned: If a listener raises them.
    """
    return _training_of(spec, space, prepared).run(folder, accelerator, listeners)


def _training_of(spec: TrainingSpec, space: SearchSpace, prepared: Prepared, fold: int = 0) -> StudentTraining:
    return student_training(
        spec.configuration,
        space,
        prepared.data.folds[fold],
        classes=prepared.classes,
        seed=spec.seed,
        order_seed=spec.order_seed,
    )


def _finite(scores: Mapping[str, float], primary: str, objectives: Sequence[str]) -> dict[str, float]:
    """Return the scores that are numbers.

    Raises:
        TrialFailed: If the primary metric, an objective or a score of ``METRICS`` is none; another metric of the task
            that is none is left out.
    """
    for name, value in scores.items():
        if not math.isfinite(value) and (name in METRICS or name in (primary, *objectives)):
            raise TrialFailed(no_score_text(name, value) if name == primary else f"{name} is {value}")
    return {name: value for name, value in scores.items() if math.isfinite(value)}


def parts_of_answers(student: nn.Module, data: TensorDataModule, split: str) -> Iterator[Tensor]:
    """Yield the student's outputs for the samples of a split in order, batch by batch."""
    student.eval()
    for batch in (batch for item in data.ordered(split) for batch in item):
        with torch.no_grad():
            logits = call(student, batch.inputs)
        yield logits


def ordered_logits(student: nn.Module, data: TensorDataModule, split: str) -> Tensor:
    """Return the student's outputs for every sample of a split in order, first dimension N."""
    return torch.cat(list(parts_of_answers(student, data, split)))


@contextmanager
def _resource_errors_as_failures() -> Iterator[None]:
    """Convert running out of memory or disk space to ``TrialFailed``; any other error is a bug and passes."""
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
