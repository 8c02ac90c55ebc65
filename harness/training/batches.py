"""Give a training batches of its own size: the data are shared with other trainings."""

from __future__ import annotations

import copy

from lightning_modules.data.tensors import TensorDataModule
from lightning_modules.training import Training


def with_batches_of(data: TensorDataModule, training: Training) -> TensorDataModule:
    """Return a data module of the same samples and teacher outputs, not copied, in a training's batches.

    Args:
        data: The data, which stay as they are.
        training: Its batch size wins over that of the data.
    """
    own = copy.copy(data)
    own.batch_size = training.batch_size or data.batch_size
    return own
