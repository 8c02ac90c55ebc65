"""Ensembles of teachers: each is trained or loaded by itself, and their outputs are averaged."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from torch import nn

from harness.core.content import derived_seed
from harness.core.errors import HarnessError
from harness.screen.terminal import ProgressBar, Terminal
from harness.settings import Settings
from harness.space import SearchSpace
from harness.studies.changes import known_starts
from harness.studies.start import Start
from harness.studies.study import Study
from harness.task import Task, primary_metric
from harness.teachers.black_box import BlackBoxTeacher
from harness.teachers.cache import ArtifactCache
from harness.teachers.make import Teacher, TeacherListener, make_teacher
from harness.teachers.outputs import Outputs
from harness.teachers.untrained import BindStart
from harness.tracking.mirror import Mirror
from lightning_modules.data.tensors import TensorDataModule
from lightning_modules.outputs import Output

_LOGITS = "logits"


def make_teachers(
    space: SearchSpace,
    data: TensorDataModule,
    dataset: str,
    *,
    classes: int,
    settings: Settings,
    artifacts: ArtifactCache,
    terminal: Terminal,
    mirror: Mirror,
    bind_start: BindStart,
    check: Callable[[nn.Module | BlackBoxTeacher], None] = lambda network: None,
    check_kind: Callable[[BlackBoxTeacher], None] = lambda teacher: None,
) -> list[Teacher]:
    """Load or train each teacher by itself, one after the other.

    Args:
        space: Its task gives their network and its recipe.
        data: Their training data.
        dataset: Fingerprint of that data.
        classes: Number of classes C.
        settings: Which teachers, and where the cache is.
        artifacts: Finds the teachers that are kept, and keeps those that are trained.
        terminal: Shows their training.
        mirror: Notified of their runs' new log entries.
        bind_start: Called with what each starts from, before it is trained.
        check: Raises if a teacher can't teach, before it is trained or asked.
        check_kind: Raises if one that is no PyTorch network can't, before it is prepared.

    Returns:
        The teachers in the order of their digests: the order in which they are given makes no other ensemble.

    Raises:
        HarnessError: If a checkpoint can't be used, or two are the same.
    """
    made: dict[str, Teacher] = {}
    each = _settings_of_each(settings)
    for label, own in zip(labels(len(each)), each, strict=True):
        with _shown(label, space.task, terminal, mirror) as listener:
            teacher = make_teacher(
                space,
                data,
                dataset,
                classes=classes,
                settings=own,
                artifacts=artifacts,
                listener=listener,
                bind_start=bind_start,
                check=check,
                check_kind=check_kind,
            )
        if teacher.digest in made:
            flag = "--teacher must name" if settings.teachers else "--teachers must make"
            raise HarnessError(f"{flag} teachers that differ, but two of them are {teacher.digest}.")
        made[teacher.digest] = teacher
    return [made[digest] for digest in sorted(made)]


def labels(teachers: int) -> list[str]:
    """Return the teachers' names in messages."""
    return ["teacher"] if teachers == 1 else [f"teacher {number}" for number in range(1, teachers + 1)]


def number_of_teachers(settings: Settings) -> int:
    """Return the number of teachers."""
    return len(_settings_of_each(settings))


def _settings_of_each(settings: Settings) -> list[Settings]:
    """Return the settings of each teacher alone: its checkpoint, or the seed that it is trained with.

    The first of those that are trained is the one that a study of a single teacher trains.
    """
    if settings.teachers:
        return [replace(settings, teachers=(file,)) for file in settings.teachers]
    seeds = [settings.seed, *(derived_seed(settings.seed, "teacher", n) for n in range(1, settings.trained_teachers))]
    return [replace(settings, seed=seed) for seed in seeds]


@contextlib.contextmanager
def _shown(label: str, task: Task, terminal: Terminal, mirror: Mirror) -> Iterator[TeacherListener]:
    """Return the callbacks that show a teacher's training, if it is trained."""
    started = time.perf_counter()
    bar: list[ProgressBar] = []

    def on_start(epochs: int, done: int) -> None:
        if done:
            terminal.say(f"{label:<9} its training was interrupted; it resumes after epoch {done} of {epochs}")
        bar.append(terminal.progress_bar(label, epochs, "epochs"))
        bar[0].advance(done)

    def on_epoch(epoch: int, metrics: dict[str, float]) -> None:
        name = f"val/{primary_metric(task).name}"
        bar[0].advance(note=f"epoch {epoch + 1}, {name} {metrics[name]:.4f}")

    try:
        yield TeacherListener(
            on_start=on_start,
            on_epoch=on_epoch,
            on_progress=lambda done: bar[0].show_partial(done),
            on_append=mirror.notify,
            on_note=lambda text: terminal.say_wrapped(f"{label:<9} {text}", indent=" " * 10),
        )
    finally:
        for shown in bar:
            shown.close()
    if bar:
        terminal.say(f"{label:<9} trained in {time.perf_counter() - started:.1f} s")


def bind_teachers(study: Study, starts: Sequence[Start], average: str) -> str:
    """Bind a study to its teachers, or check that it is bound to the same, and return their common name.

    Args:
        study: The study, whose lease is held.
        starts: Identify the teachers, in order; last bits may differ on another processor.
        average: As of ``ensemble_name``.

    Raises:
        HarnessError: If the study was begun with others.
    """
    with study.exclusive("bind"):
        bound = known_starts(study, dict(zip(labels(len(starts)), starts, strict=True)))
        name = ensemble_name([start.digest for start in bound.values()], average)
        study.pin_inputs_locked(teacher=name)
        study.store_starts(bound)
    return name


def ensemble_name(teachers: Sequence[str], average: str) -> str:
    """Return the name of a study's teachers: the digest of one, or the kind of average and the digests of all.

    Args:
        teachers: Their digests, in order.
        average: One of ``harness.settings.AVERAGES``, or ``harness.settings.FOLDS``.
    """
    digests = ", ".join(teachers)
    return digests if len(teachers) == 1 else f"{average} of {digests}"


def averaged(outputs: Sequence[Outputs], average: str, output: Output) -> Outputs:
    """Return the averaged logits of an ensemble (it has no layers: ``method_checks``), or the outputs of one teacher.

    Args:
        outputs: The outputs of each teacher.
        average: One of ``harness.settings.AVERAGES``.
        output: The kind of the teachers' outputs.
    """
    if len(outputs) == 1:
        return outputs[0]
    members = {split: [one[split][_LOGITS].float() for one in outputs] for split in outputs[0]}
    return {split: {_LOGITS: output.ensemble_logits(each, average)} for split, each in members.items()}
