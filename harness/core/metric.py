"""The declaration of a metric or a cost. Imports nothing heavy, for ``--help`` reads declarations."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Literal

from harness.core.errors import HarnessError, Unfit, is_out_of_memory, one_line

if TYPE_CHECKING:
    from torch import Tensor

    from lightning_modules.top_k import TopKLogits

Costs = Mapping[str, float]
"""Measured costs of one network by metric name, without those that are not known."""


@dataclass(frozen=True, eq=False)
class SplitLogits:
    """What student and teacher answer on some samples of a split, as rows: what a score is computed from.

    Attributes:
        student: Logits of the student, shape (R, C).
        teacher: Logits of the teacher, shape (R, C), or the largest of them (``lightning_modules.top_k``).
        labels: The true classes, shape (R,), int64.
        classes: Number of classes C.
    """

    student: Tensor
    teacher: Tensor | TopKLogits
    labels: Tensor
    classes: int


def _mean(values: Tensor) -> Tensor:
    return values.float().mean()


@dataclass(frozen=True)
class Metric:
    """The declaration of a metric that every trial has beside its task's primary metric.

    A metric with neither ``score`` nor ``derive`` is a measured cost.

    Attributes:
        name: Its name in flags, CSV, the study and MLflow.
        direction: ``"maximize"`` or ``"minimize"``: which way is better.
        unit: Its unit, where it has one.
        label: Its name in plots; by default ``name``.
        heading: Its name above a column of a table; by default ``name``.
        format: How a table shows a value.
        in_every_table: Whether tables show it where it is no objective. A narrow terminal leaves such a column out.
        is_timed: Whether it depends on a clock, and so differs from run to run.
        is_default_objective: Whether it spans the front where ``--objectives`` is not given.
        may_be_unknown: Whether it can't be computed for some students, whose trials then lack it.
        combine: Computes a measured cost of networks that run one after the other from the cost of each.
        score: Computes a value of each row, first dimension R, from the answers on some samples of a split, once the
            student is trained: the rows of a split with many classes never are in memory together. A mistake in it is
            reported under the metric's name, as one in ``derive`` is.
        reduce: Computes it from the values of all rows, on the CPU; by default their mean.
        derive: Computes it from the costs of a student and of its teacher; ``None`` where these don't determine it.
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
    is_default_objective: bool = False
    may_be_unknown: bool = False
    combine: Callable[[Iterable[float]], float] = sum
    score: Callable[[SplitLogits], Tensor] | None = None
    reduce: Callable[[Tensor], Tensor] = _mean
    derive: Callable[[Costs, Costs], float | None] | None = None

    def __post_init__(self) -> None:
        if self.direction not in ("maximize", "minimize"):
            raise ValueError(
                f"direction of metric {self.name!r} must be 'maximize' or 'minimize', but got {self.direction!r}."
            )
        object.__setattr__(self, "label", self.label or self.name)
        object.__setattr__(self, "heading", self.heading or self.name)

    @property
    def is_maximized(self) -> bool:
        """Return whether higher is better."""
        return self.direction == "maximize"

    @property
    def known_before_training(self) -> bool:
        """Return whether it is a cost: temperature and alpha do not change it."""
        return self.score is None

    @property
    def is_measured(self) -> bool:
        """Return whether it is counted or measured of a network, and not computed from other values."""
        return self.score is None and self.derive is None

    @property
    def may_be_budget(self) -> bool:
        """Return whether ``--max`` accepts it: a measured cost that is better the lower it is."""
        return self.is_measured and not self.is_maximized

    @property
    def axis_label(self) -> str:
        """Return its label at the axis of a plot, with its unit."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    def of_rows(self, answers: SplitLogits) -> Tensor:
        """Return the values of some rows, of a metric that has a ``score``, on the CPU.

        Raises:
            Unfit: If ``score`` raises, or gives something else than a value of each row.
        """
        assert self.score is not None
        with _reported_as(self.name, "score(logits) must give a value of each row"):
            values, rows = self.score(answers), len(answers.labels)
            if not values.ndim or len(values) != rows:
                raise ValueError(f"it gives shape {tuple(values.shape)} for {rows} rows")
            return values.cpu()

    def of_values(self, values: Tensor) -> float:
        """Return the value of a metric from those of all rows of a split.

        Raises:
            Unfit: If ``reduce`` raises, or gives something else than one number.
        """
        with _reported_as(self.name, "reduce(values) must give one number"):
            return float(self.reduce(values))

    def of_costs(self, student: Costs, teacher: Costs) -> float | None:
        """Return the value of a metric that is known before training; ``None`` where it can't be computed.

        Raises:
            Unfit: If ``derive`` raises.
        """
        if self.derive is None:
            return student.get(self.name)
        with _reported_as(self.name, "derive(student, teacher) must give a number or None"):
            return self.derive(student, teacher)


@contextlib.contextmanager
def _reported_as(name: str, expected: str) -> Iterator[None]:
    """Report an error of a metric's own code under the metric's name; one of memory is not its fault.

    Raises:
        Unfit: If the block raises another error, which is its cause.
    """
    try:
        yield
    except HarnessError:
        raise
    except Exception as error:  # of any type: the code is the declaration's own
        if is_out_of_memory(error):
            raise
        own = traceback.extract_tb(error.__traceback__)[2:3]  # below this frame and that of the call
        place = f" in {own[0].filename}, line {own[0].lineno}" if own else ""
        raise Unfit(
            f"metric {name!r}: {expected}, but fails{place}: {type(error).__name__}: {one_line(error).rstrip('.')}",
            "mend its declaration",
        ) from error
