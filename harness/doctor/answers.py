"""What holds for the answers of teacher and student alike."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from harness.doctor.check import Doubt, Flaw
from harness.preparation.logits import check_logits
from harness.preparation.misgivings import is_made_of_probabilities
from lightning_modules.batch import Inputs, call, select

ASKED = 16
"""Samples that are asked about together, and then one by one."""
TOLERANCE = 1e-3
"""Of the largest logit: what batches of another size, or another order of a sum, may change."""


def logits_of(network: nn.Module, inputs: Inputs) -> Tensor:
    """What a network in eval mode answers, without a graph."""
    with torch.no_grad():
        return call(network.eval(), inputs)


def check_answers(who: str, network: nn.Module, inputs: Inputs, labels: Tensor) -> int:
    """See that a network answers with raw logits.

    Args:
        who: What it is called.
        network: Any mode.
        inputs: Of a batch.
        labels: Its true classes.

    Returns:
        The number of its classes C.

    Raises:
        Unfit: If its answers are no logits of shape (B, C) with C at least 2.
        Flaw: If they are made of probabilities.
        Doubt: If no logit is negative.
    """
    logits = logits_of(network, inputs)
    classes = check_logits(who, logits, labels)
    if is_made_of_probabilities(logits):
        raise Flaw(
            "logits are probabilities: none is negative, and those of a sample sum to 1",
            "drop the softmax at the end: the losses have it, and the temperature goes before it",
        )
    if bool((logits >= 0).all()):
        raise Doubt(
            f"no logit of {len(labels)} samples is negative",
            "end in a linear layer, without a ReLU or sigmoid behind it",
        )
    return classes


def check_steady(network: nn.Module, inputs: Inputs) -> None:
    """See that a network in eval mode gives a sample the same logits twice, and alone as in a batch.

    Args:
        network: Any mode.
        inputs: Of a batch.

    Raises:
        Flaw: If it does not.
    """
    together, samples = logits_of(network, inputs), _samples(inputs)
    apart = distance(logits_of(network, inputs), together)
    if apart > TOLERANCE:
        raise Flaw(
            f"the same batch asked twice has logits {apart:.1%} of the largest apart, in eval mode",
            "something is drawn in eval mode: write F.dropout(x, p, self.training), or use nn.Dropout",
        )
    alone = torch.cat([logits_of(network, select(inputs, slice(i, i + 1))) for i in range(samples)])
    if alone.shape != together.shape:
        raise Flaw(
            f"{samples} samples asked one by one have logits of shape {tuple(alone.shape)}, not "
            f"{tuple(together.shape)}",
            "name the dimension that squeeze() drops: that of a batch of one goes too",
        )
    apart = distance(alone, together)
    if apart > TOLERANCE:
        raise Flaw(
            f"a sample alone has logits {apart:.1%} of the largest apart from its own in a batch of {samples}",
            "let no step mix samples in eval mode: a BatchNorm kept in train mode does, or a mean over dimension 0",
        )


def _samples(inputs: Inputs) -> int:
    return len(next(iter(inputs.values())) if isinstance(inputs, dict) else inputs)


def distance(one: Tensor, other: Tensor) -> float:
    """The largest difference of two tensors of one shape, as a share of the largest value; infinite where one is.

    What both hold impossible (-inf) is no difference.
    """
    impossible = (one == -math.inf) & (other == -math.inf)
    one, other = one.masked_fill(impossible, 0), other.masked_fill(impossible, 0)
    largest, apart = torch.maximum(one.abs().max(), other.abs().max()), (one - other).abs().max()
    if not largest.isfinite():  # a NaN would pass as no difference
        return math.inf
    return float(apart / largest) if largest else 0.0
