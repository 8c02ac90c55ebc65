"""Contrastive representation distillation: the teacher's own features of other classes are the negatives."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.batch import Batch
from lightning_modules.data.tensors import TensorDataModule
from lightning_modules.features import Features
from lightning_modules.losses import contrastive_representation_loss
from lightning_modules.methods.base import check_positive
from lightning_modules.methods.feature import FeatureCriterion
from lightning_modules.methods.relation import embedded

EMBEDDING = 64  # numbers of an embedding
NEGATIVES = 64  # of each sample
_DRAWN = 4  # rows that each sample adds to the pool from which the batch takes its negatives


class ContrastiveCriterion(FeatureCriterion):
    """hard_loss + ``contrastive_weight`` · whether the student tells the teacher's features of a sample from others'.

    Both sides go through linear embeddings of 64 numbers, which are learned; maps are averaged over their positions
    first, for the paper embeds pooled features. Each sample has K = 64 negatives, where the paper has 16,384: they are
    drawn from a pool of 4 · B rows of the teacher's stored features, 4 of other classes than its own for each sample,
    of any view, by a generator of their own. The pool is embedded anew in each batch, so no embedding is an old one,
    and the paper's memory bank and the loss with the sides exchanged are not needed: both embeddings learn from the one
    loss.

    Memory: the averaged features of the N training samples, 4 · N · V · D bytes of each trial that runs, 13 MB for
    50,000 samples of 64 channels; and the negatives, 4 · B · K · 64 bytes and a few times that, 1 MB for 64 samples.

    Args:
        student_layer: Name of the student's layer.
        teacher_layer: Name of the teacher's layer.
        contrastive_weight: Above 0; 0.8 in RepDistiller.
        contrastive_temperature: Divides cosines, above 0, unitless; 0.1 in the paper, 0.07 in RepDistiller.

    Raises:
        ValueError: If a value is not positive.

    Reference: Tian, Krishnan & Isola (2020), CRD. arXiv:1910.10699.
    """

    needs_labels = True  # negatives are samples of another class
    student_embedding: nn.Linear
    teacher_embedding: nn.Linear

    def __init__(
        self, *, student_layer: str, teacher_layer: str, contrastive_weight: float, contrastive_temperature: float
    ) -> None:
        check_positive(contrastive_weight=contrastive_weight)
        super().__init__(
            student_layer=student_layer,
            teacher_layer=teacher_layer,
            soft_weight=contrastive_weight,
            contrastive_temperature=contrastive_temperature,
        )

    def meet(self, student_features: Tensor, teacher_features: Tensor, data: TensorDataModule) -> None:
        """Make the embeddings, and lay out what negatives are drawn from."""
        labels = data.splits["train"].labels
        stored = data.teacher_outputs["train"][self.teacher_layers[0]]
        if data.views is not None:
            labels, stored = labels.repeat_interleave(data.views.count), stored.flatten(0, 1)
        self.others = _OtherClasses(labels)
        self.bank = embedded(stored)
        self.draws = torch.Generator(self.bank.device)
        self.student_embedding = nn.Linear(embedded(student_features).shape[1], EMBEDDING)
        self.teacher_embedding = nn.Linear(self.bank.shape[1], EMBEDDING)

    def begin_epoch(self, seed: int) -> None:
        """Draw this epoch's negatives from ``seed``: the student's own draws are those of its control."""
        self.draws.manual_seed(seed)

    def soft_loss(self, logits: Tensor, batch: Batch, features: Features | None) -> Tensor:
        """In nats."""
        assert features is not None
        return contrastive_representation_loss(
            self.student_embedding(embedded(features[self.student_layers[0]])),
            self.teacher_embedding(embedded(batch.teacher[self.teacher_layers[0]])),
            self._negatives(batch.labels),
            temperature=self.soft["contrastive_temperature"],
            samples=len(self.bank),
        )

    def _negatives(self, labels: Tensor) -> Tensor:
        """Embeddings of other classes for each sample, shape (B, K, 64)."""
        pool = self.others.drawn(labels, _DRAWN, self.draws).flatten()
        is_other = self.others.labels[pool] != labels[:, None]
        chosen = torch.multinomial(is_other.float(), NEGATIVES, replacement=True, generator=self.draws)
        return F.embedding(chosen, self.teacher_embedding(self.bank[pool]))


class _OtherClasses:
    """Draws rows whose label is another one, all such rows alike.

    Args:
        labels: Class indices of the rows, shape (N,).

    Raises:
        ValueError: If there is one class only.
    """

    def __init__(self, labels: Tensor) -> None:
        self.labels = labels
        self.by_class = labels.argsort(stable=True)
        self.counts = labels.bincount()
        self.starts = self.counts.cumsum(0) - self.counts
        if self.counts.max() == len(labels):
            raise ValueError("contrastive needs negatives of another class, but all training samples have one label.")

    def drawn(self, labels: Tensor, count: int, draws: torch.Generator) -> Tensor:
        """Positions of ``count`` rows for each label, with replacement, shape (B, ``count``)."""
        own, start = self.counts[labels][:, None], self.starts[labels][:, None]
        others = len(self.labels) - own
        shares = torch.rand(len(labels), count, device=labels.device, generator=draws)
        places = (shares * others).long().clamp(max=others - 1)
        return self.by_class[places + own * (places >= start)]
