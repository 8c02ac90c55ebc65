"""What stays fixed while a search runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

SAMPLERS = ("front", "tpe", "nsga2", "gp", "random")
PRUNERS = ("pareto", "none")
AVERAGES = ("probabilities", "logits")
"""What is averaged of several teachers; see ``harness.teachers.ensemble``."""
CONTROLS = ("tuned", "plain", "none")
"""See ``harness.trials.controls``: ``tuned`` has the plain ones too."""
DEFAULT_STORAGE = "sqlite:///optuna.db"
DEFAULT_TRACKING_URI = "sqlite:///mlflow.db"
DEFAULT_RUNS_DIR = Path("mlruns")


@dataclass(frozen=True)
class Bound:
    """What students must reach to count, as it was asked for (``harness.region``).

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
class Settings:
    """The answers to the command line.

    Attributes:
        space_name: Name of the space; the experiment is ``kd-<space_name>``.
        space_file: The Python file that declares it.
        study: Name of the study.
        trials: Finished trials after which the study is complete, over all its runs.
        storage: Optuna's storage address: ``sqlite:///…`` or ``postgresql…://…``.
        to: Storage address that ``move`` takes the study to.
        tracking_uri: MLflow's tracking address.
        runs_dir: Folder of caches, checkpoints and run artifacts.
        data_dir: Where the task finds its data; ``None`` leaves it to the task.
        teachers: Checkpoints of the teachers; none trains some.
        trained_teachers: How many are trained, where none is given, each with a seed of its own.
        average: One of ``AVERAGES``; nothing where there is one teacher.
        epochs: Epochs of every trial; ``None`` takes the space's.
        objectives: Names of the metrics that span the front; ``None`` takes accuracy, latency and parameters.
        sampler: One of ``SAMPLERS``.
        recipes: Names of published settings (``harness.recipes``) that are tried first.
        default_recipes: Whether those that are tried unasked follow.
        pruner: One of ``PRUNERS``; ``pareto`` is nothing where an objective is not known before the end.
        seed: Decides every draw together with trial numbers and epochs, in [0, 2^31).
        fixed: Parameters that do not vary, as text, by name.
        budgets: The most that a student may cost to be trained, by name of the cost (``harness.metrics.budget_names``).
        bound: What students must reach to count; ``None`` takes what the study was asked for before, or else what the
            teacher and chance suggest.
        timeout_s: Seconds after which no further trial starts; ``None`` is no limit.
        controls: One of ``CONTROLS``: which are trained on labels alone, once the trials are over.
        seeds: Fresh seeds with which ``confirm`` trains each pick and its control.
        accept_changes: Whether a study goes on with code, start weights or a teacher that it was not begun with.
        accelerator: Lightning's name of the device that trains and is measured.
        workers: Trials that run at a time; ``None`` takes one for each core, or one on a GPU.
        processes: Processes that a launcher started, all with the same settings, to work on the study.
        program: What starts this program's commands, in the hints of messages.
    """

    space_name: str
    space_file: Path
    study: str
    trials: int = 50
    storage: str = DEFAULT_STORAGE
    to: str = ""
    tracking_uri: str = DEFAULT_TRACKING_URI
    runs_dir: Path = DEFAULT_RUNS_DIR
    data_dir: Path | None = None
    teachers: tuple[Path, ...] = ()
    trained_teachers: int = 1
    average: str = AVERAGES[0]
    epochs: int | None = None
    objectives: tuple[str, ...] | None = None
    sampler: str = "front"
    recipes: tuple[str, ...] = ()
    default_recipes: bool = True
    pruner: str = "pareto"
    seed: int = 0
    fixed: dict[str, str] = field(default_factory=dict)
    budgets: dict[str, float] = field(default_factory=dict)
    bound: Bound | None = None
    timeout_s: float | None = None
    controls: str = CONTROLS[0]
    seeds: int = 5
    accept_changes: bool = False
    accelerator: str = "auto"
    workers: int | None = None
    processes: int = 1
    program: str = field(default="python -m harness", compare=False)

    @property
    def teacher(self) -> Path | None:
        """Return the checkpoint, where there is one teacher; ``None`` trains it."""
        assert len(self.teachers) <= 1
        return self.teachers[0] if self.teachers else None

    @property
    def has_space_file(self) -> bool:
        """Return whether the space is in a file: Python may give one that is in none, and not every command has one."""
        return self.space_file != Path()

    @property
    def cache_dir(self) -> Path:
        """Return where teachers, their outputs and cost tables are kept by content key."""
        return self.runs_dir / "cache"

    @property
    def study_dir(self) -> Path:
        """Return where the study's trials keep spool and checkpoints."""
        return self.runs_dir / "trials" / self.study

    @property
    def experiment(self) -> str:
        """MLflow's experiment."""
        return f"kd-{self.space_name}"
