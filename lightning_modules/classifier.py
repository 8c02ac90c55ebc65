"""LightningModules of teacher and student: a network, a method (``criterion``), an optimizer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torchmetrics import Metric

from lightning_modules.batch import Batch, call, evaluating
from lightning_modules.features import capture_features
from lightning_modules.methods import Criterion, HardLabelCriterion, Term
from lightning_modules.outputs import Classification, Output

_CLASSIFICATION = Classification()
_WARM_UP = 0.3  # share of the steps, OneCycleLR's default


@dataclass(frozen=True)
class _Evaluated:
    """What a network gives for a batch.

    Attributes:
        logits: Its output.
        rows: The rows of logits of the output.
        batch: The batch, with targets and teacher's logits of the same rows.
        terms: The terms of the loss, with their graph.
    """

    logits: Tensor
    rows: Tensor
    batch: Batch
    terms: dict[str, Term]


class ClassifierModule(pl.LightningModule):
    """Trains a network with a method, AdamW and a one-cycle schedule.

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
        learning_rate: Peak of the schedule.
        weight_decay: Decoupled weight decay of AdamW.
    """

    def __init__(
        self,
        network: nn.Module,
        criterion: Criterion,
        *,
        output: Output = _CLASSIFICATION,
        metrics: Mapping[str, Metric],
        total_steps: int,
        learning_rate: float = 1e-2,
        weight_decay: float = 1e-4,
    ) -> None:
        super().__init__()
        check_training(learning_rate=learning_rate, weight_decay=weight_decay)
        # An item of the loader is a list of batches (see TensorLoader), with an optimizer step for each.
        self.automatic_optimization = False
        self.network = network
        self.criterion = criterion
        self.criterion.output = self.output = output
        self.metric_names = tuple(metrics)
        self.metrics = nn.ModuleList(metrics.values())
        self.total_steps = total_steps
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.epoch_metrics: dict[str, float] = {}
        self._training = _TermMeans()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return AdamW over network and method, and its schedule, stepped with each optimizer step."""
        optimizer = torch.optim.AdamW(
            self.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay, fused=True
        )
        schedule = _schedule(optimizer, self.learning_rate, self.total_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def terms(self, batch: Batch) -> dict[str, Term]:
        """Return the terms of the loss for a batch, with their graph."""
        return self._evaluate(batch).terms

    def training_step(self, batches: list[Batch], batch_idx: int) -> None:
        """Take an optimizer step for each batch of an item."""
        # On one device in one precision, the bare optimizer is enough, at half of the cost of Lightning's.
        optimizer: Any = self.optimizers(use_pl_optimizer=False)
        schedule: Any = self.lr_schedulers()
        for batch in batches:
            evaluated = self._evaluate(batch)
            optimizer.zero_grad()
            weighted_sum(evaluated.terms).backward()
            optimizer.step()
            schedule.step()
            self._training.add(evaluated.terms, len(evaluated.rows))

    def _evaluate(self, batch: Batch) -> _Evaluated:
        """Call the network with a batch, and compute the terms of the loss."""
        with capture_features(self.network, self.criterion.student_layers) as features:
            logits = call(self.network, batch.inputs)
        rows, of_rows = self.output.as_rows(logits, batch)
        return _Evaluated(logits, rows, of_rows, self.criterion(rows, of_rows, features))

    def on_train_epoch_start(self) -> None:
        """Reset the means of the training terms."""
        self._training = _TermMeans()

    def on_train_epoch_end(self) -> None:
        """Validate, and collect the epoch's metrics."""
        self.criterion.end_epoch()
        with evaluating(self):
            validated = self._validate(self.trainer.datamodule.ordered("val"))  # type: ignore[attr-defined]
        self.epoch_metrics = {f"train/{name}": value for name, value in self._training.compute().items()}
        self.epoch_metrics |= {f"val/{name}": value for name, value in validated.items()}

    @torch.no_grad()  # not inference mode: tensors that a network caches between calls could not be trained with
    def _validate(self, items: Iterable[list[Batch]]) -> dict[str, float]:
        """Return means of the terms, metric and agreement over a split. Lightning's own loop takes twice as long."""
        means, agreeing = _TermMeans(), []
        metrics = {name: cast(Metric, metric) for name, metric in zip(self.metric_names, self.metrics, strict=True)}
        for metric in metrics.values():
            metric.reset()
        for batch in (batch for item in items for batch in item):
            evaluated = self._evaluate(batch)
            means.add(evaluated.terms, len(evaluated.rows))
            scored = self.output.metric_inputs(evaluated.logits, batch.target)
            for metric in metrics.values():
                metric.update(*scored)
            theirs = evaluated.batch.teacher.get("logits") if self.output.has_classes else None
            if theirs is not None:
                agreeing.append((evaluated.rows.argmax(-1) == theirs.argmax(-1)).sum())
        values = means.compute() | {name: float(metric.compute()) for name, metric in metrics.items()}
        if agreeing:
            values["agreement"] = float(torch.stack(agreeing).sum()) / means.samples
        return values


def check_training(*, learning_rate: float = 1e-2, weight_decay: float = 1e-4) -> None:
    """Check hyperparameters of a training.

    Raises:
        ValueError: If ``learning_rate`` is not positive and finite, or ``weight_decay`` not at least 0 and finite.
    """
    if not 0 < learning_rate < math.inf:
        raise ValueError(f"learning_rate must be positive and finite, but got {learning_rate=}.")
    if not 0 <= weight_decay < math.inf:
        raise ValueError(f"weight_decay must be at least 0 and finite, but got {weight_decay=}.")


class StudentModule(ClassifierModule):
    """Trains a student. The teacher is not part of the module: batches hold its outputs."""


class TeacherModule(ClassifierModule):
    """Trains a teacher on the true labels alone. Takes the arguments of ``ClassifierModule`` but ``criterion``."""

    def __init__(self, network: nn.Module, **training: Any) -> None:
        super().__init__(network, HardLabelCriterion(), **training)


def _schedule(optimizer: torch.optim.Optimizer, peak: float, total_steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """Return the one-cycle schedule: warm-up to ``peak`` over 30 % of the steps, then annealing to nearly zero.

    With three steps or fewer, the warm-up is shorter than one step: OneCycleLR would never reach its peak, and take a
    single step at 4e-6 of it. Such a training starts at the peak and decays along a cosine.
    """
    if _WARM_UP * total_steps < 1:
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=total_steps)
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=peak, total_steps=total_steps, pct_start=_WARM_UP)


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

    @property
    def samples(self) -> int:
        return sum(self._sizes)

    def add(self, terms: dict[str, Term], samples: int) -> None:
        if self._sizes and self._names != list(terms):
            raise ValueError(
                f"a method must give the same terms for each batch, but gave {', '.join(self._names)}, and then "
                f"{', '.join(terms)}."
            )
        self._names = list(terms)
        self._weights.append([term.weight for term in terms.values()])
        self._values += [term.value.detach() for term in terms.values()]
        self._sizes.append(samples)

    def compute(self) -> dict[str, float]:
        values = torch.stack(self._values).cpu().double().view(len(self._sizes), len(self._names))
        shares = torch.tensor(self._sizes, dtype=torch.float64) / self.samples
        weights = torch.tensor(self._weights, dtype=torch.float64)
        loss = float((shares @ (weights * values)).sum())
        return {"loss": loss, **dict(zip(self._names, (shares @ values).tolist(), strict=True))}
