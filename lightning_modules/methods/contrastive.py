"""Contrastive representation distillation (CRD), with the teacher's stored features of other classes as negatives."""

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
from lightning_modules.methods.relation import pool_features

EMBEDDING = 64  # dimension of an embedding
NEGATIVES = 64  # of each sample
_POOL_ROWS = 4  # that each sample adds to the pool of the batch's negatives


class ContrastiveCriterion(FeatureCriterion):
    """hard_loss + ``contrastive_weight`` · contrastive loss of the student's and the teacher's features (CRD).

    Learned linear embeddings map both sides to 64 numbers; maps are averaged over their positions first, for the paper
    embeds pooled features. Each sample has K = 64 negatives, where the paper has 16,384: they are drawn from a pool of
    4 · B rows of the teacher's stored features, 4 of other classes for each sample, of any view, with a generator of
    their own. The pool is embedded again in each batch, so no embedding is stale, and neither the paper's memory bank
    nor its loss with the sides exchanged is needed: both embeddings learn from the one loss.

    Memory: the averaged features of the N training samples, 4 · N · V · D bytes for each running trial, 13 MB for
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

    needs_labels = needs_classes = needs_one_row = True  # negatives are samples of another class
    needs_stored = True  # and are drawn from all of them
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

    def set_up_features(self, student_features: Tensor, teacher_features: Tensor, data: TensorDataModule) -> None:
        """Create the embeddings, and the pooled features that negatives are drawn from."""
        labels = data.splits["train"].labels
        stored = data.teacher_outputs["train"][self.teacher_layers[0]].float()
        if data.views is not None:
            labels, stored = labels.repeat_interleave(data.views.count), stored.flatten(0, 1)
        self.others = _OtherClasses(labels)
        self.bank = pool_features(stored, data.mask_of("train"))
        self.draws = torch.Generator(self.bank.device)
        mask = data.mask_of("val")
        few = None if mask is None else mask[: len(student_features)]
        self.student_embedding = nn.Linear(pool_features(student_features, few).shape[1], EMBEDDING)
        self.teacher_embedding = nn.Linear(self.bank.shape[1], EMBEDDING)

    def begin_epoch(self, seed: int) -> None:
        """Seed the epoch's negatives; the student's own draws stay those of its control."""
        self.draws.manual_seed(seed)

    def soft_loss(self, logits: Tensor, batch: Batch, features: Features | None) -> Tensor:
        """Return the contrastive loss in nats."""
        assert features is not None
        return contrastive_representation_loss(
            self.student_embedding(pool_features(features[self.student_layers[0]], batch.mask)),
            self.teacher_embedding(pool_features(batch.teacher[self.teacher_layers[0]], batch.mask)),
            self._negatives(batch.target),
            temperature=self.soft["contrastive_temperature"],
            samples=len(self.bank),
        )

    def _negatives(self, labels: Tensor) -> Tensor:
        """Return embeddings of rows of other classes for each sample, shape (B, K, 64)."""
        pool = self.others.sample(labels, _POOL_ROWS, self.draws).flatten()
        is_other = self.others.labels[pool] != labels[:, None]
        chosen = torch.multinomial(is_other.float(), NEGATIVES, replacement=True, generator=self.draws)
        return F.embedding(chosen, self.teacher_embedding(self.bank[pool]))


class _OtherClasses:
    """Samples rows with another label, uniformly.

    Args:
        labels: Class indices of the rows, shape (N,).

    Raises:
        ValueError: If all labels are equal.
    """

    def __init__(self, labels: Tensor) -> None:
        self.labels = labels
        self.by_class = labels.argsort(stable=True)
        self.counts = labels.bincount()
        self.starts = self.counts.cumsum(0) - self.counts
        if self.counts.max() == len(labels):
            raise ValueError("contrastive needs negatives of another class, but all training samples have one label.")

    def sample(self, labels: Tensor, count: int, draws: torch.Generator) -> Tensor:
        """Return positions of ``count`` rows for each label, with replacement, shape (B, ``count``)."""
        own, start = self.counts[labels][:, None], self.starts[labels][:, None]
        others = len(self.labels) - own
        shares = torch.rand(len(labels), count, device=labels.device, generator=draws)
        places = (shares * others).long().clamp(max=others - 1)
        return self.by_class[places + own * (places >= start)]
