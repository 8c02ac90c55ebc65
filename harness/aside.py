"""Trials that were put aside: each has its checkpoint, and waits until nothing promises more than to go on with it.

For Optuna such a trial runs, as one does that was cut; an attribute tells them apart.
"""

from __future__ import annotations

from optuna.trial import FrozenTrial, TrialState

ASIDE = "aside"
"""A trial's user attribute: whether it was put aside when a worker last had it, and nobody has taken it up since."""


def is_aside(trial: FrozenTrial) -> bool:
    """Whether a trial was put aside."""
    return trial.state == TrialState.RUNNING and bool(trial.user_attrs.get(ASIDE, False))
