"""What is doubtful of a teacher at a glance."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.misgivings import misgivings

LABELS = torch.tensor([0, 0, 0, 1, 2])


def sure_of(classes: Tensor) -> Tensor:
    """Logits that name these classes."""
    return 4 * torch.nn.functional.one_hot(classes, 3) - torch.tensor([1.0, 2.0, 0.5])


def test_a_teacher_that_knows_its_labels_raises_none() -> None:
    assert misgivings(sure_of(LABELS), LABELS) == []
    assert misgivings(sure_of(LABELS).abs(), LABELS) == []  # a ReLU is the doctor's to doubt


def test_a_teacher_that_knows_no_more_than_the_most_frequent_label_raises_one() -> None:
    (found,) = misgivings(sure_of(torch.tensor([0, 0, 1, 1, 1])), LABELS)
    assert found == "is right on 60% of the validation samples, and always the most frequent label on 60%"


def test_probabilities_raise_one() -> None:
    (found,) = misgivings(sure_of(LABELS).softmax(1), LABELS)
    assert found.startswith("gives probabilities where logits are wanted")
