"""Define the settings of a training: each checked for itself, and refused where the others leave it without effect."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch

from lightning_modules.training.values import KEYWORDS, checked

OptimizerFactory = Callable[..., torch.optim.Optimizer]
"""Called as ``factory(parameters, lr=…)``; ``parameters`` is a list of them, or of groups with their own settings."""

ADAPTIVE = ("adamw", "adam")
"""Optimizers with betas in place of a momentum."""

_WARM_UP = {"one_cycle": 0.3}  # share of the steps where none is given: OneCycleLR's own, none for the others
_DECAY = 1e-4


@dataclass(frozen=True, kw_only=True)
class Training:
    """How students are trained. Each keyword can be searched: what the ``training`` group of a space varies wins.

    The default is AdamW, fused, with a one-cycle schedule. ``None`` takes what is usual for the chosen optimizer and
    schedule. There are no epochs here: all trials of a study have the same (``SearchSpace.epochs``, ``--epochs``).

    Attributes:
        optimizer: ``"adamw"``, ``"adam"``, ``"sgd"``, or a factory that is called as ``factory(parameters, lr=…)`` and
            returns a ``torch.optim.Optimizer``.
        learning_rate: Peak of the schedule, above 0.
        momentum: Momentum of SGD in [0, 1); 0.9 by default. A factory's optimizer is given it where it is set.
        weight_decay: At least 0; decoupled in AdamW, added to the gradient in Adam and SGD. 1e-4 by default. A
            factory's optimizer is given it where it is set.
        decay_on: What decays: ``"weights"``, which leaves out biases and the parameters of norms, or ``"all"``. By
            default ``"all"`` for AdamW, whose results stay those of earlier versions, and else ``"weights"``.
        schedule: ``"one_cycle"`` (up to the peak and down to nearly zero along cosines), ``"cosine"`` (down to zero),
            ``"step"`` (a factor at each milestone) or ``"constant"``. It advances with each optimizer step.
        warmup: Share of the steps in [0, 1) in which the rate rises to its peak, in a line but for one_cycle. 0.3 by
            default for one_cycle, else 0.
        milestones: Shares of the steps, in (0, 1) and ascending, at which the schedule ``"step"`` changes the rate;
            (0.5, 0.75) by default.
        step_factor: What it is multiplied with there, in (0, 1); 0.1 by default.
        batch_size: Samples in a training batch; that of the data module by default.
        accumulate: Batches whose gradients are averaged over their samples into one optimizer step. The last step of
            an epoch takes those that are left.
        clip_norm: Largest Euclidean norm of a step's gradient, above 0; a longer one is scaled down to it.
        precision: ``"32"``, or ``"bf16-mixed"``: the network's forward and backward pass in bfloat16, losses and
            weights in float32. Where a device has no bfloat16 it is trained in float32, and a search says so.
        ema_decay: Decay in (0, 1) of an exponential moving average of the weights at each optimizer step, which is
            validated, scored and saved in their place. After n steps it is at most (1 + n) / (10 + n).
        label_smoothing: Share in [0, 1) of the targets of the hard-label loss that is spread over all classes; in
            training alone, so that validation losses compare.
        groups: Factors of ``learning_rate`` and ``weight_decay`` by patterns of parameters' names in the network, as
            ``{"head.*": {"learning_rate": 10.0}}``. ``*`` and ``?`` stand for any characters and for one; the first
            pattern that matches a name holds. ``frozen`` is the share of the steps, at first, in which a group is not
            trained, as in ``{"head.*": {"learning_rate": 10.0}, "*": {"frozen": 0.2}}`` of a pretrained network.

    Raises:
        ValueError: If a value is outside its range, or has no effect beside the others.
    """

    optimizer: str | OptimizerFactory = "adamw"
    learning_rate: float = 1e-2
    momentum: float | None = None
    weight_decay: float | None = None
    decay_on: str | None = None
    schedule: str = "one_cycle"
    warmup: float | None = None
    milestones: tuple[float, ...] | None = None
    step_factor: float | None = None
    batch_size: int | None = None
    accumulate: int = 1
    clip_norm: float | None = None
    precision: str = "32"
    ema_decay: float | None = None
    label_smoothing: float = 0.0
    groups: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in KEYWORDS:
            object.__setattr__(self, name, checked(name, getattr(self, name)))
        for reason in without_effect(self.given()).values():
            raise ValueError(f"{reason}; leave it out.")

    def given(self) -> dict[str, Any]:
        """Return the keywords that differ from their defaults, by name."""
        default: dict[str, Any] = {one.name: {} if one.name == "groups" else one.default for one in fields(self)}
        return {name: value for name in default if (value := getattr(self, name)) != default[name]}

    def varied(self, values: Mapping[str, Any]) -> Training:
        """Return these settings with other values for some; what has no effect beside them is left out.

        Raises:
            ValueError: If a name is no keyword, or a value is outside its range.
        """
        values = {name: checked(name, value) for name, value in values.items()}
        merged = {**self.given(), **values}
        idle = without_effect(merged)
        return Training(**{name: value for name, value in merged.items() if name not in idle})

    @property
    def decay(self) -> float | None:
        """Return the weight decay; ``None`` leaves it to a factory's optimizer."""
        if self.weight_decay is None and not callable(self.optimizer):
            return _DECAY
        return self.weight_decay

    @property
    def decays_all(self) -> bool:
        """Return whether biases and norms decay too."""
        return self.decay_on == "all" if self.decay_on is not None else self.optimizer == "adamw"

    @property
    def warm_up(self) -> float:
        """Return the share of the steps in which the learning rate rises."""
        return _WARM_UP.get(self.schedule, 0.0) if self.warmup is None else self.warmup

    def steps_per_epoch(self, batches: int) -> int:
        """Return the number of optimizer steps in an epoch of some batches."""
        return -(-batches // self.accumulate)

    def texts(self) -> dict[str, str]:
        """Return the texts of what differs from the default, by name."""
        return {name: keyword_text(value) for name, value in self.given().items()}


def keyword_text(value: Any) -> str:
    """Return the text of a keyword's value: the name of a factory, anything else as it is written."""
    if isinstance(value, functools.partial):
        given = [*map(str, value.args), *(f"{name}={one}" for name, one in value.keywords.items())]
        return f"{keyword_text(value.func)}({', '.join(given)})"
    return str(getattr(value, "__qualname__", None) or type(value).__name__) if callable(value) else str(value)


def without_effect(values: Mapping[str, Any]) -> dict[str, str]:
    """Return the keywords that have no effect beside the others, each with the reason.

    Args:
        values: Keywords by name; those that are missing, or ``None``, have their defaults.
    """
    given = {name: value for name, value in values.items() if value is not None}
    optimizer, schedule = given.get("optimizer", "adamw"), given.get("schedule", "one_cycle")
    found = {}
    if "momentum" in given and optimizer in ADAPTIVE:
        found["momentum"] = f"momentum has no effect with optimizer {optimizer!r}, which has betas in its place"
    for name in ("milestones", "step_factor"):
        if name in given and schedule != "step":
            found[name] = f"{name} has no effect with schedule {schedule!r}, only with 'step'"
    if "decay_on" in given:
        if given.get("weight_decay") == 0:
            found["decay_on"] = "decay_on has no effect with weight_decay 0"
        elif callable(optimizer) and "weight_decay" not in given:
            found["decay_on"] = "decay_on has no effect with a factory's optimizer, but where weight_decay is set too"
    return found
