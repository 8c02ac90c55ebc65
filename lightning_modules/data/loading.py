"""Order and batches of an epoch, which depend on the seed and the epoch alone."""

from __future__ import annotations

import torch
from torch import Tensor


def epoch_order(samples: int, seed: int | None, epoch: int) -> Tensor:
    """Return the order of the samples in an epoch, shape (N,), int64, on the CPU.

    Args:
        samples: Number of samples N.
        seed: Seed of the order, with the epoch; ``None`` keeps the samples in their order.
        epoch: The epoch.
    """
    if seed is None:
        return torch.arange(samples)
    # Drawn on the CPU, so that the order does not depend on the device. The seed holds both numbers in full:
    # neighbouring (seed, epoch) pairs must not share an order.
    return torch.randperm(samples, generator=torch.Generator().manual_seed((seed << 24) + epoch))


def batch_starts(samples: int, batch_size: int) -> list[int]:
    """Return where each batch of an epoch begins; a single remaining sample does not make a batch of its own."""
    whole, left = divmod(samples, batch_size)
    count = whole + (left > 1 or (left == 1 and not whole))
    return [batch_size * batch for batch in range(count)]
