"""Self-distillation: a student is its own teacher of the epoch before."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.batch import Batch
from lightning_modules.data.tensors import TensorDataModule
from lightning_modules.features import Features, probe_features
from lightning_modules.losses import hard_label_loss, self_distillation_loss
from lightning_modules.methods.base import Criterion, Term


class SelfDistillationCriterion(Criterion):
    """(1 - a) · hard_loss + a · soft_loss, the cross-entropy with what the student itself said an epoch before.

    An arm without a teacher. The trust a grows by epochs, linearly from 0 to ``trust`` at the last; in the first epoch,
    of which there is no earlier one, it is 0 and soft_loss is that of the labels. What the student says of each sample
    while it trains is remembered for the next epoch, 4 · N · C bytes, and is part of its checkpoints. Where samples
    have views, the earlier answer was to another view, as it is under the paper's random augmentation. Of validation
    samples there are no earlier answers: their loss is hard_loss alone.

    Args:
        trust: Weight of the earlier answers at the last epoch, in (0, 1]; 0.8 in the paper.

    Raises:
        ValueError: If it is out of its range.

    Reference: Kim et al. (2021), PS-KD, section 3. arXiv:2006.12000.
    """

    needs_labels = True  # the answer of the epoch before was to another mix
    earlier: Tensor

    def __init__(self, *, trust: float) -> None:
        super().__init__()
        if not 0 < trust <= 1:
            raise ValueError(f"trust must lie in (0, 1], but got {trust=}.")
        self.trust = trust
        self.epochs = 1
        self.epochs_done = 0

    def setup(self, student: nn.Module, data: TensorDataModule, *, epochs: int) -> None:
        """Make room for an answer to each training sample."""
        few = data.splits["val"].few(2).to(next(student.parameters()).device)
        logits, _ = probe_features(student, few.inputs, ())
        self.register_buffer("earlier", torch.zeros(len(data.splits["train"]), logits.shape[1]))
        self.epochs = epochs

    def forward(self, logits: Tensor, batch: Batch, features: Features | None = None) -> dict[str, Term]:
        """Terms of the loss for student logits of shape (B, C)."""
        hard_loss = hard_label_loss(logits, batch.labels)
        if not self.training:
            return {"hard_loss": Term(1.0, hard_loss)}
        soft_loss, trust = hard_loss, 0.0
        if self.epochs_done:
            trust = self.trust * (self.epochs_done + 1) / self.epochs
            soft_loss = self_distillation_loss(logits, self.earlier[batch.ids], batch.labels, trust=1.0)
        self.earlier[batch.ids] = logits.detach().float()
        return {"hard_loss": Term(1 - trust, hard_loss), "soft_loss": Term(trust, soft_loss)}

    def end_epoch(self) -> None:
        """What was said in this epoch is what was said earlier from now on."""
        self.epochs_done += 1

    def get_extra_state(self) -> Any:
        """Return how far the trust has grown, as part of a checkpoint."""
        return self.epochs_done

    def set_extra_state(self, state: Any) -> None:
        """Go on from there."""
        self.epochs_done = state
