"""The teacher: trained once and kept, or loaded from a checkpoint; then frozen."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from harness.core.content import derived_seed, tensors_digest
from harness.cost.counting import trainable_parameters
from harness.settings import Settings
from harness.space import SearchSpace
from harness.studies.start import Start
from harness.task import class_names, make_metrics, teacher_training
from harness.teachers.black_box import BlackBoxTeacher, Ground
from harness.teachers.cache import ArtifactCache
from harness.teachers.prepare_black_box import WHAT, prepare_black_box, run_key_of
from harness.teachers.untrained import BindStart, begin_teacher, build_teacher, learns, teacher_start
from harness.tracking.autologging import switch_off_autologging
from harness.tracking.spool import Spool
from harness.training.batches import with_batches_of
from harness.training.checkpoint import drop_checkpoints, epochs_kept
from harness.training.fit import EpochListener, FitConfig, fit, loss_check
from harness.training.tensor_file import cpu_state, load_state, save_tensors
from lightning_modules.classifier import TeacherModule
from lightning_modules.data.tensors import TensorDataModule
from lightning_modules.data.unlabelled import labelled_alone, output_for_training

_FILE = "teacher.safetensors"
AS_IT_IS = "nothing of it is trained by gradients: taken as it is"
"""The note on a teacher without trainable parameters, such as an estimator behind a module."""


@dataclass(frozen=True, eq=False)
class Teacher:
    """A frozen teacher.

    Attributes:
        network: In eval mode, without gradients; ``None`` where only its answers are known.
        start: Identifies it, on any processor.
        spool: The log of its own MLflow run.
        run_key: Identifies that run on any machine.
        trainable_parameters: How many of its parameters its own training changes.
        black_box: What is asked in place of the network; ``None`` where that is PyTorch's.
    """

    network: nn.Module | None
    start: Start
    spool: Spool
    run_key: str
    trainable_parameters: int
    black_box: BlackBoxTeacher | None = None

    def live_network(self) -> nn.Module:
        """Return what is asked about each batch, of a teacher that may be."""
        if self.black_box is not None:
            return self.black_box.live_network()
        assert self.network is not None
        return self.network

    @property
    def digest(self) -> str:
        """Return its content hash, 16 hexadecimal digits (``harness.networks.digest``)."""
        return self.start.digest


@dataclass(frozen=True, kw_only=True)
class TeacherListener:
    """Callbacks for the training of a teacher.

    Attributes:
        on_start: Called with the numbers of all epochs and of completed ones, when a training begins or resumes.
        on_epoch: Called at the end of each epoch.
        on_progress: Called with the number of completed epochs, including the fraction of the current one.
        on_append: Called with the folder of the teacher's spool.
        on_note: Called with a line of text about the teacher.
    """

    on_start: Callable[[int, int], None]
    on_epoch: EpochListener
    on_progress: Callable[[float], None]
    on_append: Callable[[Path], None]
    on_note: Callable[[str], None]


def make_teacher(
    space: SearchSpace,
    data: TensorDataModule,
    dataset: str,
    *,
    classes: int,
    settings: Settings,
    artifacts: ArtifactCache,
    listener: TeacherListener,
    bind_start: BindStart,
    check: Callable[[nn.Module | BlackBoxTeacher], None] = lambda network: None,
    check_kind: Callable[[BlackBoxTeacher], None] = lambda teacher: None,
) -> Teacher:
    """Load the teacher from its checkpoint or from the cache, or train it; without trainable parameters, use it as is.

    Args:
        space: Its task gives the network and its recipe.
        data: Its training data.
        dataset: Fingerprint of that data.
        classes: Number of classes C.
        settings: Where the cache is, the seed, and the checkpoint, if there is one: of a teacher, or of a student that
            becomes one.
        artifacts: Finds a teacher that is kept, and keeps the one that is trained.
        listener: Called as the training goes on.
        bind_start: Called with what a teacher starts from, before it is trained.
        check: Raises if the teacher can't teach, before it is trained or asked.
        check_kind: Raises if a teacher that is no PyTorch network can't, before it is prepared.

    Raises:
        HarnessError: If the checkpoint can't be used.
    """
    built = build_teacher(space, data, settings, listener.on_note)
    source = "as it is" if settings.teacher is None else str(settings.teacher)

    def begun(folder: Path) -> Spool:
        return _begun(folder, source, dataset, space, data, settings, listener)

    if isinstance(built, BlackBoxTeacher):
        check_kind(built)
        task = space.task
        ground = Ground(
            data,
            dataset,
            classes,
            class_names(task, data.class_names),
            settings.seed,
            listener.on_note,
            numbers_of=task.output.numbers_of,
        )
        start, spool = prepare_black_box(built, ground, settings.cache_dir / "teachers", artifacts, begun, check)
        asked = built.network()
        return Teacher(asked and asked.eval(), start, spool, run_key_of(spool.folder), 0, built)
    network, start, key = begin_teacher(built, space, data, dataset, settings, bind_start)
    check(network)
    is_trained_here = settings.teacher is None and learns(network)
    source = "trained" if is_trained_here else source
    folder = settings.cache_dir / "teachers" / key
    run_key, file = run_key_of(folder), folder / _FILE

    def train(files: list[Path]) -> None:
        nonlocal network
        with contextlib.closing(begun(folder)) as spool:
            _train(network, space, data, classes, folder, spool, settings, listener)
        _save(network, file, key)
        drop_checkpoints(folder)
        # As another start will load it: what it has learnt beside its tensors is not kept.
        network = cast(nn.Module, build_teacher(space, data, settings))

    if not is_trained_here:
        if settings.teacher is None:
            listener.on_note(AS_IT_IS)
        spool = begun(folder)
    else:
        artifacts.get_or_create(
            [file],
            lock=folder / "lock",
            name=f"teacher {key}",
            what=WHAT,
            doing="trains the teacher",
            run_key=run_key,
            run_folder=folder,
            load=lambda path: _load_kept(network, path, key),
            make=train,
        )
        spool = begun(
            folder
        )  # not before: whoever trains it, on whatever machine, makes its run, and nobody a second one
        artifacts.share([file], WHAT, folder)
    trainable = trainable_parameters(network)
    network.to(data.device).eval().requires_grad_(False)
    if is_trained_here:
        start = teacher_start(network, data)  # with the weights that it was trained to
    return Teacher(network, start, spool, run_key, trainable)


def _begun(
    folder: Path,
    source: str,
    dataset: str,
    space: SearchSpace,
    data: TensorDataModule,
    settings: Settings,
    listener: TeacherListener,
) -> Spool:
    """Begin the log of a teacher's run, whose key is the name of its folder."""
    spool = Spool(folder, listener.on_append)
    spool.begin(
        f"teacher-{folder.name[:8]}",
        tags={"kd.role": "teacher", "kd.run_key": run_key_of(folder)},
        params={
            "source": source,
            "epochs": space.task.teacher_epochs,
            "learning_rate": teacher_training(space.task).learning_rate,
            "batch_size": teacher_training(space.task).batch_size or data.batch_size,
            "seed": settings.seed,
            "dataset": dataset,
        },
    )
    return spool


