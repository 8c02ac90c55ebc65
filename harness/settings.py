"""The settings of each command, which stay fixed while it runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

SAMPLERS = ("front", "tpe", "nsga2", "gp", "random")
PRUNERS = ("pareto", "none")
AVERAGES = ("probabilities", "logits")
"""The quantities of several teachers that can be averaged; see ``harness.teachers.ensemble``."""
FOLDS = "folds"
"""Stands in place of what is averaged in the name of several teachers, where each fold has its own."""
TEACHER_OUTPUTS = ("auto", "stored", "live")
"""See ``harness.teachers.asking``."""
CONTROLS = ("tuned", "plain", "none")
"""See ``harness.trials.controls``: ``tuned`` has the plain ones too."""
CONFIRM_CONTROLS = CONTROLS[:2]
"""The controls that a confirmation can compare with: a gain needs one."""
DEFAULT_STORAGE = "sqlite:///optuna.db"
DEFAULT_TRACKING_URI = "sqlite:///mlflow.db"
DEFAULT_RUNS_DIR = Path("mlruns")


@dataclass(frozen=True)
class Bound:
    """The bound that students must reach to count, as a person gave it (``harness.region``).

    Attributes:
        flag: ``"--min"``, ``"--max"`` or ``"--min-share"``.
        metric: Name of the metric; empty for a share of the teacher's.
        value: The bound; ``None`` lifts it.
    """

    flag: str
    metric: str = ""
    value: float | None = None

    def __str__(self) -> str:
        value = "none" if self.value is None else f"{self.value:.12g}"
        return f"{self.flag} {f'{self.metric}=' if self.metric else ''}{value}"


def bound_in(text: str | None) -> Bound | None:
    """Return the bound that a text names, as ``str`` gives it."""
    if text is None:
        return None
    flag, _, rest = text.partition(" ")
    metric, _, value = rest.rpartition("=")
    return Bound(flag, metric, None if value == "none" else float(value))


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where things are kept.

    Attributes:
        storage: Optuna's storage address: ``sqlite:///…`` or ``postgresql…://…``.
        tracking_uri: Address of a tracker, MLflow by default.
        runs_dir: Folder of caches, checkpoints and run artifacts.
        program: What starts this program's commands, in the hints of messages.
    """

    storage: str = DEFAULT_STORAGE
    tracking_uri: str = DEFAULT_TRACKING_URI
    runs_dir: Path = DEFAULT_RUNS_DIR
    program: str = field(default="python -m harness", compare=False)

    @property
    def cache_dir(self) -> Path:
        """Folder of teachers, their outputs and cost tables, by content key."""
        return self.runs_dir / "cache"


@dataclass(frozen=True, kw_only=True)
class StudyPlaces(Places):
    """A study, and where it is kept.

    Attributes:
        study: Name of the study.
    """

    study: str

    @property
    def study_dir(self) -> Path:
        """Folder of the spools and checkpoints of the study's trials."""
        return self.runs_dir / "trials" / self.study


@dataclass(frozen=True, kw_only=True)
class Settings(StudyPlaces):
    """The settings of a search.

    Attributes:
        space_name: Name of the space; the experiment is ``kd-<space_name>``.
        space_file: The Python file that declares the space; ``None`` for a space that Python gives.
        trials: Finished trials after which the study is complete, over all its runs.
        data_dir: Where the task finds its data; ``None`` leaves it to the task.
        teachers: Checkpoints of the teachers; none trains some.
        trained_teachers: How many are trained, where none is given, each with a seed of its own.
        average: One of ``AVERAGES``; nothing where there is one teacher.
        teacher_outputs: One of ``TEACHER_OUTPUTS``: whether a teacher is asked once, or about each training batch.
        epochs: Epochs of every trial; ``None`` takes the space's.
        objectives: Names of the metrics that span the front; ``None`` takes accuracy, latency and parameters.
        sampler: One of ``SAMPLERS``.
        recipes: Names of published settings (``harness.recipes``) that are tried first.
        default_recipes: Whether the recipes that are tried by default follow.
        pruner: One of ``PRUNERS``; ``pareto`` is nothing where an objective is not known before the end.
        seed: Decides every draw together with trial numbers and epochs, in [0, 2^31).
        fixed: Parameters that do not vary, as text, by name.
        budgets: The most that a student may cost to be trained, by name of the cost (``harness.metrics.budget_names``).
        bound: What students must reach to count; ``None`` takes what the study was asked for before, or else what the
            teacher and chance suggest.
        timeout_s: Seconds after which no further trial starts; ``None`` is no limit.
        controls: One of ``CONTROLS``: which are trained on labels alone, once the trials are over.
        accept_changes: Whether a study is resumed with code, start weights or a teacher that it was not begun with.
        accelerator: Lightning's name of the device that trains and is measured.
        workers: Trials that run at a time; ``None`` takes one for each core, or one on a GPU.
        processes: Processes that a launcher started, all with the same settings, to work on the study.
    """

    space_name: str
    space_file: Path | None = None
    trials: int = 50
    data_dir: Path | None = None
    teachers: tuple[Path, ...] = ()
    trained_teachers: int = 1
    average: str = AVERAGES[0]
    teacher_outputs: str = TEACHER_OUTPUTS[0]
    epochs: int | None = None
    objectives: tuple[str, ...] | None = None
    sampler: str = SAMPLERS[0]
    recipes: tuple[str, ...] = ()
    default_recipes: bool = True
    pruner: str = PRUNERS[0]
    seed: int = 0
    fixed: dict[str, str] = field(default_factory=dict)
    budgets: dict[str, float] = field(default_factory=dict)
    bound: Bound | None = None
    timeout_s: float | None = None
    controls: str = CONTROLS[0]
    accept_changes: bool = False
    accelerator: str = "auto"
    workers: int | None = None
    processes: int = 1

    @property
    def teacher(self) -> Path | None:
        """Return the checkpoint, where there is one teacher; ``None`` trains it."""
        assert len(self.teachers) <= 1
        return self.teachers[0] if self.teachers else None

    @property
    def file_of_space(self) -> Path:
        """Return the file of a space that is in one."""
        assert self.space_file is not None
        return self.space_file

    @property
    def experiment(self) -> str:
        """Return the tracker's experiment."""
        return f"kd-{self.space_name}"


@dataclass(frozen=True, kw_only=True)
class ConfirmSettings:
    """The settings of a confirmation. The study knows the rest (``harness.studies.opening.reopen_study``).

    Attributes:
        places: The study, and where it is kept.
        seeds: Fresh seeds with which each pick and its controls are trained.
        controls: One of ``CONFIRM_CONTROLS``.
        on: Folder or file of new data that picks, controls and teacher are scored on too; ``None`` for none.
        space_file: The Python file that declares the space; ``None`` for an embedded space.
        data_dir: Where the data is now; ``None`` where it was searched.
        teachers: Where the teachers' checkpoints are now; none where they were when it was searched.
        accept_changes: As of ``Settings``.
        accelerator: As of ``Settings``.
        workers: Students that are trained at a time.
    """

    places: StudyPlaces
    seeds: int = 5
    controls: str = CONFIRM_CONTROLS[0]
    on: Path | None = None
    space_file: Path | None = None
    data_dir: Path | None = None
    teachers: tuple[Path, ...] = ()
    accept_changes: bool = False
    accelerator: str = "auto"
    workers: int | None = None
