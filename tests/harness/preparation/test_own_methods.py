"""The checks of a user's own methods, with targets in the form that they have in a training."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.core.errors import HarnessError
from harness.preparation.own_methods import check_own_methods
from harness.space import Method
from lightning_modules.batch import Batch
from lightning_modules.features import Features
from lightning_modules.methods import Criterion, Term
from search_spaces.digit_traits import SPACE


class OfIndices(Criterion):
    """Cross-entropy that takes class indices alone."""

    needs_labels = True

    def forward(self, logits: Tensor, batch: Batch, features: Features | None = None) -> dict[str, Term]:
        return {"own": Term(1.0, F.nll_loss(logits.log_softmax(1), batch.target))}


class OfShares(Criterion):
    """Cross-entropy that takes probabilities alone."""

    def forward(self, logits: Tensor, batch: Batch, features: Features | None = None) -> dict[str, Term]:
        return {"own": Term(1.0, -(batch.target * logits.log_softmax(1)).sum(1).mean())}


class OfIndicesUnsaid(OfIndices):
    """The first one, which does not say what it needs."""

    needs_labels = False


@pytest.mark.parametrize("criterion", [OfIndices, OfShares])
def test_own_methods_of_several_labels_get_the_form_that_they_ask_for(criterion: type[Criterion]) -> None:
    check(criterion)


def test_a_method_that_takes_indices_must_say_that_it_needs_them() -> None:
    with pytest.raises((HarnessError, RuntimeError, ValueError)):
        check(OfIndicesUnsaid)


def check(criterion: type[Criterion]) -> None:
    space = replace(SPACE, distillation={"own": Method(criterion, {})})
    data = space.task.data(None)
    data.attach({name: {"logits": torch.zeros(len(data.splits[name]), 4)} for name in ("train", "val")})
    check_own_methods(space, data, lambda what: nullcontext())
