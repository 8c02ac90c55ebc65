"""A student that is its own teacher: what it said, when it counts, and how much."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from test_every_method import some_data
from torch import Tensor, nn

from lightning_modules.batch import Batch
from lightning_modules.classifier import weighted_sum
from lightning_modules.losses import self_distillation_loss
from lightning_modules.methods import SelfDistillationCriterion


def a_criterion(*, epochs: int = 4) -> SelfDistillationCriterion:
    criterion = SelfDistillationCriterion(trust=0.8)
    criterion.setup(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), some_data(), epochs=epochs)
    return criterion


def a_batch(ids: list[int]) -> Batch:
    return Batch(torch.tensor(ids), torch.zeros(len(ids), 1), torch.tensor(ids) % 4)


def logits_of(epoch: int, ids: list[int]) -> Tensor:
    """What a student might say of some samples in an epoch."""
    return torch.stack([torch.randn(4, generator=torch.Generator().manual_seed(100 * epoch + i)) for i in ids])


def test_the_first_epoch_uses_the_labels_alone() -> None:
    criterion, batch = a_criterion(), a_batch([3, 0])
    loss = weighted_sum(criterion(logits_of(0, [3, 0]), batch))
    torch.testing.assert_close(loss, F.cross_entropy(logits_of(0, [3, 0]), batch.target))


def test_each_later_epoch_uses_the_previous_logits_of_the_same_sample_with_growing_trust() -> None:
    criterion, orders = a_criterion(), [[[0, 1], [2]], [[2, 0], [1]], [[1, 2], [0]], [[0, 2], [1]]]
    for epoch, order in enumerate(orders):
        for ids in order:
            batch, logits = a_batch(ids), logits_of(epoch, ids)
            loss = weighted_sum(criterion(logits, batch))
            if epoch:
                trust = 0.8 * (epoch + 1) / 4  # 0.4, 0.6, 0.8
                earlier = logits_of(epoch - 1, ids)
                expected = self_distillation_loss(logits, earlier, batch.target, trust=trust)
                torch.testing.assert_close(loss, expected)
        criterion.end_epoch()


def test_no_gradient_flows_into_the_stored_logits() -> None:
    criterion = a_criterion()
    said = logits_of(0, [0, 1]).requires_grad_()
    criterion(said, a_batch([0, 1]))
    criterion.end_epoch()
    weighted_sum(criterion(logits_of(1, [0, 1]).requires_grad_(), a_batch([0, 1]))).backward()
    assert said.grad is None and not criterion.earlier.requires_grad


def test_validation_neither_reads_nor_writes_the_stored_logits() -> None:
    criterion = a_criterion()
    criterion(logits_of(0, [0, 1]), a_batch([0, 1]))
    criterion.end_epoch()
    before = criterion.earlier.clone()
    terms = criterion.eval()(logits_of(1, [0, 1]), a_batch([0, 1]))
    assert set(terms) == {"hard_loss"} and terms["hard_loss"].weight == 1
    assert torch.equal(criterion.earlier, before) and before.any()


def test_a_checkpoint_holds_the_stored_logits_and_the_number_of_epochs() -> None:
    criterion, restored = a_criterion(), a_criterion()
    criterion(logits_of(0, [0, 1]), a_batch([0, 1]))
    criterion.end_epoch()
    restored.load_state_dict(criterion.state_dict())
    for one in (criterion, restored):
        one.end_epoch()
    losses = [weighted_sum(one(logits_of(2, [0, 1]), a_batch([0, 1]))) for one in (criterion, restored)]
    assert torch.equal(*losses)


@pytest.mark.parametrize("trust", [0.0, 1.01, float("nan")])
def test_a_trust_out_of_its_range_is_refused(trust: float) -> None:
    with pytest.raises(ValueError, match=r"trust must lie in \(0, 1\], but got trust="):
        SelfDistillationCriterion(trust=trust)
