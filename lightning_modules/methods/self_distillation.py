"""Self-distillation (PS-KD): a student's predictions of the previous epoch are its teacher."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.batch import Batch, labelled_rows
from lightning_modules.data.tensors import TensorDataModule
from lightning_modules.features import Features, probe_features
from lightning_modules.losses import self_distillation_loss
from lightning_modules.methods.base import Criterion, Term


class SelfDistillationCriterion(Criterion):
    """(1 - a) · hard_loss + a · soft_loss, the cross-entropy with the student's predictions of the previous epoch.

    A baseline without a teacher. The trust a grows linearly from 0 in the first epoch, where soft_loss is that of the
    labels, to ``trust`` in the last. The student's logits of each training sample are stored for the next epoch, 4 · N
    · C bytes, as part of its checkpoints. If samples have views, the stored logits are of another view, as under the
    paper's random augmentation. Validation samples have no stored logits: their loss is hard_loss alone.

    Args:
        trust: Weight of the previous predictions in the last epoch, in (0, 1]; 0.8 in the paper.

    Raises:
        ValueError: If it is out of its range.

    Reference: Kim et al. (2021), PS-KD, section 3. arXiv:2006.12000.
    """

    needs_labels = True  # the previous prediction is of another mix of samples
    needs_classes = needs_one_row = True
    needs_teacher, takes_top_k = False, True
    earlier: Tensor

    def __init__(self, *, trust: float) -> None:
        super().__init__()
        if not 0 < trust <= 1:
            raise ValueError(f"trust must lie in (0, 1], but got {trust=}.")
        self.trust = trust
        self.epochs = 1
        self.epochs_done = 0

    def setup(self, student: nn.Module, data: TensorDataModule, *, epochs: int) -> None:
        """Allocate the stored logits of each training sample."""
        few = data.splits["val"].few(2).to(next(student.parameters()).device)
        logits, _ = probe_features(student, few.inputs, ())
        self.register_buffer("earlier", torch.zeros(len(data.splits["train"]), logits.shape[1]))
        self.epochs = epochs

    def forward(self, logits: Tensor, batch: Batch, features: Features | None = None) -> dict[str, Term]:
        """Return hard_loss and, in training, soft_loss for student logits of shape (B, C); store the logits."""
        hard_loss = self.hard_loss(logits, batch)
        if not self.training:
            return {"hard_loss": Term(1.0, hard_loss)}
        soft_loss, trust = hard_loss, 0.0
        if self.epochs_done:
            trust = self.trust * (self.epochs_done + 1) / self.epochs
            known = labelled_rows(batch.target) if self.output.has_unlabelled else slice(None)
            ours, target = logits[known], batch.target[known]
            if len(ours):
                soft_loss = self_distillation_loss(ours, self.earlier[batch.ids][known], target, trust=1.0)
        self.earlier[batch.ids] = logits.detach().float()
        return {"hard_loss": Term(1 - trust, hard_loss), "soft_loss": Term(trust, soft_loss)}

    def end_epoch(self) -> None:
        """Count the epoch: its logits are the previous ones from now on."""
        self.epochs_done += 1

    def get_extra_state(self) -> Any:
        """Return the number of epochs done, as part of a checkpoint."""
        return self.epochs_done

    def set_extra_state(self, state: Any) -> None:
        """Restore the number of epochs done."""
        self.epochs_done = state
