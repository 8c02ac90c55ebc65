"""Where the workers of a search run, and the flags that say so. Imports nothing heavy."""

from __future__ import annotations

import argparse
import math
import re
from dataclasses import dataclass, field

from harness.cli import flags

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
"""Which launchers take a flag; ``--workers`` is for all of them."""

_OWN_FLAG = {
    "partition": "--partition",
    "time": "--time",
    "nodes": "--nodes",
    "cpus-per-task": "--cpus-per-worker",
    "gpus-per-node": "--gpus-per-worker",
}
_OWN = ("array", "error", "job-name", "ntasks-per-node", "open-mode", "output", "requeue", "signal")


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where the workers run. What they do is in ``Settings``, and the same everywhere.

    Attributes:
        launcher: One of ``LAUNCHERS``.
        workers: How many a scheduler is to start; on this machine it is the settings' own.
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


def add_placement(parser: argparse.ArgumentParser) -> None:
    """Add the flags of where workers run, in a group of their own."""
    add = parser.add_argument_group("where workers run").add_argument
    add(
        "--launcher",
        choices=LAUNCHERS,
        default="local",
        help="local: processes of this machine; slurm: an array of jobs; ray: tasks of a Ray cluster. Whichever it is, "
        "all that share --storage and --runs-dir work on one study (default: local)",
    )
    add(
        "--workers",
        type=flags.at_least_one,
        metavar="N",
        help="trials at a time (default: here the cores, or 1 on a GPU; 1 elsewhere)",
    )
    add(
        "--nodes",
        type=flags.at_least_one,
        metavar="N",
        help="Slurm: nodes' worth of workers, an array of --nodes x --workers jobs. A job is one worker, so that Slurm "
        "places, preempts and requeues each by itself, wherever there is room (default: 1)",
    )
    add("--cpus-per-worker", type=flags.at_least_one, metavar="N", help="Slurm, Ray: cores of a worker (default: 1)")
    add("--gpus-per-worker", type=flags.at_least_one, metavar="N", help="Slurm, Ray: GPUs of a worker (default: none)")
    add("--partition", metavar="NAME", help="Slurm: the partition (default: the cluster's)")
    add(
        "--time",
        type=_minutes,
        metavar="LIMIT",
        help="Slurm: a job's time limit, MINUTES or HH:MM:SS; a worker that is cut by it, or preempted, is requeued "
        f"and goes on (default: {DEFAULT_MINUTES})",
    )
    add(
        "--slurm",
        action="append",
        type=_sbatch_option,
        metavar="NAME[=VALUE]",
        help="Slurm: another option of sbatch, as in account=lab, qos=high, mem=8G; may be repeated",
    )
    add("--ray-address", metavar="ADDRESS", help="Ray: the cluster (default: $RAY_ADDRESS, or the one of this machine)")
    add("--detach", action="store_true", default=None, help="Slurm, Ray: submit and return; the workers go on")


def placement_of(parser: flags.Parser, asked: argparse.Namespace) -> Placement:
    """Return where the workers are asked to run; a flag that its launcher does not take is an error."""
    for name, launchers in _TAKEN_BY.items():
        if getattr(asked, name) is not None and asked.launcher not in launchers:
            flag = f"--{name.replace('_', '-')}"
            parser.error(f"{flag} is for --launcher {' and '.join(launchers)}, but got --launcher {asked.launcher}")
    per_node = asked.workers or 1
    workers = (asked.nodes or 1) * per_node
    if (asked.workers or asked.nodes) and workers > asked.trials:
        product = "" if asked.nodes is None else "--nodes x "
        parser.error(f"{product}--workers must be at most the {asked.trials} --trials, but got {workers}")
    return Placement(
        launcher=asked.launcher,
        workers=workers if asked.launcher != "local" else 1,
        cpus=asked.cpus_per_worker or 1,
        gpus=asked.gpus_per_worker or 0,
        detach=bool(asked.detach),
        partition=asked.partition,
        minutes=asked.time or DEFAULT_MINUTES,
        sbatch=flags.each_once(parser, "--slurm", "option", asked.slurm or []),
        ray_address=asked.ray_address,
    )


def _minutes(text: str) -> int:
    """Whole minutes of a time as Slurm writes it, rounded up as Slurm does."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    numbers = [] if match is None else [int(part) for part in match.groups()[1:] if part is not None]
    days = match[1] if match is not None else None
    if days is None and len(numbers) < 3:
        numbers = [0, *numbers]  # MINUTES, MINUTES:SECONDS
    hours, minutes, seconds = (*numbers, 0, 0, 0)[:3]
    limit = math.ceil(int(days or 0) * 1440 + hours * 60 + minutes + seconds / 60)
    if match is None or limit < 1:
        raise argparse.ArgumentTypeError(
            f"must be MINUTES, HH:MM:SS or DAYS-HH:MM:SS, and at least a minute, but got {text!r}"
        )
    return limit


def _sbatch_option(text: str) -> tuple[str, str | bool]:
    name, sign, value = text.partition("=")
    name = name.replace("_", "-")
    if not re.fullmatch("[a-z][a-z-]*", name) or not value.isprintable() or (sign and not value):
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE, or the NAME of an option without one, but got {text!r}")
    if name in _OWN_FLAG:
        raise argparse.ArgumentTypeError(f"{name} has a flag of its own, {_OWN_FLAG[name]}")
    if name in _OWN:
        raise argparse.ArgumentTypeError(f"{name} is set by the launcher itself")
    return name, value if sign else True
