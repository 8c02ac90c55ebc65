"""Search from Python: ``search(space, trials=50)`` and ``load_study(name)`` return a ``Result``."""

from __future__ import annotations

import contextlib
import gc
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Never

from harness.core.errors import (
    HarnessError,
    Interrupted,
    did_you_mean,
    forget_signals,
    interrupt,
    resend_dropped_signals,
)
from harness.core.executables import executable
from harness.launchers import launch
from harness.launchers.placement import placement_of
from harness.options.commands import search_settings, space_of, study_of
from harness.options.given import Given, variable
from harness.options.spaces import space_file, space_names
from harness.outcome import Outcome
from harness.session import search_and_print
from harness.settings import DEFAULT_RUNS_DIR, DEFAULT_STORAGE, Settings, StudyPlaces

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from harness.reporting import result as reporting
    from harness.space import SearchSpace
    from harness.studies.study import Study

_MAINS = ("__main__", "__mp_main__")  # a script may have imported the space from the module that it is in


def search(
    space: SearchSpace | str | os.PathLike[str] | None = None,
    *,
    trials: int = 50,
    study: str | None = None,
    epochs: int | None = None,
    objectives: Sequence[str] = (),
    fix: Mapping[str, object] | None = None,
    max: Mapping[str, float] | None = None,
    min: Mapping[str, float] | str | None = None,
    min_share: float | None = None,
    recipe: str | Sequence[str] = (),
    sampler: str = "front",
    pruner: str = "pareto",
    controls: str = "tuned",
    seed: int = 0,
    timeout: float | None = None,
    accept_changes: bool = False,
    teacher: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
    teachers: int | None = None,
    ensemble: str | None = None,
    teacher_outputs: str = "auto",
    data_dir: str | os.PathLike[str] | None = None,
    data: str | os.PathLike[str] | None = None,
    label: str | None = None,
    text: str | None = None,
    students: str | Sequence[str] = (),
    image_size: int | None = None,
    accelerator: str = "auto",
    workers: int | None = None,
    launcher: str = "local",
    nodes: int | None = None,
    cpus_per_worker: int | None = None,
    gpus_per_worker: int | None = None,
    partition: str | None = None,
    time: str | int | None = None,
    slurm: Mapping[str, str | bool] | None = None,
    ray_address: str | None = None,
    storage: str | None = None,
    tracking_uri: str | None = None,
    runs_dir: str | os.PathLike[str] | None = None,
    **unknown: Never,
) -> Result:
    """Search the students of a teacher, and return what the study found. The same call again resumes the study.

    The keywords are the options of ``kd-harness search``, whose ``--help`` says more, but for ``--detach``: the call
    returns what was found. Ctrl-C stops in good order: nothing is lost, and the same call goes on.

    Args:
        space: A ``SearchSpace``, the name of an embedded space, or a Python file that sets ``SPACE``; by default
            ``"digits"``.
        trials: Trials of the whole study, those of earlier calls included.
        study: Name of the study; by default the space's.
        epochs: Epochs of a trial; by default the space's.
        objectives: What spans the front; by default the primary metric, ``latency_p50_ms`` and ``parameters``.
        fix: Parameters that are held at a value, by name.
        max: The most that a student may cost, by name of the cost; or the most of a primary metric that is minimised.
        min: The least of the primary metric that counts, as ``{"accuracy": 0.95}``; ``"none"`` lets all count.
        min_share: The least share of the teacher's score that counts.
        recipe: Published settings that are tried first.
        sampler: What proposes students.
        pruner: What stops students that have no chance of the front.
        controls: ``"tuned"``, ``"plain"`` or ``"none"``: what a gain is a gain over.
        seed: Decides every draw.
        timeout: Seconds after which no further trial starts.
        accept_changes: Whether to go on with changed code, start weights or another teacher.
        teacher: Checkpoint of the teacher, or of several that teach as one; or what is no PyTorch network, as a file of
            outputs, ``.onnx``, ``.keras`` or ``.skops``. By default one is trained, once.
        teachers: How many teachers to train that teach as one.
        ensemble: What is averaged of several teachers.
        teacher_outputs: ``"stored"``, ``"live"`` or ``"auto"``: whether a teacher is asked once about each training
            sample, or about each batch.
        data_dir: Where the task finds its data.
        data: A folder of pictures or texts for each class, or a table: the space file that it stands for is written
            into the current folder. ``space`` is left out then.
        label: Column of the classes in that table.
        text: Column of texts in that table, which a ``teacher`` ``"hf:FOLDER"`` teaches.
        students: Networks that are searched on those pictures, as ``"timm:lcnet_050"``, or ``"bert"`` of texts.
        image_size: Pixels of a side of what networks are shown of them.
        accelerator: Lightning's name of the device.
        workers: Trials at a time; by default one for each core, or one on a GPU. A space that is in no file is searched
            by forks of this process, or by this process alone where it can't fork; then that is said.
        launcher: ``"local"``, ``"slurm"`` or ``"ray"``. Slurm and Ray need a space in a file.
        nodes: Slurm: nodes' worth of workers.
        cpus_per_worker: Slurm, Ray: cores of a worker.
        gpus_per_worker: Slurm, Ray: GPUs of a worker.
        partition: Slurm: the partition.
        time: Slurm: a job's time limit, in minutes or as ``"HH:MM:SS"``.
        slurm: Slurm: further options of sbatch, by name.
        ray_address: Ray: the cluster.
        storage: The study's database; by default ``$KD_STORAGE`` or ``sqlite:///optuna.db``.
        tracking_uri: Address of a tracker, MLflow by default: ``$MLFLOW_TRACKING_URI`` or ``sqlite:///mlflow.db``.
        runs_dir: Folder of caches, checkpoints and reports; by default ``$KD_RUNS_DIR`` or ``mlruns``.
        unknown: None: any other keyword is a mistake.

    Raises:
        TypeError: If a keyword is unknown.
        ValueError: If a keyword has an invalid value.
        HarnessError: For any other mistake that a person can correct.
        KeyboardInterrupt: After Ctrl-C.
    """
    keywords = dict(locals())
    for name in keywords.pop("unknown"):
        raise TypeError(f"search() has no keyword {name!r}{did_you_mean(name, keywords)}")
    if data is not None and space is not None:
        raise ValueError("data= stands for a space, so space must be left out.")
    declared, file = (None, None) if space is None else _placed(space)
    given = Given(keywords | {"space": file, "slurm": _sbatch_options(slurm)}, program=_program())
    placement = placement_of(given)
    if declared is not None and file is None:
        if placement.launcher != "local":
            raise ValueError(f"launcher={launcher!r} needs a space in a file, which its workers can load.")
        settings = search_settings(given, _name_of(declared), None)
    else:
        settings = search_settings(given, *space_of(given))
    with _left_as_before(), _interruptible():
        declared = _with_epochs(declared, settings)
        if placement.launcher == "local":
            search_and_print(settings, _next_steps, declared)
        else:
            launch(settings, placement, _next_steps)
    return _result(settings, declared)


