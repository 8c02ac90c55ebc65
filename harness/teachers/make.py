"""The teacher: trained once, or loaded from a checkpoint; frozen, and known by what it holds and answers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from harness.core.content import derived_seed, digest, tensors_digest
from harness.core.errors import Unfit
from harness.cost.counting import trainable_parameters
from harness.networks.digest import answers_of, network_digest, sampled_answers, samples_of, weights_digest
from harness.networks.shape import shape_of
from harness.networks.state import check_same_state
from harness.settings import Settings
from harness.space import SearchSpace
from harness.studies.start import Start
from harness.teachers.assistant import is_student, load_assistant
from harness.teachers.cache import ArtifactCache
from harness.teachers.files import load_checkpoint
from harness.tracking.autologging import switch_off_autologging
from harness.tracking.spool import Spool
from harness.training.checkpoint import drop_checkpoints, epochs_kept
from harness.training.fit import EpochListener, FitConfig, fit, loss_check, seed_draws
from harness.training.tensor_file import cpu_state, load_state, save_tensors
from lightning_modules.batch import initialize_lazy_layers
from lightning_modules.classifier import TeacherModule
from lightning_modules.data.tensors import TensorDataModule

_FILE = "teacher.safetensors"
AS_IT_IS = "nothing of it is trained by gradients: taken as it is"
"""What is said of a teacher without a parameter to be trained, as an estimator behind a module."""
_RECIPE_VERSION = 2  # raise it when the training of a teacher changes: it is part of the content key

BindStart = Callable[[str, Start], Start]
"""Ties a study to what a network of a name starts from; what it is tied to, which may differ in the last bits."""


@dataclass(frozen=True, eq=False)
class Teacher:
    """A frozen teacher.

    Attributes:
        network: In eval mode, without gradients.
        start: What tells it from another teacher, on whatever processor.
        spool: The log of its own MLflow run.
        run_key: Names that run on any machine.
        trainable_parameters: How many of its parameters its own training changes.
    """

    network: nn.Module
    start: Start
    spool: Spool
    run_key: str
    trainable_parameters: int

    @property
    def digest(self) -> str:
        """Content hash of what it is, 16 hexadecimal digits (``harness.networks.digest``)."""
        return self.start.digest


@dataclass(frozen=True, kw_only=True)
class TeacherListener:
    """Who is told how the teacher comes about.

    Attributes:
        on_start: Called with the number of epochs, and of those that are done, when a training begins or goes on.
        on_epoch: Called with each epoch that ends.
        on_progress: Called with the epochs that are done, a part of one included.
        on_append: Called with the folder of the teacher's spool.
        on_note: Called with what should be known of its checkpoint, in one line.
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
    check: Callable[[nn.Module], None] = lambda network: None,
) -> Teacher:
    """Load the teacher from where the settings or the cache have it, or train it; take it as it is if nothing trains.

    Args:
        space: Its task gives the network and its recipe.
        data: Its training data.
        dataset: Fingerprint of that data.
        classes: Number of classes C.
        settings: Where the cache is, the seed, and the checkpoint, if there is one: of a teacher, or of a student that
            becomes one.
        artifacts: Finds a teacher that is kept, and keeps the one that is trained.
        listener: Told how it goes.
        bind_start: Called with what a teacher that is trained starts from, before it is.
        check: Raises if the network can't teach, before it is trained.

    Raises:
        HarnessError: If the checkpoint can't be used.
    """
    network, start, key = _begun(space, data, dataset, settings, bind_start, listener.on_note)
    check(network)
    is_trained_here = settings.teacher is None and learns(network)
    source = "trained" if is_trained_here else str(settings.teacher or "as it is")
    folder = settings.cache_dir / "teachers" / key
    run_key, file = f"teacher/{key}", folder / _FILE

    def begun() -> Spool:
        spool = Spool(folder, listener.on_append)
        spool.begin(
            f"teacher-{key[:8]}",
            tags={"kd.role": "teacher", "kd.run_key": run_key},
            params={
                "source": source,
                "epochs": space.task.teacher_epochs,
                "learning_rate": space.task.teacher_learning_rate,
                "batch_size": data.batch_size,
                "seed": settings.seed,
                "dataset": dataset,
            },
        )
        return spool

    def train(files: list[Path]) -> None:
        nonlocal network
        with contextlib.closing(begun()) as spool:
            _train(network, space, data, classes, folder, spool, settings, listener)
        _save(network, file, key)
        drop_checkpoints(folder)
        network = _built(
            space, data, settings
        )  # as another start will find it: what it has learnt beside tensors is not kept

    if not is_trained_here:
        if settings.teacher is None:
            listener.on_note(AS_IT_IS)
        spool = begun()
    else:
        what = "teacher"
        artifacts.get_or_create(
            [file],
            lock=folder / "lock",
            name=f"teacher {key}",
            what=what,
            doing="trains the teacher",
            run_key=run_key,
            run_folder=folder,
            load=lambda path: _load_kept(network, path, key),
            make=train,
        )
        spool = begun()  # not before: whoever trains it, on whatever machine, makes its run, and nobody a second one
        artifacts.share([file], what, folder)
    trainable = trainable_parameters(network)
    network.to(data.device).eval().requires_grad_(False)
    if is_trained_here:
        start = _start_of(network, data)  # with the weights that it was trained to
    return Teacher(network, start, spool, run_key, trainable)


