"""Build the schedule of a training's learning rate, which advances with each optimizer step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, OneCycleLR

from lightning_modules.training.settings import ADAPTIVE, Training
from lightning_modules.training.values import FROZEN

_MILESTONES, _STEP_FACTOR = (0.5, 0.75), 0.1


def make_schedule(training: Training, optimizer: Optimizer, total_steps: int) -> LRScheduler:
    """Return the schedule of a new optimizer, whose learning rates are the peaks.

    Args:
        training: The settings.
        optimizer: The optimizer.
        total_steps: Optimizer steps of the whole training.
    """
    frozen = [group.get(FROZEN, 0.0) * total_steps for group in optimizer.param_groups]
    if training.schedule == "one_cycle":
        return _one_cycle(training, optimizer, total_steps, frozen)
    rise, rest = training.warm_up * total_steps, _AFTER_WARM_UP[training.schedule](training)

    def factor(step: int) -> float:
        if step + 1 <= rise:
            return (step + 1) / (math.floor(rise) + 1)
        return rest(step, math.floor(rise), total_steps)

    return LambdaLR(optimizer, [_thawed(factor, until) for until in frozen])


def _thawed(factor: Callable[[int], float], until: float) -> Callable[[int], float]:
    """Return a schedule that is 0 up to a step."""
    return lambda step: 0.0 if step < until else factor(step)


class _ThawedOneCycle(OneCycleLR):
    """The one-cycle schedule, with a rate of 0 for each group of parameters up to its own step.

    Args:
        optimizer: The optimizer.
        frozen: The step of each group from which on it is trained.
        how: As of ``OneCycleLR``.
    """

    def __init__(self, optimizer: Optimizer, *, frozen: Sequence[float], **how: Any) -> None:
        self._frozen = tuple(frozen)
        super().__init__(optimizer, **how)

    def get_lr(self) -> list[float | Tensor]:
        """Return the rate of each group at this step."""
        rates = zip(super().get_lr(), self._frozen, strict=True)
        return [0.0 if self.last_epoch < until else float(rate) for rate, until in rates]


def _one_cycle(training: Training, optimizer: Optimizer, total_steps: int, frozen: Sequence[float]) -> LRScheduler:
    """Return the one-cycle schedule: up to the peak along a cosine, then down to nearly zero along another.

    With a warm-up of one step or less, as in a training of three steps, OneCycleLR would never reach its peak, and take
    a single step at 4e-6 of it. Such a training starts at the peak and decays along a cosine.

    The first beta of AdamW and Adam falls from 0.95 to 0.85 while the rate rises, and rises again. SGD's momentum
    stays, for it can be set.
    """
    if training.warm_up * total_steps <= 1:
        rest = _cosine(training)
        if any(frozen):
            return LambdaLR(optimizer, [_thawed(lambda step: rest(step, 0, total_steps), until) for until in frozen])
        return CosineAnnealingLR(optimizer, T_max=total_steps)
    return _ThawedOneCycle(
        optimizer,
        frozen=frozen,
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
