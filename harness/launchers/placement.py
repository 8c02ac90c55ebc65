"""Choose where the workers of a search run, from its options. Imports nothing heavy."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

from harness.options.given import Given, InvalidOption
from harness.options.values import at_least_one, one_of
from harness.settings import Settings

LAUNCHERS = ("local", "slurm", "ray")
DEFAULT_MINUTES = 60

_TAKEN_BY = {
    "detach": ("slurm", "ray"),
    "cpus_per_worker": ("slurm", "ray"),
    "gpus_per_worker": ("slurm", "ray"),
    "nodes": ("slurm",),
    "partition": ("slurm",),
    "time": ("slurm",),
    "slurm": ("slurm",),
    "ray_address": ("ray",),
}
"""The launchers that take an option; ``workers`` is for all of them."""

_OWN_OPTION = {
    "partition": "partition",
    "time": "time",
    "nodes": "nodes",
    "cpus-per-task": "cpus_per_worker",
    "gpus-per-node": "gpus_per_worker",
}
"""Options of sbatch that are options of the search too, by that name."""

_OWN = ("array", "error", "job-name", "ntasks-per-node", "open-mode", "output", "requeue", "signal")


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where the workers run. What they do is in ``Settings``, and the same everywhere.

    Attributes:
        launcher: One of ``LAUNCHERS``.
        workers: Number of workers that a scheduler starts; on this machine ``Settings.workers`` counts.
        cpus: Processor cores of each.
        gpus: GPUs of each.
        detach: Whether the command returns once they are submitted.
        partition: Slurm's partition; ``None`` takes the cluster's default.
        minutes: Slurm's time limit of a job.
        sbatch: Further options of ``sbatch``, by name; ``True`` for one without a value.
        ray_address: A running Ray cluster; ``None`` takes ``$RAY_ADDRESS``, or the one on this machine.
    """

    launcher: str = "local"
    workers: int = 1
    cpus: int = 1
    gpus: int = 0
    detach: bool = False
    partition: str | None = None
    minutes: int = DEFAULT_MINUTES
    sbatch: dict[str, str | bool] = field(default_factory=dict)
    ray_address: str | None = None


def placement_of(given: Given) -> Placement:
    """Return where the workers of a search are to run.

    Args:
        given: The options of the search.

    Raises:
        InvalidOption: If an option is invalid, or its launcher does not take it.
    """
    spell = given.spell
    launcher = given.read("launcher", one_of(LAUNCHERS), LAUNCHERS[0])
    for name, launchers in _TAKEN_BY.items():
        if given.has(name) and launcher not in launchers:
            asked = spell("launcher")
            raise InvalidOption(f"{spell(name)} is for {asked} {' and '.join(launchers)}, but got {asked} {launcher}")
    nodes = given.read("nodes", at_least_one, None)
    per_node = given.read("workers", at_least_one, None)
    trials = given.read("trials", at_least_one, Settings.trials)
    workers = (nodes or 1) * (per_node or 1)
    if (nodes or per_node) and workers > trials:
        product = f"{spell('nodes')} x " if nodes else ""
        raise InvalidOption(
            f"{product}{spell('workers')} must be at most the {trials} {spell('trials')}, but got {workers}"
        )
    sbatch = given.read_named("slurm", _sbatch_option, "option")
    for name in sbatch:
        if name in _OWN_OPTION:
            raise InvalidOption(f"{spell('slurm')} {name} has an option of its own, {spell(_OWN_OPTION[name])}")
    return Placement(
        launcher=launcher,
        workers=workers if launcher != "local" else 1,
        cpus=given.read("cpus_per_worker", at_least_one, 1),
        gpus=given.read("gpus_per_worker", at_least_one, 0),
        detach=given.has("detach"),
        partition=given.read("partition", str, None),
        minutes=given.read("time", _minutes, DEFAULT_MINUTES),
        sbatch=sbatch,
        ray_address=given.read("ray_address", str, None),
    )


def _minutes(value: object) -> int:
    """Return the whole minutes of a time as Slurm writes it, rounded up as Slurm does."""
    text = str(value)
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    numbers = [] if match is None else [int(part) for part in match.groups()[1:] if part is not None]
    days = match[1] if match is not None else None
    if days is None and len(numbers) < 3:
        numbers = [0, *numbers]  # MINUTES, MINUTES:SECONDS
    hours, minutes, seconds = (*numbers, 0, 0, 0)[:3]
    limit = math.ceil(int(days or 0) * 1440 + hours * 60 + minutes + seconds / 60)
    if match is None or limit < 1:
        raise ValueError(f"must be MINUTES, HH:MM:SS or DAYS-HH:MM:SS, and at least a minute, but got {value!r}")
    return limit


def _sbatch_option(text: str) -> tuple[str, str | bool]:
    """Return the name and the value of an option of ``sbatch``; ``True`` for one without a value."""
    name, sign, value = text.partition("=")
    name = name.replace("_", "-")
    if not re.fullmatch("[a-z][a-z-]*", name) or not value.isprintable() or (sign and not value):
        raise ValueError(f"must be NAME=VALUE, or the NAME of an option without one, but got {text!r}")
    if name in _OWN:
        raise ValueError(f"{name} is set by the launcher itself")
    return name, value if sign else True
