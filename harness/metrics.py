"""Every metric and cost, declared once in ``METRICS``: its name, unit, direction, texts, and how it is computed.

Flags, help, budgets, tables, CSV, plots, MLflow and the doctor read these declarations, so a new metric is one new
entry here. Imports nothing heavy, for ``--help`` reads it: a function that computes a value imports what it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class SplitLogits:
    """What student and teacher answer on every sample of a split: what a score is computed from.

    Attributes:
        student: Logits of the student, shape (N, C).
        teacher: Logits of the teacher, shape (N, C).
        labels: The true classes, shape (N,), int64.
        classes: Number of classes C.
    """

    student: Tensor
    teacher: Tensor
    labels: Tensor
    classes: int


@dataclass(frozen=True)
class Cost:
    """The measured costs of one architecture: what a derived metric is computed from.

    Attributes:
        parameters: Numbers in its parameters, trained or not; shared ones count once.
        macs: Multiply-accumulates of one sample (FLOPs = 2 MACs); ``None`` where not all of them can be counted.
        size_mb: Weights and buffers as a safetensors file, MB (10^6 bytes); shared ones count once.
        latency_p50_ms: Median wall time of a call, ms.
        latency_p95_ms: Its 95th percentile, ms.
        throughput_per_s: Samples a second.
        trainable_parameters: Those that training changes: of the student in training, where another one is deployed.
    """

    parameters: int
    macs: int | None
    size_mb: float
    latency_p50_ms: float
    latency_p95_ms: float
    throughput_per_s: float
    trainable_parameters: int

    def metrics(self, teacher: Cost) -> dict[str, float]:
        """Return the costs and their comparison with a teacher by metric name, without those that are not known."""
        values = {metric.name: metric.of_costs(self, teacher) for metric in METRICS.values() if not metric.score}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class Metric:
    """The declaration of a metric that every trial has beside its task's primary metric.

    One with neither ``score`` nor ``derive`` is a measured cost: a field of ``Cost``.

    Attributes:
        name: Its name in flags, CSV, the study and MLflow.
        direction: ``"maximize"`` or ``"minimize"``: which way is better.
        unit: Its unit, where it has one.
        label: Its name in plots; by default ``name``.
        heading: Its name above a column of a table; by default ``name``.
        format: How a table shows a value.
        in_every_table: Whether tables show it where it is no objective. A narrow terminal leaves such a column out.
        is_timed: Whether a clock has a say in it, so that it differs from run to run.
        may_be_unknown: Whether it can't be computed for some students, whose trials then lack it.
        score: Computes it from the answers on a split, once the student is trained.
        derive: Computes it from the costs of a student and of its teacher; ``None`` where they do not tell.
    """

    name: str
    direction: Literal["maximize", "minimize"]
    _: KW_ONLY
    unit: str = ""
    label: str = ""
    heading: str = ""
    format: str = "{:.4f}"
    in_every_table: bool = False
    is_timed: bool = False
    may_be_unknown: bool = False
    score: Callable[[SplitLogits], Tensor] | None = None
    derive: Callable[[Cost, Cost], float | None] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "label", self.label or self.name)
        object.__setattr__(self, "heading", self.heading or self.name)

    @property
    def is_maximized(self) -> bool:
        """Return whether it is better the higher it is."""
        return self.direction == "maximize"

    @property
    def known_before_training(self) -> bool:
        """Return whether it is a cost: temperature and alpha have no say in it."""
        return self.score is None

    @property
    def is_measured(self) -> bool:
        """Return whether it is a field of ``Cost``, and not computed from other values."""
        return self.score is None and self.derive is None

    @property
    def may_be_budget(self) -> bool:
        """Return whether ``--max`` takes it: a measured cost that is better the lower it is."""
        return self.is_measured and not self.is_maximized

    @property
    def axis_label(self) -> str:
        """Return its label at the axis of a plot, with its unit."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    def of_costs(self, student: Cost, teacher: Cost) -> float | None:
        """Return the value of a metric that is known before training; ``None`` where it is not known."""
        value: float | None = self.derive(student, teacher) if self.derive else getattr(student, self.name)
        return value


