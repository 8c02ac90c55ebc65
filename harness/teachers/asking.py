"""How teachers are asked: once about each training sample, whose answers are stored, or live, about each batch.

Stored outputs are the cheaper way for many students of one teacher. They are impossible where epochs show fresh views,
or samples are mixed: there the teacher answers what the student sees, as it sees it (Beyer et al. 2022,
arXiv:2106.05237).
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

from harness.core.errors import HarnessError, one_line
from harness.cost.latency import call_times_s, computing_with
from harness.networks.consistency import find_inconsistency
from harness.settings import Settings
from harness.space import SearchSpace
from harness.task import Task, teacher_outputs_dtype
from harness.teachers.black_box import BlackBoxTeacher
from harness.teachers.make import Teacher
from lightning_modules.batch import Inputs, first_of
from lightning_modules.data.live import LiveTeacher
from lightning_modules.data.tensors import TensorDataModule
from lightning_modules.features import probe_features
from lightning_modules.outputs import Output

AUTO, STORED, LIVE = "auto", "stored", "live"
_TIMED_CALLS = 3  # of which the median counts: another process may be in the way of one
_MOST_TIMED = 64  # samples of a batch
_PATIENCE_S = 1.0  # with batches that grow
_ROOM = 1.5  # of free disk space, of what is stored


@dataclass(frozen=True)
class AskingCosts:
    """What it takes to ask the teachers of a study.

    Attributes:
        samples: Training samples N.
        views: Stored views V of each; 0 where the answers to them can't be stored.
        sample_s: Seconds that the teachers take for a sample where all threads compute, as for what is stored.
        live_sample_s: The same with a worker's share of the threads.
        sample_bytes: Bytes that are stored of a view of a sample.
        epochs: Epochs of a trial.
        trials: Trials of the study.
        free_bytes: Free disk space where it would be stored.
    """

    samples: int
    views: int
    sample_s: float
    live_sample_s: float
    sample_bytes: int
    epochs: int
    trials: int
    free_bytes: int

    @property
    def stored_bytes(self) -> int:
        """Return what is stored of the training split."""
        return self.samples * self.views * self.sample_bytes

    @property
    def stored_s(self) -> float:
        """Return how long it takes to store it, once."""
        return self.samples * self.views * self.sample_s

    @property
    def trial_s(self) -> float:
        """Return how long a live teacher takes in a trial that is not pruned."""
        return self.samples * self.epochs * self.live_sample_s


def asking_costs(
    networks: Sequence[nn.Module],
    data: TensorDataModule,
    space: SearchSpace,
    settings: Settings,
    *,
    layers: Sequence[str],
    workers: int,
) -> AskingCosts:
    """Time the teachers on a few validation samples, and return what it takes to ask them.

    Args:
        networks: The teachers.
        data: The data.
        space: The space.
        settings: How it is searched.
        layers: Names of the teacher's layers whose outputs are stored.
        workers: Workers of this process, which share its threads.
    """
    split = data.splits["val"]
    logits, features = probe_features(networks[0], split.few(2).inputs, layers)
    threads = torch.get_num_threads()
    share = max(1, threads // workers)
    sample_s = sum(_seconds(network, data, threads) for network in networks)
    return AskingCosts(
        samples=len(data.splits["train"]),
        views=0 if asks_live(data) else 1 if data.views is None else data.views.count,
        sample_s=sample_s,
        live_sample_s=sample_s if share == threads else sum(_seconds(network, data, share) for network in networks),
        sample_bytes=_sample_bytes(space.task, logits, list(features.values())),
        epochs=space.epochs,
        trials=settings.trials,
        free_bytes=_free_bytes(settings.cache_dir),
    )


def _sample_bytes(task: Task, logits: Tensor, features: Sequence[Tensor]) -> int:
    """Return how many bytes are stored of a view of a sample."""
    size, form = teacher_outputs_dtype(task).itemsize, task.teacher_outputs
    of_layers = size * sum(values[0].numel() for values in features)
    if form is None:
        return of_layers + size * logits[0].numel()
    classes = logits.shape[task.output.size_axis]
    return of_layers + logits[0].numel() // classes * form.row_bytes(classes)


def _seconds(network: nn.Module, data: TensorDataModule, threads: int) -> float:
    """Return the seconds that a network takes for a sample of the largest batch that there is time for."""
    size, ends_s = 2, time.perf_counter() + _PATIENCE_S
    with computing_with(threads), torch.no_grad():
        while True:
            inputs = data.example_inputs(size)
            taken = median(call_times_s(network, inputs, _TIMED_CALLS)) / len(first_of(inputs))
            if size == _MOST_TIMED or time.perf_counter() > ends_s:
                return taken
            size = min(4 * size, _MOST_TIMED)


def check_can_be_asked(
    asked: str, data: TensorDataModule, output: Output, teacher: BlackBoxTeacher | None = None
) -> None:
    """Check that a teacher can be asked as a person wants, about what students are shown.

    Args:
        asked: ``--teacher-outputs``.
        data: The data.
        output: What the teacher gives.
        teacher: A teacher that is no PyTorch network; ``None`` for any.

    Raises:
        HarnessError: If it can't.
    """
    only_live = asks_live(data)
    if only_live and asked == STORED:
        what = "epochs show fresh views" if data.views is not None and data.views.fresh else "samples are mixed"
        raise HarnessError(
            f"--teacher-outputs stored is impossible where {what}: there are answers to all that students are shown by "
            "a live teacher alone; leave it out, or take a number of views and no mix."
        )
    what = f"{data.views} need" if only_live else "--teacher-outputs live needs"
    if teacher is not None and not teacher.answers_live and (only_live or asked == LIVE):
        raise HarnessError(
            f"{what} a teacher that can be asked about each batch, as a PyTorch network, an ONNX model or a function, "
            f"but this is a {type(teacher).__name__}; its answers can be stored: take a number of views and no mix."
        )
    if output.maps_teacher and (only_live or asked == LIVE):
        raise HarnessError(
            f"{what} a teacher that answers in the units of the targets, but the output maps its answers by a line "
            "that is fitted to stored ones: take a number of views and no mix, or let the teacher answer in them."
        )


def asks_live(data: TensorDataModule) -> bool:
    """Return whether answers to what students are shown can't be stored."""
    return data.views is not None and not data.views.can_be_stored