def load_study(
    name: str,
    *,
    storage: str | None = None,
    runs_dir: str | os.PathLike[str] | None = None,
    space: SearchSpace | str | os.PathLike[str] | None = None,
) -> Result:
    """Return what a study found so far.

    Args:
        name: Name of the study.
        storage: The study's database; by default ``$KD_STORAGE`` or ``sqlite:///optuna.db``.
        runs_dir: Folder of caches, checkpoints and reports; by default ``$KD_RUNS_DIR`` or ``mlruns``.
        space: The study's space, which ``Result.student`` needs where the space is not an embedded one: the storage
            must not choose what code runs here.

    Raises:
        HarnessError: If there is no such study, or nothing of it is known yet.
    """
    declared, file = (None, None) if space is None else _placed(space)
    places = StudyPlaces(
        study=name,
        storage=storage or variable("KD_STORAGE", DEFAULT_STORAGE),
        runs_dir=Path(runs_dir or variable("KD_RUNS_DIR", str(DEFAULT_RUNS_DIR))),
        program=_program(),
    )
    if declared is None and file is not None:
        from harness.space import load_space

        declared = load_space(file)
    return _result(places, declared)


class Result:
    """What a study found.

    Attributes:
        study: Name of the study.
        front: Trials on the Pareto front, the smallest first: a table as ``trials``.
        trials: One row a trial: ``number``, ``state``, parameters, metrics, ``front``, ``pick``, ``gain``, …
        picks: Number of the trial of each named choice: ``accurate``, ``balanced``, ``small``, as far as there are.
        teacher: The teacher's metrics by name.
    """

    def __init__(self, study: Study, found: reporting.Result, space: SearchSpace | None) -> None:
        self._study = study
        self._found = found
        self._space = space
        self.study: str = found.study
        self.teacher: dict[str, float] = found.teacher

    @property
    def trials(self) -> pd.DataFrame:
        """Return one row a trial, with one type a column."""
        return self._found.trials.convert_dtypes()

    @property
    def front(self) -> pd.DataFrame:
        """Return the trials on the Pareto front, the smallest first."""
        return self._found.front.convert_dtypes()

    @property
    def picks(self) -> dict[str, int]:
        """Return the number of the trial of each named choice."""
        return {name: int(row["number"]) for name, row in self._found.picks.items()}

    def student(self, number: int) -> nn.Module:
        """Return the trained student of a trial, in eval mode, as it would be deployed, on the CPU.

        Args:
            number: The trial's.

        Raises:
            HarnessError: If there is no such student here, or its space is not known.
        """
        from safetensors.torch import load_file

        from harness.students.kept import build_kept, read_metadata
        from harness.task import load_data
        from harness.training.tensor_file import load_state
        from harness.trials.trial import STUDENT

        trials = {trial.number: trial for trial in self._study.trials()}
        trial = trials.get(number)
        if trial is None or trial.state.name != "COMPLETE":
            had = "there is none" if trial is None else f"it is {trial.state.name}"
            raise HarnessError(f"trial {number} of {self.study!r} must have been trained to the end, but {had}.")
        file = self._study.trial_folder(number) / STUDENT
        if not self._study.owns_folder() or not file.is_file():
            raise HarnessError(
                f"the student of trial {number} must be in {file}, but is not: it was trained in another folder, or "
                "its file was moved."
            )
        space = self._space or self._embedded_space()
        where = self._study.settings.data_dir or self._study.sources["data_dir"]
        data = load_data(space.task, None if where is None else Path(where))
        network = build_kept(read_metadata(file), space, data)
        load_state(network, load_file(file))
        return network.eval()

    def report(self, folder: str | os.PathLike[str]) -> Path:
        """Write the report's tables, plots and summary into a folder, and return it."""
        from harness.reporting.report import write_report

        write_report(self._found, Path(folder))
        return Path(folder)

    def _embedded_space(self) -> SearchSpace:
        from harness.space import load_space

        if self._study.space_name not in space_names():
            raise HarnessError(
                f"the space of study {self.study!r} must be given, for it is run as code: "
                f"load_study({self.study!r}, space=...)."
            )
        return load_space(space_file(self._study.space_name))

    def __repr__(self) -> str:
        counts = f"{len(self._found.trials)} trials, {len(self._found.front)} on the front"
        return f"<Result of study {self.study!r}: {counts}>"

    def _repr_html_(self) -> str:
        """Return the front as a table, with what should be known beside it."""
        import html

        from harness.reporting.notes import notes
        from harness.screen.formatting import cell, heading

        found = self._found
        names = [*found.columns, *found.parameters]
        head = "".join(f"<th>{html.escape(heading(name))}</th>" for name in ("trial", *names, "pick"))
        rows = []
        for _, row in found.front.iterrows():
            cells = [str(row["number"]), *(found.cell(row, name) for name in names), row["pick"]]
            rows.append("<tr>" + "".join(f"<td>{html.escape(str(text))}</td>" for text in cells) + "</tr>")
        teacher = [cell(name, found.teacher.get(name, float("nan"))) for name in names]
        rows.append("<tr><td>teacher</td>" + "".join(f"<td>{html.escape(t)}</td>" for t in teacher) + "<td></td></tr>")
        told = "".join(f"<li>{html.escape(line)}</li>" for line in notes(found))
        title = html.escape(f"{self.study}: the Pareto front of {', '.join(found.titles)}")
        return (
            f"<p><b>{title}</b></p><table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
            f"<ul>{told}</ul>"
        )


