"""The checks of a user's own methods, with targets in the form that they have in a training."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.core.errors import HarnessError
from harness.preparation.method_checks import check_unlabelled, unlabelled_fault
from harness.preparation.own_methods import check_own_methods
from harness.space import Method
from lightning_modules.batch import Batch
from lightning_modules.data.tensors import Split
from lightning_modules.features import Features
from lightning_modules.methods import Criterion, Term
from lightning_modules.outputs import Classification
from search_spaces.diabetes import SPACE as DIABETES
from search_spaces.digit_traits import SPACE
from search_spaces.digits import SPACE as DIGITS
from search_spaces.digits_methods import SPACE as METHODS_SPACE


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
    check_own_methods(space, data, lambda what: nullcontext(), classes=4)


class Ignoring(Criterion):
    """Takes the loss of the labels from the output kind, which leaves out what has none."""

    def forward(self, logits: Tensor, batch: Batch, features: Features | None = None) -> dict[str, Term]:
        return {"own": Term(1.0, self.hard_loss(logits, batch) + logits.square().mean())}


class Gathering(Criterion):
    """Takes the true class's score by its index."""

    def forward(self, logits: Tensor, batch: Batch, features: Features | None = None) -> dict[str, Term]:
        return {"own": Term(1.0, -logits.log_softmax(1).gather(1, batch.target[:, None]).mean())}


class MeanOfNone(Criterion):
    """Ignores rows without a label as PyTorch does, whose mean over no row is NaN."""

    def forward(self, logits: Tensor, batch: Batch, features: Features | None = None) -> dict[str, Term]:
        return {"own": Term(1.0, F.cross_entropy(logits, batch.target))}


@pytest.mark.parametrize(
    ("criterion", "fault"),
    [
        (Ignoring, ""),
        (Gathering, "can't be trained on samples with and without a label, .*it raises"),
        (MeanOfNone, "can't be trained on samples without a label, .*'own' is nan"),
    ],
)
def test_own_methods_are_called_with_samples_that_have_no_label_where_there_are_some(
    criterion: type[Criterion], fault: str
) -> None:
    space = replace(DIGITS, distillation={"own": Method(criterion, {})})
    data = space.task.data(None)
    train = data.splits["train"]
    data.attach({name: {"logits": torch.zeros(len(data.splits[name]), 10)} for name in ("train", "val")})
    check_own_methods(space, data, lambda what: nullcontext(), classes=10)
    data.splits["train"] = Split(train.inputs, train.labels.where(torch.arange(len(train)) % 3 == 0, -100))
    data.is_labelled = Classification().is_labelled
    with pytest.raises(HarnessError, match=f"'own' {fault}") if fault else nullcontext():
        check_own_methods(space, data, lambda what: nullcontext(), classes=10)


def test_methods_that_compare_with_the_labels_are_refused_by_name_where_samples_have_none() -> None:
    check_unlabelled(METHODS_SPACE, 0)
    with pytest.raises(
        HarnessError, match=r"method 'decoupled' can't be searched: it needs a label for each .* 1,000 have"
    ):
        check_unlabelled(METHODS_SPACE, 1000)
    refused = {name for name in METHODS_SPACE.criteria if unlabelled_fault(name, METHODS_SPACE, 1)}
    assert refused == {"decoupled", "contrastive"}
    of_numbers = replace(DIABETES, distillation={"bounded_regression": DIABETES.methods["bounded_regression"]})
    assert unlabelled_fault("bounded_regression", of_numbers, 1)
