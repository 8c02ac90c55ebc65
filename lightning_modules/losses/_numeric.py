"""What the losses share: the precision they are worked out in."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_fp32(values: Tensor) -> Tensor:
    """Half precision loses the tail of a softmax: such values (stored or autocast) are widened, others left alone."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