def find_teacher(
    space: SearchSpace, data: TensorDataModule, dataset: str, settings: Settings
) -> tuple[nn.Module | BlackBoxTeacher, Path | None]:
    """Return the teacher as far as it is there without training, and its file. Nothing is written.

    Args:
        space: Its task gives the network and its recipe.
        data: Its training data.
        dataset: Fingerprint of that data.
        settings: Where the cache is, and whether there is a checkpoint.

    Returns:
        The network, on the CPU, in the mode that the task leaves it in, or a teacher that is none, still to be
        prepared; ``None`` beside it means that it is of no file.

    Raises:
        HarnessError: If the checkpoint can't be used.
    """
    built = build_teacher(space, data, settings)
    if isinstance(built, BlackBoxTeacher):
        return built, settings.teacher
    network, _, key = begin_teacher(built, space, data, dataset, settings)
    if settings.teacher is not None:
        return network, settings.teacher
    if not learns(network):
        return network, None
    file = settings.cache_dir / "teachers" / key / _FILE
    try:
        _load_kept(network, file, key)
    except (SafetensorError, OSError, ValueError, RuntimeError):
        return network, None
    return network, file


def _train(
    network: nn.Module,
    space: SearchSpace,
    data: TensorDataModule,
    classes: int,
    folder: Path,
    spool: Spool,
    settings: Settings,
    listener: TeacherListener,
) -> None:
    training = teacher_training(space.task)
    data = labelled_alone(with_batches_of(data, training), in_full=False)
    module = TeacherModule(
        network,
        output=output_for_training(space.task.output, data, classes),
        metrics=make_metrics(space.task, classes),
        total_steps=space.task.teacher_epochs * training.steps_per_epoch(data.steps_per_epoch),
        settings=training,
    )
    spool.set_state("RUNNING", kept=epochs_kept(folder))
    listener.on_start(space.task.teacher_epochs, spool.kept)

    def on_epoch(epoch: int, metrics: dict[str, float]) -> None:
        spool.metrics(metrics, step=epoch)
        listener.on_epoch(epoch, metrics)

    data.seed = settings.seed
    switch_off_autologging()
    config = FitConfig(
        epochs=space.task.teacher_epochs,
        folder=folder,
        accelerator=settings.accelerator,
        seed=derived_seed(settings.seed, "teacher", "epochs"),
    )
    fit(module, data, config, listeners=[on_epoch, loss_check(data)], on_progress=listener.on_progress)
    module.trained_network()  # loads averaged weights into it, if there are some


def _save(network: nn.Module, file: Path, key: str) -> None:
    state = cpu_state(network)
    save_tensors(state, file, {"key": key, "digest": tensors_digest(state)})


def _load_kept(network: nn.Module, file: Path, key: str) -> None:
    """Load a kept teacher.

    Raises:
        SafetensorError, OSError, ValueError, RuntimeError: If the file is not what was kept.
    """
    with safe_open(file, framework="pt") as reader:
        metadata = reader.metadata() or {}
    state = load_file(file)
    if metadata.get("key") != key or metadata.get("digest") != tensors_digest(state):
        raise ValueError("its content does not match its hash")
    load_state(network, state)