def learns(network: nn.Module) -> bool:
    """Return whether a teacher, as its task gives it, has a parameter that gradients train."""
    return trainable_parameters(network) > 0


def find_teacher(
    space: SearchSpace, data: TensorDataModule, dataset: str, settings: Settings
) -> tuple[nn.Module, Path | None]:
    """Return the teacher as far as it can be had without training, and the file that it is from. Nothing is written.

    Args:
        space: Its task gives the network and its recipe.
        data: Its training data.
        dataset: Fingerprint of that data.
        settings: Where the cache is, and whether there is a checkpoint.

    Returns:
        The network, on the CPU, in the mode that the task leaves it in; ``None`` beside it means that of no file.

    Raises:
        HarnessError: If the checkpoint can't be used.
    """
    network, _, key = _begun(space, data, dataset, settings)
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


def _begun(
    space: SearchSpace,
    data: TensorDataModule,
    dataset: str,
    settings: Settings,
    bind_start: BindStart = lambda name, start: start,
    note: Callable[[str], None] = lambda text: None,
) -> tuple[nn.Module, Start, str]:
    """The network, fresh or filled from its checkpoint, what it starts from, and the key that it is kept under."""
    network = _built(space, data, settings, note)
    before = list(network.state_dict())
    start = _start_of(network.to(data.device), data)
    check_same_state("the teacher", before, network)
    network.to("cpu")
    if settings.teacher is not None or not learns(network):
        return network, start, start.digest
    # Fresh weights under a fixed seed stand for the architecture, and what is answered with them for its code.
    recipe = digest(
        dataset, space.task.teacher_epochs, space.task.teacher_learning_rate, data.batch_size, settings.seed
    )
    asked = replace(start, exact=digest(recipe, shape_of(network)))
    bound = bind_start(f"the teacher (seed {settings.seed})", asked)
    return network, start, digest("teacher", _RECIPE_VERSION, bound.exact, bound.digest)


def _start_of(network: nn.Module, data: TensorDataModule) -> Start:
    """Return what tells a teacher from another one. It is on the device of the data."""
    try:
        answers = answers_of(network, samples_of(data))
    except Exception:  # what comes next asks it too, and says where it fails
        answers = torch.zeros(0)
    return Start(weights_digest(network), sampled_answers(answers), network_digest(network, answers))


def _built(
    space: SearchSpace, data: TensorDataModule, settings: Settings, note: Callable[[str], None] = lambda text: None
) -> nn.Module:
    """Return the network with fresh weights under the study's seed, or with those of its checkpoint."""
    seed_draws(derived_seed(settings.seed, "teacher"), torch.device("cpu"))
    if settings.teacher is not None and is_student(settings.teacher):
        return load_assistant(settings.teacher, space, data, settings.space_name)
    network = space.task.teacher()
    if not isinstance(network, nn.Module):
        raise Unfit(
            f"teacher() must give a torch.nn.Module, but gives {type(network).__name__}", "return the network from it"
        )
    initialize_lazy_layers(network, data.splits["val"].few(1).to(torch.device("cpu")).inputs)
    if settings.teacher is not None:
        if left_out := load_checkpoint(network, settings.teacher):
            more = f" and {len(left_out) - 1} more" if len(left_out) > 1 else ""
            note(f"{settings.teacher} holds {left_out[0]!r}{more} too, which the teacher has not: left out")
    return network


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
    module = TeacherModule(
        network,
        metric=space.task.metric(classes),
        metric_name=space.task.metric_name,
        total_steps=space.task.teacher_epochs * data.steps_per_epoch,
        learning_rate=space.task.teacher_learning_rate,
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