def how_to_ask(asked: str, before: str | None, data: TensorDataModule, costs: AskingCosts, *, may_be_live: bool) -> str:
    """Return ``"stored"`` or ``"live"``, of what is possible.

    Args:
        asked: ``--teacher-outputs``.
        before: How the study's teachers were asked so far; ``None`` if they were not.
        data: The data.
        costs: What either way takes.
        may_be_live: Whether the methods are fit for a live teacher.
    """
    if asks_live(data) or asked != AUTO:
        return LIVE if asks_live(data) else asked
    if before is not None:
        return before
    is_cheaper = costs.views > costs.epochs * costs.trials or costs.stored_bytes * _ROOM > costs.free_bytes
    return LIVE if is_cheaper and may_be_live else STORED


def told(way: str, costs: AskingCosts) -> str:
    """Return a line about how teachers are asked, and what either way takes."""
    live = f"about {_about(costs.trial_s)} of each full trial"
    if not costs.views:
        return f"asked live about each batch: {live}"
    views = f"{costs.views} views of " if costs.views > 1 else ""
    stored = f"{views}{costs.samples:,} samples, {_size_text(costs.stored_bytes)}, about {_about(costs.stored_s)} once"
    if way == STORED:
        return f"stored: {stored}; a live teacher would take {live}"
    return f"asked live about each batch: {live}; to store would take {stored}"


def live_teacher(teachers: Sequence[Teacher], space: SearchSpace, average: str, inputs: Inputs) -> LiveTeacher:
    """Return the teachers of a study as they are asked live.

    Args:
        teachers: PyTorch networks in eval mode, or what else answers live.
        space: Its task says what is averaged.
        average: One of ``harness.settings.AVERAGES``.
        inputs: Inputs of some samples.

    Raises:
        HarnessError: If one answers a question differently each time, or is in train mode.
    """
    networks = [one.live_network() for one in teachers]
    for one, network in zip(teachers, networks, strict=True):
        if one.black_box is not None and (why := _why_unpicklable(network)):
            raise HarnessError(
                f"a {type(one.black_box).__name__} that is asked live must be one that workers can load, but {why}; "
                "define its functions at the top of a module, and use no lambda."
            )
        if fault := find_inconsistency(network, inputs):
            raise HarnessError(f"a teacher that is asked live must answer alike each time, but {fault}")
    try:
        return LiveTeacher(networks, partial(space.task.output.ensemble_logits, average=average))
    except ValueError as error:
        raise HarnessError(str(error)) from error


def _why_unpicklable(network: nn.Module) -> str:
    """Return why a teacher can't be sent to workers that are no forks; empty if it can."""
    try:
        ForkingPickler.dumps(network)
    except Exception as error:  # what a part of it raises
        return one_line(error).rstrip(".")
    return ""


def _free_bytes(folder: Path) -> int:
    """Return the free disk space where a folder is, or will be."""
    there = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    return shutil.disk_usage(there).free


def _size_text(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size < 1e9 else f"{size / 1e9:,.1f} GB"


def _about(seconds: float) -> str:
    """Return a measured time, rounded."""
    return f"{seconds:.1g} s" if seconds < 1 else f"{seconds:,.0f} s" if seconds < 600 else f"{seconds / 60:,.0f} min"
