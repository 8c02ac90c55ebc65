"""Turn the losses of batches into optimizer steps: accumulated over batches, and clipped."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.training.settings import Training


class Updates:
    """Takes an optimizer step for each group of ``accumulate`` batches.

    A step's gradient is that of the mean loss over all samples of its batches, whatever their sizes.

    Args:
        training: The settings.
    """

    def __init__(self, training: Training) -> None:
        self._accumulate = training.accumulate
        self._clip_norm = training.clip_norm
        self._batches = 0
        self._samples = 0

    def add(self, loss: Tensor, samples: int, optimizer: torch.optim.Optimizer, schedule: Any) -> bool:
        """Add the gradient of a batch's mean loss; take a step if the group is complete, and return whether it is.

        Args:
            loss: Mean over the batch's samples, a scalar.
            samples: Their number.
            optimizer: The optimizer.
            schedule: Advanced with each step.
        """
        if not self._batches:
            optimizer.zero_grad()
        (loss if self._accumulate == 1 else loss * samples).backward()
        self._batches += 1
        self._samples += samples
        return self._batches == self._accumulate and self.finish(optimizer, schedule)

    def finish(self, optimizer: torch.optim.Optimizer, schedule: Any) -> bool:
        """Take a step for the batches that are left, as at the end of an epoch, and return whether there were any."""
        if not self._batches:
            return False
        parameters = [one for group in optimizer.param_groups for one in group["params"] if one.grad is not None]
        if self._accumulate > 1:
            for parameter in parameters:
                parameter.grad.div_(max(self._samples, 1))  # 0: no label in all of them
        if self._clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, self._clip_norm)
        self._batches = self._samples = 0
        optimizer.step()
        schedule.step()
        return True
