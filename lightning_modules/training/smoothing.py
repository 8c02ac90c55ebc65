"""Smooth the targets of the hard-label loss."""

from __future__ import annotations

import math
from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor

from lightning_modules.batch import Batch


def smoothed(batch: Batch, logits: Tensor, smoothing: float) -> Batch:
    r"""Return a batch whose targets are smoothed; its labels stay.

    .. math:: q_c = (1 - \varepsilon) \, p_c + \varepsilon / C

    p are the targets: class probabilities, or 1 at the label. C counts the possible classes: one with a logit of -inf
    (masked) gets no share, and so no infinite loss.

    Args:
        batch: The batch.
        logits: The network's logits for it, shape (B, C).
        smoothing: Share ε in [0, 1) that is spread, unitless.

    References:
        Szegedy et al. (2016), section 7. arXiv:1512.00567.
    """
    given = batch.truth
    if not given.is_floating_point():
        given = F.one_hot(given, logits.shape[1]).float()
    possible = (logits.detach() != -math.inf).to(given)
    shares = possible / possible.sum(dim=1, keepdim=True)
    return replace(batch, targets=(1 - smoothing) * given + smoothing * shares)
