"""Build the schedule of a training's learning rate, which advances with each optimizer step."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, OneCycleLR

from lightning_modules.training.settings import ADAPTIVE, Training

_MILESTONES, _STEP_FACTOR = (0.5, 0.75), 0.1


def make_schedule(training: Training, optimizer: Optimizer, total_steps: int) -> LRScheduler:
    """Return the schedule of a new optimizer, whose learning rates are the peaks.

    Args:
        training: The settings.
        optimizer: The optimizer.
        total_steps: Optimizer steps of the whole training.
    """
    if training.schedule == "one_cycle":
        return _one_cycle(training, optimizer, total_steps)
    rise, rest = training.warm_up * total_steps, _AFTER_WARM_UP[training.schedule](training)

    def factor(step: int) -> float:
        if step + 1 <= rise:
            return (step + 1) / (math.floor(rise) + 1)
        return rest(step, math.floor(rise), total_steps)

    return LambdaLR(optimizer, factor)


def _one_cycle(training: Training, optimizer: Optimizer, total_steps: int) -> LRScheduler:
    """Return the one-cycle schedule: up to the peak along a cosine, then down to nearly zero along another.

    With a warm-up of one step or less, as in a training of three steps, OneCycleLR would never reach its peak, and take
    a single step at 4e-6 of it. Such a training starts at the peak and decays along a cosine.

    The first beta of AdamW and Adam falls from 0.95 to 0.85 while the rate rises, and rises again. SGD's momentum
    stays, for it can be set.
    """
    if training.warm_up * total_steps <= 1:
        return CosineAnnealingLR(optimizer, T_max=total_steps)
    return OneCycleLR(
        optimizer,
        max_lr=[group["lr"] for group in optimizer.param_groups],
        total_steps=total_steps,
        pct_start=training.warm_up,
        cycle_momentum=training.optimizer in ADAPTIVE,
    )


_Rest = Callable[[int, int, int], float]
"""The factor at a step, given the steps of the warm-up and of the whole training."""


def _cosine(training: Training) -> _Rest:
    return lambda step, rise, total: (1 + math.cos(math.pi * (step - rise) / max(1, total - rise))) / 2


def _step(training: Training) -> _Rest:
    milestones = _MILESTONES if training.milestones is None else training.milestones
    by = _STEP_FACTOR if training.step_factor is None else training.step_factor
    return lambda step, rise, total: by ** sum(step >= share * total for share in milestones)


def _constant(training: Training) -> _Rest:
    return lambda step, rise, total: 1.0


_AFTER_WARM_UP: dict[str, Callable[[Training], _Rest]] = {"cosine": _cosine, "step": _step, "constant": _constant}
