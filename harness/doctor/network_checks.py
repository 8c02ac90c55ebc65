"""Check the logits of a network, teacher or student."""

from __future__ import annotations

from torch import Tensor, nn

from harness.doctor.check import CheckFailed, CheckWarning
from harness.networks.consistency import find_inconsistency, logits_of
from harness.networks.logits import check_logits
from lightning_modules.batch import Inputs
from lightning_modules.outputs import Output


def check_raw_logits(who: str, network: nn.Module, inputs: Inputs, labels: Tensor, output: Output) -> str:
    """Check that a network returns raw logits, or numbers where the output has no classes.

    Args:
        who: Name of the network in messages.
        network: The network, in any mode.
        inputs: Inputs of a batch.
        labels: Labels of the batch, first dimension B.
        output: The output kind.

    Returns:
        The shape of its output, in words.

    Raises:
        Unfit: If it returns another shape than the output kind has.
        CheckFailed: If it returns probabilities, or their logarithms.
        CheckWarning: If no logit is negative.
    """
    logits = logits_of(network, inputs)
    check_logits(who, logits, labels, output)
    if output.looks_softmaxed(logits):
        raise CheckFailed(
            "logits are probabilities: none is negative, and those of a sample sum to 1",
            "drop the softmax at the end: the losses have it, and the temperature goes before it",
        )
    if output.has_classes and bool((logits >= 0).all()):
        raise CheckWarning(
            f"no logit of {len(labels)} samples is negative",
            "end in a linear layer, without a ReLU or sigmoid behind it",
        )
    return f"({', '.join(['B', *map(str, logits.shape[1:])])})"


def check_deterministic(network: nn.Module, inputs: Inputs, forms: tuple[Inputs, Inputs] | None) -> None:
    """Check that in eval mode a sample has the same logits in two calls, alone as in a batch, and padded.

    Args:
        network: The network, in any mode.
        inputs: Inputs of a batch.
        forms: As of ``find_effect_of_padding``.

    Raises:
        CheckFailed: If it has not.
    """
    if fault := find_inconsistency(network, inputs, forms):
        raise CheckFailed(fault.found, fault.remedy)
