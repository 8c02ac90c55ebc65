"""Give the generators that user code draws from their states back."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def random_states_restored(device: torch.device | None = None) -> Iterator[None]:
    """Give the generators of torch, NumPy and ``random`` their states back at the end of the context.

    Args:
        device: A device whose generator is restored too; that of the CPU always is.
    """
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    own = None if device is None or device.type == "cpu" else torch.get_device_module(device).get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])
        if own is not None:
            torch.get_device_module(device).set_rng_state(own)
