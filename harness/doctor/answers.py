"""What holds for the answers of teacher and student alike."""

from __future__ import annotations

from torch import Tensor, nn

from harness.doctor.check import CheckFailed, CheckWarning
from harness.networks.consistency import find_inconsistency, logits_of
from harness.networks.logits import check_logits
from harness.preparation.sanity_warnings import is_made_of_probabilities
from lightning_modules.batch import Inputs


def check_answers(who: str, network: nn.Module, inputs: Inputs, labels: Tensor) -> int:
    """Check that a network answers with raw logits.

    Args:
        who: What it is called.
        network: Any mode.
        inputs: Of a batch.
        labels: Its true classes.

    Returns:
        The number of its classes C.

    Raises:
        Unfit: If its answers are no logits of shape (B, C) with C at least 2.
        CheckFailed: If they are made of probabilities.
        CheckWarning: If no logit is negative.
    """
    logits = logits_of(network, inputs)
    classes = check_logits(who, logits, labels)
    if is_made_of_probabilities(logits):
        raise CheckFailed(
            "logits are probabilities: none is negative, and those of a sample sum to 1",
            "drop the softmax at the end: the losses have it, and the temperature goes before it",
        )
    if bool((logits >= 0).all()):
        raise CheckWarning(
            f"no logit of {len(labels)} samples is negative",
            "end in a linear layer, without a ReLU or sigmoid behind it",
        )
    return classes


def check_steady(network: nn.Module, inputs: Inputs) -> None:
    """Check that a network in eval mode gives a sample the same logits twice, and alone as in a batch.

    Args:
        network: Any mode.
        inputs: Of a batch.

    Raises:
        CheckFailed: If it does not.
    """
    if fault := find_inconsistency(network, inputs):
        raise CheckFailed(fault.found, fault.remedy)
