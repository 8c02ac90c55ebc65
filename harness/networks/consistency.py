"""Consistency of a network in eval mode: the same logits for a sample each time, alone as in a batch, and padded.

Stored outputs of a teacher stand for what it would answer.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from harness.core.errors import Unfit
from lightning_modules.batch import Inputs, call, first_of, select

ASKED = 16
"""Samples that a network is called with together, and then one by one."""
TOLERANCE = 1e-3
"""Accepted difference, as a share of the largest logit: batches of another size sum in another order."""


def logits_of(network: nn.Module, inputs: Inputs) -> Tensor:
    """Return the logits of a network in eval mode, without a graph."""
    with torch.no_grad():
        return call(network.eval(), inputs)


def find_inconsistency(network: nn.Module, inputs: Inputs, forms: tuple[Inputs, Inputs] | None = None) -> Unfit | None:
    """Find samples that get other logits when they are passed twice, alone, or padded; ``None`` if there are none.

    Args:
        network: In any mode; it is left in eval mode.
        inputs: Inputs of a batch.
        forms: As of ``find_effect_of_padding``.
    """
    together, samples = logits_of(network, inputs), len(first_of(inputs))
    apart = distance(logits_of(network, inputs), together)
    if apart > TOLERANCE:
        return Unfit(
            f"the same batch asked twice has logits {apart:.1%} of the largest apart, in eval mode",
            "something is drawn in eval mode: write F.dropout(x, p, self.training), or use nn.Dropout",
        )
    alone = torch.cat([logits_of(network, select(inputs, slice(i, i + 1))) for i in range(samples)])
    if alone.shape != together.shape:
        return Unfit(
            f"{samples} samples asked one by one have logits of shape {tuple(alone.shape)}, not "
            f"{tuple(together.shape)}",
            "name the dimension that squeeze() drops: that of a batch of one goes too",
        )
    apart = distance(alone, together)
    if apart > TOLERANCE:
        return Unfit(
            f"a sample alone has logits {apart:.1%} of the largest apart from its own in a batch of {samples}",
            "let no step mix samples in eval mode: a BatchNorm kept in train mode does, or a mean over dimension 0",
        )
    return find_effect_of_padding(network, forms)


def find_effect_of_padding(network: nn.Module, forms: tuple[Inputs, Inputs] | None) -> Unfit | None:
    """Find out whether a sample gets other logits where it is padded; ``None`` if not, or if nothing is padded.

    Args:
        network: In any mode; it is left in eval mode.
        forms: Inputs of a sample as short as it is, and padded.
    """
    if forms is None:
        return None
    short, padded = (logits_of(network, form) for form in forms)
    if short.ndim > 2:  # logits of each position: those of padding are of nothing
        padded = padded[:, : short.shape[1]]
    apart = distance(padded, short)
    if apart <= TOLERANCE:
        return None
    return Unfit(
        f"a sample has logits {apart:.1%} of the largest apart where it is padded, as beside a longer one in its batch",
        "leave out what the mask among the inputs marks as padding, as in a mean or a maximum over positions",
    )


def distance(one: Tensor, other: Tensor) -> float:
    """Return the largest difference of two tensors of one shape, as a share of the largest value.

    It is infinite where a value is infinite or NaN; -inf in both is no difference.
    """
    impossible = (one == -math.inf) & (other == -math.inf)
    one, other = one.masked_fill(impossible, 0), other.masked_fill(impossible, 0)
    largest, apart = torch.maximum(one.abs().max(), other.abs().max()), (one - other).abs().max()
    if not largest.isfinite():  # a NaN would pass as no difference
        return math.inf
    return float(apart / largest) if largest else 0.0
