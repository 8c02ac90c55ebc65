"""LightningModules of teacher and student: a network, a method (``criterion``), an optimizer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torchmetrics import Metric

from lightning_modules.batch import Batch, call, evaluating, labelled_rows
from lightning_modules.features import capture_features
from lightning_modules.methods import Criterion, HardLabelCriterion, Term
from lightning_modules.methods.base import with_targets_of
from lightning_modules.outputs import Classification, Output
from lightning_modules.scoring import SplitScores
from lightning_modules.training.average import WeightAverage
from lightning_modules.training.optimizers import make_optimizer
from lightning_modules.training.precision import used_precision
from lightning_modules.training.schedules import make_schedule
from lightning_modules.training.settings import Training
from lightning_modules.training.updates import Updates

_CLASSIFICATION = Classification()
_HARD = "hard_loss"


@dataclass(frozen=True)
class _Evaluated:
    """What a network gives for a batch.

    Attributes:
        logits: Its output.
        rows: The rows of logits of the output.
        batch: The batch, with targets and teacher's logits of the same rows.
        count: How many rows count in means: none of a batch without a label.
        labelled: How many of them have a label; ``None`` where all have.
        terms: The terms of the loss, with their graph.
    """

    logits: Tensor
    rows: Tensor
    count: int
    labelled: Tensor | None
    batch: Batch
    terms: dict[str, Term]


class ClassifierModule(pl.LightningModule):
    """Trains a network with a method.

    At the end of each epoch, ``epoch_metrics`` holds ``train/loss`` and ``train/<term>`` (means over the samples),
    ``val/loss``, ``val/<term>``, ``val/<metric>`` and, if the batches hold the teacher's scores of classes,
    ``val/agreement``.
    They do not go through ``self.log``, which takes longer than a small epoch's validation.

    Args:
        network: Maps the inputs of a batch to an output of this kind, as logits (B, C).
        criterion: The method, set up: maps (logits, batch, features) to named terms. Its parameters are trained too.
        output: What an output means.
        metrics: Metrics by their name in the log, updated with ``output.metric_inputs``.
        total_steps: Optimizer steps of the whole training, for the schedule.
        settings: How it is trained; ``None`` is the default.
    """

    def __init__(
        self,
        network: nn.Module,
        criterion: Criterion,
        *,
        output: Output = _CLASSIFICATION,
        metrics: Mapping[str, Metric],
        total_steps: int,
        settings: Training | None = None,
    ) -> None:
        super().__init__()
        # An item of the loader is a list of batches (see TensorLoader), with an optimizer step for each.
        self.automatic_optimization = False
        self.network = network
        self.criterion = criterion
        self.criterion.output = self.output = output
        self.metric_names = tuple(metrics)
        self.metrics = nn.ModuleList(metrics.values())
        self.total_steps = total_steps
        self.settings = settings = Training() if settings is None else settings
        self.criterion.label_smoothing = settings.label_smoothing
        # None where nothing is averaged: a submodule would be part of every checkpoint.
        self.average = None if settings.ema_decay is None else WeightAverage(network, settings.ema_decay)
        self.updates = Updates(settings)
        self.epoch_metrics: dict[str, float] = {}
        self._training = _TermMeans()
        self._mixes = False  # whether training batches have probabilities in place of labels

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the optimizer of network and method, and its schedule, stepped with each optimizer step."""
        optimizer = make_optimizer(self.settings, self)
        schedule = make_schedule(self.settings, optimizer, self.total_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def trained_network(self) -> nn.Module:
        """Return the network as it is deployed after the training: with its averaged weights, if they are averaged."""
        if self.average is not None:
            self.average.load_into(self.network)
        return self.network

    def terms(self, batch: Batch) -> dict[str, Term]:
        """Return the terms of the loss for a batch, with their graph."""
        return self._evaluate(batch).terms

    def training_step(self, batches: list[Batch], batch_idx: int) -> None:
        """Take an optimizer step for each batch of an item, or for as many as are accumulated."""
        # On one device in one precision, the bare optimizer is enough, at half of the cost of Lightning's.
        optimizer: Any = self.optimizers(use_pl_optimizer=False)
        schedule: Any = self.lr_schedulers()
        for batch in batches:
            evaluated = self._evaluate(batch)
            loss, samples = weighted_sum(evaluated.terms), evaluated.count
            self._mixes = evaluated.batch.target.is_floating_point()
            if self.updates.add(loss, samples, optimizer, schedule):
                self._update_average()
            self._training.add(evaluated.terms, samples, evaluated.labelled)

    def _update_average(self) -> None:
        if self.average is not None:
            self.average.update(self.network)

    def _evaluate(self, batch: Batch) -> _Evaluated:
        """Call the network with a batch, and compute the terms of the loss."""
        device = batch.ids.device
        mixed = self.training and used_precision(self.settings.precision, device) != "32"
        with (
            capture_features(self.network, self.criterion.student_layers, self.criterion.layer_names) as features,
            torch.autocast(device.type, torch.bfloat16) if mixed else nullcontext(),
        ):
            logits = call(self.network, batch.inputs)
        if mixed:  # losses are computed in float32
            logits, features = logits.float(), {name: value.float() for name, value in features.items()}
        alone = self.training and self.output.has_unlabelled  # whether there may be rows that only the teacher labels
        rows, of_rows = (self.output.taught_rows if alone else self.output.as_rows)(logits, batch)
        of_rows = with_targets_of(self.criterion, rows, of_rows, mixed=self._mixes)
        count = self.output.count_rows(batch.target, rows)
        labelled = labelled_rows(of_rows.target).sum() if alone else None
        return _Evaluated(logits, rows, count, labelled, of_rows, self.criterion(rows, of_rows, features))

    def on_train_epoch_start(self) -> None:
        """Reset the means of the training terms."""
        self._training = _TermMeans()

    def on_train_epoch_end(self) -> None:
        """Take the step that is left, validate what would be deployed, and collect the epoch's metrics."""
        optimizer: Any = self.optimizers(use_pl_optimizer=False)
        if self.updates.finish(optimizer, self.lr_schedulers()):
            self._update_average()
        self.criterion.end_epoch()
        with evaluating(self), nullcontext() if self.average is None else self.average.applied(self.network):
            validated = self._validate(self.trainer.datamodule.ordered("val"))  # type: ignore[attr-defined]
        self.epoch_metrics = {f"train/{name}": value for name, value in self._training.compute().items()}
        self.epoch_metrics |= {f"val/{name}": value for name, value in validated.items()}

    @torch.no_grad()  # not inference mode: tensors that a network caches between calls could not be trained with
    def _validate(self, items: Iterable[list[Batch]]) -> dict[str, float]:
        """Return means of the terms, metric and agreement over a split. Lightning's own loop takes twice as long."""
        metrics = {name: cast(Metric, metric) for name, metric in zip(self.metric_names, self.metrics, strict=True)}
        means, scores = _TermMeans(), SplitScores(self.output, metrics)
        for batch in (batch for item in items for batch in item):
            evaluated = self._evaluate(batch)
            means.add(evaluated.terms, evaluated.count)
            scores.add(evaluated.logits, evaluated.rows, evaluated.batch, batch.target)
        return means.compute() | scores.compute()


class StudentModule(ClassifierModule):
    """Trains a student. The teacher is not part of the module: batches hold its outputs."""


class TeacherModule(ClassifierModule):
    """Trains a teacher on the true labels alone. Takes the arguments of ``ClassifierModule`` but ``criterion``."""

    def __init__(self, network: nn.Module, **training: Any) -> None:
        super().__init__(network, HardLabelCriterion(), **training)


def weighted_sum(terms: dict[str, Term]) -> Tensor:
    """Return the loss, the weighted sum of the terms, a scalar."""
    first, *others = terms.values()
    loss = first.weight * first.value
    for term in others:
        loss = loss + term.weight * term.value
    return loss


class _TermMeans:
    """Means of loss terms over samples. Values stay on the device and are summed once an epoch, not at each step."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._weights: list[list[float]] = []  # of each batch: a method may change them from step to step
        self._values: list[Tensor] = []
        self._sizes: list[int] = []
        self._labelled: list[Tensor] = []

    @property
    def samples(self) -> int:
        return sum(self._sizes)

    def add(self, terms: dict[str, Term], samples: int, labelled: Tensor | None = None) -> None:
        """Add the terms of a batch.

        Args:
            terms: Each the mean over the batch's rows; ``hard_loss`` over those with a label.
            samples: Number of rows.
            labelled: Number of rows with a label, in each batch or in none; ``None`` where all have one.
        """
        if self._sizes and self._names != list(terms):
            raise ValueError(
                f"a method must give the same terms for each batch, but gave {', '.join(self._names)}, and then "
                f"{', '.join(terms)}."
            )
        self._names = list(terms)
        self._weights.append([term.weight for term in terms.values()])
        self._values += [term.value.detach() for term in terms.values()]
        self._sizes.append(samples)
        if labelled is not None:
            self._labelled.append(labelled)

    def compute(self) -> dict[str, float]:
        values = torch.stack(self._values).cpu().double().view(len(self._sizes), len(self._names))
        shares = torch.tensor(self._sizes, dtype=torch.float64) / self.samples
        weights = torch.tensor(self._weights, dtype=torch.float64)
        loss = float((shares @ (weights * values)).sum())
        means = dict(zip(self._names, (shares @ values).tolist(), strict=True))
        if self._labelled and _HARD in means:  # a mean over the rows that have a label
            counts = torch.stack(self._labelled).cpu().double()
            means[_HARD] = float(counts @ values[:, self._names.index(_HARD)] / counts.sum().clamp(min=1))
        return {"loss": loss, **means}
