"""Define the base classes of methods: a loss of named terms, and the layers that it needs."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import NamedTuple

from torch import Tensor, nn

from lightning_modules.batch import Batch
from lightning_modules.data.tensors import TensorDataModule
from lightning_modules.features import Features, Names
from lightning_modules.outputs import Classification, Output
from lightning_modules.outputs.base import one_hot


class Term(NamedTuple):
    """One term of a loss.

    Attributes:
        weight: Factor in the weighted sum, unitless.
        value: Scalar, before weighting.
    """

    weight: float
    value: Tensor


class Criterion(nn.Module):
    """Base class of methods: a loss of named terms that are summed with weights, and logged one by one.

    Its keywords are the searchable parameters. Its own parameters and buffers are trained and checkpointed with the
    network, but are not part of the saved student.

    ``batch.target`` has one form in all batches of a task, of training and of validation:

    - class indices (R,), int64, of a classifier, of pixels and of tokens;
    - probabilities (R, C), float32, of a classifier whose views give targets, as those that mix samples do;
    - probabilities (R, 2), float32, of several labels: absent and present;
    - class indices (R,), int64, with ``needs_labels``, whatever the output;
    - the targets of the samples where the output has no classes: numbers (B, V) of a regression.

    In training, rows of samples that the teacher alone labels have the target ``UNLABELLED``, -100, or NaN where
    targets are floats; ``hard_loss`` leaves them out (``lightning_modules.batch.labelled_rows`` tells them).

    Attributes:
        student_layers: Names of the student's layers whose outputs it needs.
        layer_names: What the student calls them, where its family has names of its own for them; the engine sets it.
        teacher_layers: Names of the teacher's layers whose stored outputs it needs, beside the logits.
        least_classes: Minimum number of classes C.
        needs_labels: Whether each row must have one true class, so that mixed samples are excluded, and targets are
            class indices.
        needs_classes: Whether it compares rows of logits, so that outputs without classes are excluded.
        needs_values: Whether it compares numbers, so that outputs of classes are excluded.
        needs_one_row: Whether each sample must have one row, so that a class for each pixel or token is excluded.
        needs_stored: Whether it needs the teacher's outputs for all training samples at once, so that a teacher can't
            be asked live.
        takes_top_k: Whether it takes the teacher's logits as ``lightning_modules.top_k.TopKLogits`` too, or takes none.
        output: What the logits mean; rows of logits reach a method, one for each sample of a classifier.
        reads_labels: Whether it compares with the labels itself, beside ``hard_loss``, so that each training sample
            must have one. Methods with ``needs_labels`` do anyway, but for those without a teacher.
        needs_teacher: Whether a teacher is needed; baselines without are trained on the samples that have a label.
        label_smoothing: Share of the target that ``hard_loss`` spreads over all classes in training, in [0, 1).
    """

    student_layers: tuple[str, ...] = ()
    layer_names: Names = MappingProxyType({})
    teacher_layers: tuple[str, ...] = ()
    least_classes = 2
    needs_labels = False
    needs_classes = False
    needs_values = False
    needs_one_row = False
    needs_stored = False
    takes_top_k = False
    reads_labels = False
    needs_teacher = True
    output: Output = Classification()
    label_smoothing: float = 0.0

    def setup(self, student: nn.Module, data: TensorDataModule, *, epochs: int) -> None:
        """Create what depends on student and data, before the training; the default does nothing.

        Args:
            student: The network with its initial weights, on the CPU.
            data: The data, with the teacher's outputs.
            epochs: Length of the training.

        Raises:
            ValueError: If there is no layer of that name, or the method does not support its output.
        """

    def forward(self, logits: Tensor, batch: Batch, features: Features | None = None) -> dict[str, Term]:
        """Return the terms of the loss by name.

        Args:
            logits: Rows of logits of the network, shape (R, C), one for each sample of a classifier; or the network's
                output where that has no classes.
            batch: The batch that the network was called with; its target and the teacher's logits are of the same rows.
                The target's form is that of every batch of the task (see the class).
            features: Outputs of ``student_layers``; ``None`` if the method needs none.
        """
        raise NotImplementedError

    def hard_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the loss from the labels, as the output kind has it: a scalar, before weighting.

        In training it is the mean over the rows that have a label, and 0 where none has one.
        """
        return self.smoothed_loss(logits, batch, self.label_smoothing if self.training else 0.0)

    def smoothed_loss(self, logits: Tensor, batch: Batch, smoothing: float) -> Tensor:
        """Return ``hard_loss`` with a smoothing of its own, in [0, 1)."""
        alone = self.training and self.output.has_unlabelled
        loss = self.output.labelled_loss if alone else self.output.hard_loss
        return loss(logits, batch.target, smoothing=smoothing)

    def begin_epoch(self, seed: int) -> None:
        """Start an epoch; the default does nothing.

        Args:
            seed: Seed of the method's draws in this epoch. It needs a generator of its own: a student's dropout draws
                from the global one, and must draw the same masks with every method.
        """

    def end_epoch(self) -> None:
        """End an epoch, in which each training sample was seen once; the default does nothing."""


class HardAndSoft(Criterion):
    """Base class of the weighted sum of hard_loss, from the true labels, and soft_loss, from the teacher.

    Args:
        hard_weight: Weight of hard_loss.
        soft_weight: Weight of soft_loss.
        soft: Keywords of soft_loss, all above 0.

    Raises:
        ValueError: If a keyword of soft_loss is not positive.
    """

    def __init__(self, *, hard_weight: float = 1.0, soft_weight: float = 1.0, **soft: float) -> None:
        super().__init__()
        check_positive(**soft)
        self.soft = soft
        self.hard_weight, self.soft_weight = hard_weight, soft_weight

    def forward(self, logits: Tensor, batch: Batch, features: Features | None = None) -> dict[str, Term]:
        """Return hard_loss and soft_loss for rows of student logits (R, C)."""
        return {
            "hard_loss": Term(self.hard_weight, self.hard_loss(logits, batch)),
            "soft_loss": Term(self.soft_weight, self.soft_loss(logits, batch, features)),
        }

    def soft_loss(self, logits: Tensor, batch: Batch, features: Features | None) -> Tensor:
        """Return the loss from the teacher's outputs, before weighting."""
        raise NotImplementedError


def with_targets_of(criterion: Criterion, rows: Tensor, batch: Batch, *, mixed: bool = False) -> Batch:
    """Return a batch whose target has the form that a method sees in all batches of a task (see ``Criterion``).

    Args:
        criterion: The method.
        rows: Rows of logits (R, C).
        batch: The batch, with targets of the same rows.
        mixed: Whether the training batches of the task have probabilities, which views gave.
    """
    if not criterion.output.has_classes:
        return batch
    has_shares = batch.target.is_floating_point()
    if criterion.needs_labels and has_shares:
        return replace(batch, target=batch.target.argmax(1))
    if mixed and not has_shares:
        return replace(batch, target=one_hot(batch.target, rows.shape[1]))
    return batch


def check_positive(**values: float) -> None:
    """Check that values are above 0.

    Raises:
        ValueError: If one is not.
    """
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name} must be positive, but got {name}={value}.")
