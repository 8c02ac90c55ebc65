"""The frame of every criterion: named terms, and what a criterion asks for."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from lightning_modules.batch import Batch
from lightning_modules.data.tensors import TensorDataModule
from lightning_modules.features import Features
from lightning_modules.losses import hard_label_loss


class Term(NamedTuple):
    """One summand of a loss.

    Attributes:
        weight: Its factor in the sum, unitless.
        value: Scalar, before weighting.
    """

    weight: float
    value: Tensor


class Criterion(nn.Module):
    """What a network is trained for, as named terms that are summed, and logged one by one.

    Its keywords are what can be searched of it. What it learns or remembers is trained with the network and part of its
    checkpoints, and of no student that is kept.

    Attributes:
        student_layers: Names of the layers whose outputs it must be given.
        teacher_layers: Names of the teacher's layers whose stored outputs a batch must bring, beside the logits.
        least_classes: The fewest classes C of which it says something.
        needs_labels: Whether it says something of samples with one true class only: not of mixed ones.
    """

    student_layers: tuple[str, ...] = ()
    teacher_layers: tuple[str, ...] = ()
    least_classes = 2
    needs_labels = False

    def setup(self, student: nn.Module, data: TensorDataModule, *, epochs: int) -> None:
        """Make what depends on student and data, before the training; most criteria have nothing of the kind.

        Args:
            student: The network, its weights drawn, on the CPU.
            data: The data, with the teacher's outputs.
            epochs: Length of the training.

        Raises:
            ValueError: If there is no layer of a name, or it gives what the method can't take.
        """

    def forward(self, logits: Tensor, batch: Batch, features: Features | None = None) -> dict[str, Term]:
        """Terms of the loss.

        Args:
            logits: The network's, shape (B, C).
            batch: What it was called with, and what the teacher said of that.
            features: The network's outputs of ``student_layers``; ``None`` where it asks for none.
        """
        raise NotImplementedError

    def begin_epoch(self, seed: int) -> None:
        """Told that an epoch begins; most criteria don't mind.

        Args:
            seed: Of whatever it draws in this epoch, from a generator of its own: a student with dropout draws from the
                global one, and is to draw the same masks whatever the method.
        """

    def end_epoch(self) -> None:
        """Told that each training sample has been seen once more; most criteria don't mind."""


class HardAndSoft(Criterion):
    """Weighted, hard_loss of the true labels and soft_loss of what the teacher says.

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
        """Terms of the loss for student logits of shape (B, C), beside what the teacher said of the batch."""
        return {
            "hard_loss": Term(self.hard_weight, hard_label_loss(logits, batch.truth)),
            "soft_loss": Term(self.soft_weight, self.soft_loss(logits, batch, features)),
        }

    def soft_loss(self, logits: Tensor, batch: Batch, features: Features | None) -> Tensor:
        """Return what the teacher says, as a loss."""
        raise NotImplementedError


def check_positive(**values: float) -> None:
    """Check that values are above 0.

    Raises:
        ValueError: If one is not.
    """
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name} must be positive, but got {name}={value}.")
