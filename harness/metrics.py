"""Every metric and cost by name: what is declared here, and what cost backends declare.

Flags, help, budgets, tables, CSV, plots, MLflow and the doctor read these declarations. A new metric is one new entry
here, a new runtime with its metrics one new file in ``harness/cost/backends``. Imports nothing heavy, for ``--help``
reads it: a function that computes a value imports what it needs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from harness.core.metric import Costs, Metric, SplitLogits
from harness.core.plugins import modules_of

if TYPE_CHECKING:
    from torch import Tensor


def _agreement(logits: SplitLogits) -> Tensor:
    """Return whether student and teacher give a row the same class."""
    return logits.student.argmax(-1) == logits.teacher.argmax(-1)


def _teacher_kl(logits: SplitLogits) -> Tensor:
    """Return KL(teacher ‖ student) at T = 1, nats a row."""
    from lightning_modules.top_k import divergence_of_rows

    return divergence_of_rows(logits.student, logits.teacher)


def _confidence(logits: SplitLogits) -> Tensor:
    """Return the student's probability of the class that it gives each row, and whether that is the true one."""
    from torch import stack

    confidence, answer = logits.student.softmax(-1).max(-1)
    return stack([confidence, (answer == logits.labels).to(confidence)], 1)


def _calibration_error(values: Tensor) -> Tensor:
    """Return the expected calibration error over 15 bins: Guo et al. (2017), arXiv:1706.04599."""
    from torchmetrics.functional.classification import binary_calibration_error

    confidences, right = values.T.contiguous()
    return binary_calibration_error(confidences.clamp(max=1), right.long(), n_bins=15, validate_args=False)


def _compression(student: Costs, teacher: Costs) -> float | None:
    """Return how many times fewer parameters a student has; ``None`` where the teacher has none, or none are known."""
    return teacher["parameters"] / max(student["parameters"], 1) if teacher.get("parameters") else None


_COUNT, _RATIO = "{:,.0f}", "{:.1f}x"

_OWN = (
    Metric("parameters", "minimize", format=_COUNT, is_default_objective=True),
    Metric("trainable_parameters", "minimize", label="trainable parameters", heading="trainable", format=_COUNT),
    Metric("macs", "minimize", label="MACs a sample", format=_COUNT, may_be_unknown=True),
    Metric("size_mb", "minimize", unit="MB", label="size", heading="MB"),
    Metric("agreement", "maximize", heading="agrees", in_every_table=True, score=_agreement),
    Metric("teacher_kl", "minimize", unit="nats", score=_teacher_kl),
    Metric("ece", "minimize", score=_confidence, reduce=_calibration_error),
    Metric("compression", "maximize", heading="smaller", format=_RATIO, in_every_table=True, derive=_compression),
)


def _by_name(metrics: Iterable[Metric]) -> dict[str, Metric]:
    """Return metrics by name: measured costs first, then scores, then what is derived from costs.

    Raises:
        ValueError: If two have the same name.
    """
    found: dict[str, Metric] = {}
    for metric in sorted(metrics, key=lambda one: (one.derive is not None, one.score is not None)):
        if metric.name in found:
            raise ValueError(f"a metric must have a name of its own, but {metric.name!r} is declared twice.")
        found[metric.name] = metric
    return found


# Backends are imported by name: they import what they declare from ``harness.core``, and nothing from here.
_DECLARED = [metric for module in modules_of("harness.cost.backends") for metric in module.BACKEND.metrics]

METRICS: dict[str, Metric] = _by_name([*_OWN, *_DECLARED])
"""All of them by name, in the order in which they are listed."""

_BY_DEFAULT = [metric for metric in METRICS.values() if metric.is_default_objective]
DEFAULT_OBJECTIVES = tuple(metric.name for metric in sorted(_BY_DEFAULT, key=lambda one: not one.is_timed))
"""What spans the front beside the primary metric, unless ``--objectives`` says otherwise: what is timed first."""


def metric_named(name: str, direction: Literal["maximize", "minimize"] = "maximize") -> Metric:
    """Return the declaration of a metric; a name that is not declared here is that of a score of the task's own.

    Args:
        name: Its name.
        direction: The direction of the task's own.
    """
    return METRICS.get(name) or Metric(name, direction, score=_scored_by_task)


def _scored_by_task(logits: SplitLogits) -> Tensor:
    raise NotImplementedError("a task scores its own metrics")


def cost_metrics(student: Costs, teacher: Costs) -> dict[str, float]:
    """Return a student's costs and their comparison with a teacher's by metric name, without what is not known."""
    values = {name: metric.of_costs(student, teacher) for name, metric in METRICS.items() if not metric.score}
    return {name: value for name, value in values.items() if value is not None}


def timed_text(costs: Costs) -> str:
    """Return the timed costs among the default objectives as a line of text shows them: ``0.123 ms``; empty if none."""
    timed = [METRICS[name] for name in DEFAULT_OBJECTIVES if METRICS[name].is_timed]
    return ", ".join(f"{costs[metric.name]:.3f} {metric.unit}" for metric in timed if metric.name in costs)


def budget_names() -> list[str]:
    """Return the names of the costs that ``--max`` accepts."""
    return [metric.name for metric in METRICS.values() if metric.may_be_budget]


def metrics_in_every_table() -> list[Metric]:
    """Return the metrics that tables and plots show where they are no objectives."""
    return [metric for metric in METRICS.values() if metric.in_every_table]


def is_timed(name: str) -> bool:
    """Return whether a metric of that name depends on a clock."""
    return name in METRICS and METRICS[name].is_timed


def unknown_for_some(names: Iterable[str]) -> list[str]:
    """Return those of the names whose metric can't be computed for some students, each once."""
    return [name for name in dict.fromkeys(names) if name in METRICS and METRICS[name].may_be_unknown]