def _placed(space: SearchSpace | str | os.PathLike[str]) -> tuple[SearchSpace | None, Path | None]:
    """Return the declared space with its code, and the file that it is in; ``None`` for either that is not given."""
    from harness.core.live_code import code_of_classes
    from harness.space import SearchSpace

    if isinstance(space, str) and space in space_names():
        return None, space_file(space)
    if isinstance(space, str | os.PathLike):
        return None, Path(space)
    if not isinstance(space, SearchSpace):
        raise TypeError(f"space must be a SearchSpace, a name or a file, but got {type(space).__name__}.")
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and name not in _MAINS and getattr(module, "SPACE", None) is space:
            return None, Path(file)  # it is run anew: the workers, and a later search, run what the file says by then
    own = [space.criteria[method] for method in space.own_methods]
    training = space.task.training
    factory = getattr(training.optimizer, "func", training.optimizer)  # of a functools.partial
    code = code_of_classes([type(space.task), *own, *([factory] if callable(factory) else [])])
    # A value, which no code of the task may say: it may be made elsewhere.
    said = {"training": str(training.texts())} if training.given() else {}
    return replace(space, code=replace(code, files={**code.files, **said})), None


def _name_of(space: SearchSpace) -> str:
    """Return the name of a space that is in no file, which is its task's: ``my-task`` for ``MyTask``."""
    return study_of(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", type(space.task).__name__).lower()) or "space"


def _with_epochs(declared: SearchSpace | None, settings: Settings) -> SearchSpace:
    """Return the declared space, or else the file's, with the epochs of the settings."""
    from harness.space import load_space

    if declared is None:
        return load_space(settings.file_of_space, settings.epochs)
    return replace(declared, epochs=settings.epochs or declared.epochs)


def _program() -> str:
    """Return what starts the commands that messages recommend, such as the one that checks a task."""
    return f"{executable('python')} -m harness"


def _next_steps(outcome: Outcome) -> str:
    """Return where the runs of a search can be looked at; its ``Result`` has the rest."""
    return "\n".join(["next:", *outcome.places_to_look()])


def _sbatch_options(given: Mapping[str, object] | None) -> list[str]:
    """Return options for sbatch as its command line has them: ``True`` stands for one without a value."""
    return [name if value is True else f"{name}={value}" for name, value in (given or {}).items() if value is not False]


@contextlib.contextmanager
def _left_as_before() -> Iterator[None]:
    """Give a process back what a search changes in it: random states, MLflow's autologging, Python's collector."""
    import torch

    from harness.tracking.autologging import restore_autologging

    frozen, state = gc.get_freeze_count(), torch.get_rng_state()
    on_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    try:
        yield
    finally:
        if not frozen:
            gc.unfreeze()
        torch.set_rng_state(state)
        if on_gpus:
            torch.cuda.set_rng_state_all(on_gpus)
        restore_autologging()


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Turn Ctrl-C into a shutdown in good order, and then into ``KeyboardInterrupt``."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    hook = sys.unraisablehook
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    resend_dropped_signals()
    try:
        yield
    except Interrupted as interrupted:
        if interrupted.signal_number == signal.SIGINT:
            raise KeyboardInterrupt from None
        raise SystemExit(128 + interrupted.signal_number) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        sys.unraisablehook = hook
        forget_signals()


def _result(places: StudyPlaces, space: SearchSpace | None) -> Result:
    from harness.reporting.result import collect
    from harness.studies.opening import find_study

    study = find_study(places)
    return Result(study, collect(study), space)
