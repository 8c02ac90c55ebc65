"""Check the logits of a network, teacher or student."""

from __future__ import annotations

from torch import Tensor, nn

from harness.doctor.check import CheckFailed, CheckWarning
from harness.networks.consistency import find_inconsistency, logits_of
from harness.networks.logits import check_logits
from harness.preparation.sanity_warnings import is_made_of_probabilities
from lightning_modules.batch import Inputs


def check_raw_logits(who: str, network: nn.Module, inputs: Inputs, labels: Tensor) -> int:
    """Check that a network returns raw logits.

    Args:
        who: Name of the network in messages.
        network: The network, in any mode.
        inputs: Inputs of a batch.
        labels: True classes of the batch, shape (B,).

    Returns:
        The number of classes C.

    Raises:
        Unfit: If it does not return logits of shape (B, C) with C at least 2.
        CheckFailed: If it returns probabilities, or their logarithms.
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


def check_deterministic(network: nn.Module, inputs: Inputs) -> None:
    """Check that in eval mode a sample has the same logits in two calls, and alone as in a batch.

    Args:
        network: The network, in any mode.
        inputs: Inputs of a batch.

    Raises:
        CheckFailed: If it has not.
    """
    if fault := find_inconsistency(network, inputs):
        raise CheckFailed(fault.found, fault.remedy)
