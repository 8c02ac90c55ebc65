"""Average the logits of several teachers to the logits of one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def mean_of_probabilities(logits: Sequence[Tensor]) -> Tensor:
    r"""Return the mean of the members' probabilities at T = 1, as log-probabilities.

    .. math:: \log \frac{1}{K} \sum_k \sigma(z_k)

    They are logits whose softmax is the mean, and can be softened with any T. That softens the mean, which differs from
    the mean of the softened members.

    Args:
        logits: Unnormalised scores of each of K members, all of shape (..., C).

    Returns:
        Shape (..., C), in nats.

    Raises:
        ValueError: If the shapes differ.

    References:
        Hinton, Vinyals & Dean (2015), section 1 (arithmetic mean). arXiv:1503.02531.
    """
    return torch.logsumexp(_stacked(logits).log_softmax(dim=-1), dim=0) - math.log(len(logits))


def mean_of_logits(logits: Sequence[Tensor]) -> Tensor:
    r"""Return the mean of the members' centred logits.

    .. math:: \frac{1}{K} \sum_k \Big( z_k - \frac{1}{C} \sum_c z_{k,c} \Big)

    Its softmax is the members' normalised geometric mean at any T. A class with a logit of -inf in a member has one in
    the mean, and is left out of that member's C.

    Args:
        logits: Unnormalised scores of each of K members, all of shape (..., C).

    Returns:
        Shape (..., C), with mean 0 over C if all logits are finite.

    Raises:
        ValueError: If the shapes differ.

    References:
        Hinton, Vinyals & Dean (2015), section 1 (geometric mean). arXiv:1503.02531.
    """
    stacked = _stacked(logits)
    impossible = stacked == -math.inf
    means = stacked.masked_fill(impossible, 0).sum(dim=-1, keepdim=True) / (~impossible).sum(dim=-1, keepdim=True)
    return (stacked - means).mean(dim=0)


def _stacked(logits: Sequence[Tensor]) -> Tensor:
    shapes = {tuple(one.shape) for one in logits}
    if len(shapes) != 1:
        raise ValueError(f"members must have logits of one shape, at least one member, but got {sorted(shapes)}.")
    return torch.stack(list(logits))
