"""Sanity warnings about tasks and networks, cheap enough for every search; ``harness.doctor`` checks more."""

from __future__ import annotations

import difflib
import math

import pytorch_lightning as pl
from torch import Tensor, nn

from harness.region import Scores
from lightning_modules.outputs import Output
from lightning_modules.own_module import UNUSED, overrides


def unused_methods(network: nn.Module) -> list[str]:
    """Return the names of training hooks of LightningModules in a network: kd-harness does not call them."""
    found: dict[str, None] = {}
    for part in network.modules():
        bases = [base for base in type(part).__mro__ if base.__name__ == "LightningModule"]
        for base in bases[:1]:  # that of ``lightning`` or of ``pytorch_lightning``
            own = [cls for cls in type(part).__mro__ if issubclass(cls, base) and cls is not base]
            names = [name for cls in own for name in vars(cls) if _is_hook(name, base)]
            found |= dict.fromkeys(sorted(names, key=lambda name: (not name.startswith(_FIRST), name)))
    return list(found)


_FIRST = ("training_step", "configure_optimizers")
_STEPS = ("configure_", "training_step", "validation_step", "test_step", "predict_step", "optimizer_", "lr_scheduler_")
_HOOKS = (*_STEPS, "on_", "train_dataloader", "val_dataloader", "backward", "manual_backward", "toggle_optimizer")


def _is_hook(name: str, base: type) -> bool:
    return name.startswith(_HOOKS) and hasattr(base, name)


def training_warnings(network: nn.Module, *, by_itself: bool = False) -> list[str]:
    """Return warnings about how a network declares its own training, a phrase each.

    Args:
        network: A student or a teacher, as its task returns it.
        by_itself: Whether it is a student that its own code trains.
    """
    found = []
    if by_itself and isinstance(network, pl.LightningModule):
        if names := [name for name in UNUSED if overrides(network, name)]:
            found.append(f"has {', '.join(names)}, which will not be used: data and final scores are the task's")
    elif names := unused_methods(network):
        shown = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
        found.append(
            f"is a LightningModule whose {shown} will not be used: its forward alone is, trained by the space's method "
            "as the task's training = Training(…) says; a teacher that must be trained by them is trained before, and "
            "given as --teacher FILE"
        )
    if not network.training:
        found.append("is given in eval mode, and is trained so, without dropout: call train() before it is returned")
    return found


_SHOWN = 4


def task_warnings(task: object, known: type) -> list[str]:
    """Return warnings about attributes of a task that are never used: misspelt ones and hooks, a phrase each.

    Args:
        task: The task.
        known: The class that declares the attributes of a task.
    """
    own = {name for cls in type(task).__mro__ if issubclass(cls, known) and cls is not known for name in vars(cls)}
    own |= set(vars(task))
    asked = [name for name in vars(known) if not name.startswith("_")]
    found = []
    for name in sorted(name for name in own if not name.startswith("_") and name not in asked):
        if near := difflib.get_close_matches(name, asked, n=1, cutoff=_NEAR):
            found.append(f"declares {name!r}, which nothing asks for; did you mean {near[0]!r}?")
        elif name.startswith(_HOOKS):
            found.append(
                f"declares {name!r}, which nothing asks for: a task's networks are trained by the space's method"
            )
    return found


_NEAR = 0.8  # of difflib's ratio: one or two letters


def no_better_than_chance(scores: Scores, reached: float) -> bool:
    """Return whether a network scores no better than a constant answer; False where that score is NaN.

    Args:
        scores: What is known of the metric on the split.
        reached: The network's value of it.
    """
    return scores.sign * (reached - scores.chance) <= 0


def no_score_text(metric: str, value: float) -> str:
    """Return the warning that a network's primary metric is not a finite number.

    Args:
        metric: Its name.
        value: Its value, NaN or infinite.
    """
    return (
        f"{metric} {value} on the samples that it is scored on: let metric(classes) give a number whatever is "
        "answered, e.g. zero_division=0"
    )


SAME_WEIGHTS = (
    "begins with the same weights whatever the seed: unless all are pretrained, let nothing in student() be seeded, "
    "for trials and confirm's seeds differ by the order of the data alone"
)
"""The warning about a student that draws nothing from the generator that a trial seeds."""


def network_warnings(
    logits: Tensor, output: Output, scores: Scores | None = None, reached: float = math.nan
) -> list[str]:
    """Return warnings about the logits of a teacher, or of an untrained student, a phrase each.

    Args:
        logits: Its output for validation samples, first dimension N.
        output: The output kind.
        scores: What is known of the primary metric on them; ``None`` for an untrained network.
        reached: The network's value of that metric.
    """
    found = []
    if scores is not None and not math.isfinite(reached):
        found.append(f"has {no_score_text(scores.metric, reached)}, for each student fails that has none")
    elif scores is not None and no_better_than_chance(scores, reached):
        found.append(
            f"has {scores.metric} {reached:.4f} on the validation split, no better than a constant answer, which has "
            f"{scores.chance:.4f}"
        )
    if output.looks_softmaxed(logits):
        found.append("gives probabilities where logits are wanted: T and the losses soften them twice")
    return found