def _agreement(logits: SplitLogits) -> Tensor:
    """Return the share of samples to which student and teacher give the same class."""
    return (logits.student.argmax(-1) == logits.teacher.argmax(-1)).float().mean()


def _teacher_kl(logits: SplitLogits) -> Tensor:
    """Return KL(teacher ‖ student) at T = 1, nats a sample."""
    from lightning_modules.losses import soft_target_loss

    return soft_target_loss(logits.student, logits.teacher, temperature=1)


def _calibration_error(logits: SplitLogits) -> Tensor:
    """Return the expected calibration error over 15 bins: Guo et al. (2017), arXiv:1706.04599."""
    from torchmetrics.functional.classification import multiclass_calibration_error

    probabilities = logits.student.softmax(-1)
    return multiclass_calibration_error(probabilities, logits.labels, logits.classes, n_bins=15, validate_args=False)


def _compression(student: Cost, teacher: Cost) -> float | None:
    """Return how many times smaller a student is; ``None`` beside a teacher that knows nothing by parameters."""
    return teacher.parameters / max(student.parameters, 1) if teacher.parameters else None


def _speedup(student: Cost, teacher: Cost) -> float:
    return teacher.latency_p50_ms / student.latency_p50_ms


_COUNT, _RATIO = "{:,.0f}", "{:.1f}x"

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("parameters", "minimize", format=_COUNT),
        Metric("trainable_parameters", "minimize", label="trainable parameters", heading="trainable", format=_COUNT),
        Metric("macs", "minimize", label="MACs a sample", format=_COUNT, may_be_unknown=True),
        Metric("size_mb", "minimize", unit="MB", label="size", heading="MB"),
        Metric("latency_p50_ms", "minimize", unit="ms", label="latency p50, batch 1", heading="p50 ms", is_timed=True),
        Metric("latency_p95_ms", "minimize", unit="ms", label="latency p95, batch 1", heading="p95 ms", is_timed=True),
        Metric(
            "throughput_per_s",
            "maximize",
            unit="samples/s",
            label="throughput",
            heading="samples/s",
            format=_COUNT,
            is_timed=True,
        ),
        Metric("agreement", "maximize", heading="agrees", in_every_table=True, score=_agreement),
        Metric("teacher_kl", "minimize", unit="nats", score=_teacher_kl),
        Metric("ece", "minimize", score=_calibration_error),
        Metric("compression", "maximize", heading="smaller", format=_RATIO, in_every_table=True, derive=_compression),
        Metric(
            "speedup",
            "maximize",
            heading="faster",
            format=_RATIO,
            in_every_table=True,
            is_timed=True,
            derive=_speedup,
        ),
    )
}
"""All of them by name, in the order in which they are listed."""

DEFAULT_OBJECTIVES = ("latency_p50_ms", "parameters")
"""What spans the front beside the primary metric, unless ``--objectives`` says otherwise."""


def budget_names() -> list[str]:
    """Return the names of the costs that ``--max`` takes."""
    return [metric.name for metric in METRICS.values() if metric.may_be_budget]


def metrics_in_every_table() -> list[Metric]:
    """Return the metrics that tables and plots show where they are no objectives."""
    return [metric for metric in METRICS.values() if metric.in_every_table]


def is_timed(name: str) -> bool:
    """Return whether a clock has a say in a metric of that name."""
    return name in METRICS and METRICS[name].is_timed


def unknown_for_some(names: Iterable[str]) -> list[str]:
    """Return those of the names whose metric can't be computed for some students, each once."""
    return [name for name in dict.fromkeys(names) if name in METRICS and METRICS[name].may_be_unknown]
