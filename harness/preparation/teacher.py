"""The teacher: trained once, or loaded from a checkpoint; frozen, and known by the hash of its weights."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from harness.content import derived_seed, digest, tensors_digest
from harness.cost import trainable_parameters
from harness.errors import Unfit
from harness.preparation.assistant import is_student, load_assistant
from harness.preparation.keeping import Keeper
from harness.preparation.teacher_file import load_checkpoint
from harness.settings import Settings
from harness.task import Task
from harness.tracking.autologging import switch_off_autologging
from harness.tracking.spool import Spool
from harness.training.checkpoint import drop_checkpoints, epochs_kept
from harness.training.fit import EpochListener, fit, seed_draws
from harness.training.tensor_file import cpu_state, load_state, save_tensors
from lightning_modules.batch import initialize_lazy_layers
from lightning_modules.classifier import TeacherModule
from lightning_modules.tensors import TensorDataModule

_FILE = "teacher.safetensors"
_RECIPE_VERSION = 1  # raise it when the training of a teacher changes: it is part of the content key


@dataclass(frozen=True, eq=False)
class Teacher:
    """A frozen teacher.

    Attributes:
        network: In eval mode, without gradients.
        digest: Content hash of its layers and weights, 16 hexadecimal digits.
        spool: The log of its own MLflow run.
        run_key: Names that run on any machine.
        trainable_parameters: How many of its parameters its own training changes.
    """

    network: nn.Module
    digest: str
    spool: Spool
    run_key: str
    trainable_parameters: int


@dataclass(frozen=True, kw_only=True)
class TeacherListener:
    """Who is told how the teacher comes about.

    Attributes:
        on_start: Called with the number of epochs, and of those that are done, when a training begins or goes on.
        on_epoch: Called with each epoch that ends.
        on_progress: Called with the epochs that are done, a part of one included.
        on_append: Called with the folder of the teacher's spool.
    """

    on_start: Callable[[int, int], None]
    on_epoch: EpochListener
    on_progress: Callable[[float], None]
    on_append: Callable[[Path], None]


def make_teacher(
    task: Task,
    data: TensorDataModule,
    dataset: str,
    *,
    classes: int,
    settings: Settings,
    keeper: Keeper,
    listener: TeacherListener,
    check: Callable[[nn.Module], None] = lambda network: None,
) -> Teacher:
    """Load the teacher from where the settings or the keeper have it, or train it.

    Args:
        task: Gives the network and its recipe.
        data: Its training data.
        dataset: Fingerprint of that data.
        classes: Number of classes C.
        settings: Where the cache is, the seed, and the checkpoint, if there is one: of a teacher, or of a student that
            becomes one.
        keeper: Finds a teacher that is kept, and keeps the one that is trained.
        listener: Told how it goes.
        check: Raises if the network can't teach, before it is trained.

    Raises:
        HarnessError: If the checkpoint can't be used.
    """
    network, key = _begun(task, data, dataset, settings)
    check(network)
    source = "trained" if settings.teacher is None else str(settings.teacher)
    folder = settings.cache_dir / "teachers" / key
    run_key, file = f"teacher/{key}", folder / _FILE

    def begun() -> Spool:
        spool = Spool(folder, listener.on_append)
        spool.begin(
            f"teacher-{key[:8]}",
            tags={"kd.role": "teacher", "kd.run_key": run_key},
            params={
                "source": source,
                "epochs": task.teacher_epochs,
                "learning_rate": task.teacher_learning_rate,
                "batch_size": data.batch_size,
                "seed": settings.seed,
                "dataset": dataset,
            },
        )
        return spool

    def train(files: list[Path]) -> None:
        with contextlib.closing(begun()) as spool:
            _train(network, task, data, classes, folder, spool, settings, listener)
        _save(network, file, key)
        drop_checkpoints(folder)

    if settings.teacher is not None:
        spool = begun()
    else:
        what = "teacher"
        keeper.find_or_make(
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
        keeper.share([file], what, folder)
    trainable = trainable_parameters(network)
    network.to(data.device).eval().requires_grad_(False)
    return Teacher(network, network_digest(network), spool, run_key, trainable)


def find_teacher(task: Task, data: TensorDataModule, dataset: str, settings: Settings) -> tuple[nn.Module, Path | None]:
    """The teacher as far as it can be had without training, and the file that it is from. Nothing is written.

    Args:
        task: Gives the network and its recipe.
        data: Its training data.
        dataset: Fingerprint of that data.
        settings: Where the cache is, and whether there is a checkpoint.

    Returns:
        The network, on the CPU, in the mode that the task leaves it in; ``None`` beside it means fresh weights.

    Raises:
        HarnessError: If the checkpoint can't be used.
    """
    network, key = _begun(task, data, dataset, settings)
    if settings.teacher is not None:
        return network, settings.teacher
    file = settings.cache_dir / "teachers" / key / _FILE
    try:
        _load_kept(network, file, key)
    except (SafetensorError, OSError, ValueError, RuntimeError):
        return network, None
    return network, file


def _begun(task: Task, data: TensorDataModule, dataset: str, settings: Settings) -> tuple[nn.Module, str]:
    """The network, filled from the checkpoint if there is one, and the key that it is kept under."""
    seed_draws(derived_seed(settings.seed, "teacher"), torch.device("cpu"))
    network = _network(task, data, settings)
    if settings.teacher is not None:
        return network, network_digest(network)
    # Fresh weights under a fixed seed stand for the architecture: another one draws others.
    recipe = [task.teacher_epochs, task.teacher_learning_rate, data.batch_size, settings.seed]
    weights = tensors_digest(network.state_dict())
    return network, digest("teacher", _RECIPE_VERSION, dataset, repr(network), weights, recipe)


def _network(task: Task, data: TensorDataModule, settings: Settings) -> nn.Module:
    """The teacher's network, with fresh weights or those of its checkpoint."""
    if settings.teacher is not None and is_student(settings.teacher):
        return load_assistant(settings.teacher, task, data, settings.space_name)
    network = task.teacher()
    if not isinstance(network, nn.Module):
        raise Unfit(
            f"teacher() must give a torch.nn.Module, but gives {type(network).__name__}", "return the network from it"
        )
    initialize_lazy_layers(network, data.splits["val"].few(1).to(torch.device("cpu")).inputs)
    if settings.teacher is not None:
        load_checkpoint(network, settings.teacher)
    return network


def network_digest(network: nn.Module) -> str:
    """Weights, and what is done with them: the same weights under another activation are another teacher."""
    return digest(repr(network), tensors_digest(network.state_dict()))


def _train(
    network: nn.Module,
    task: Task,
    data: TensorDataModule,
    classes: int,
    folder: Path,
    spool: Spool,
    settings: Settings,
    listener: TeacherListener,
) -> None:
    module = TeacherModule(
        network,
        metric=task.metric(classes),
        metric_name=task.metric_name,
        total_steps=task.teacher_epochs * data.steps_per_epoch,
        learning_rate=task.teacher_learning_rate,
    )
    spool.set_state("RUNNING", kept=epochs_kept(folder))
    listener.on_start(task.teacher_epochs, spool.kept)

    def on_epoch(epoch: int, metrics: dict[str, float]) -> None:
        spool.metrics(metrics, step=epoch)
        listener.on_epoch(epoch, metrics)

    data.seed = settings.seed
    switch_off_autologging()
    fit(
        module,
        data,
        epochs=task.teacher_epochs,
        folder=folder,
        accelerator=settings.accelerator,
        seed=derived_seed(settings.seed, "teacher", "epochs"),
        on_epoch=on_epoch,
        on_progress=listener.on_progress,
    )


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
