"""Number of trials that run at a time: on this machine, and over all processes that a launcher started."""

from __future__ import annotations

import os

import torch

from harness.cost.table import MOST_ARCHITECTURES
from harness.settings import Settings
from harness.space import SearchSpace


def usable_cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def number_of_workers(settings: Settings, space: SearchSpace, device: torch.device) -> int:
    """Return the number of this process's workers: as many as asked for, else one for each core; on a GPU one."""
    # Costs that are measured during the search must be measured with nothing beside it.
    beside = device.type == "cpu" and space.architectures(limit=MOST_ARCHITECTURES) is not None
    return settings.workers or (usable_cores() if beside else 1)


def workers_together(settings: Settings, space: SearchSpace, device: torch.device) -> int:
    """Return the number of a study's workers over all processes that a launcher started for it."""
    return settings.processes * number_of_workers(settings, space, device)
