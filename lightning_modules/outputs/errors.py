"""Describe how a student errs beside its teacher, in the words of an output kind that has no classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

_KEPT = 1_000_000  # numbers of each kind that are kept, or up to twice as many; of more, an even choice of the samples
_PARTS, _FEWEST = 5, 10  # ranges of the target, each with at least so many samples
_NAMED = 3  # values that a sentence names
_TAIL = 0.95

_Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class Errors:
    """How a student errs beside its teacher.

    Attributes:
        answers: What is kept by sample, first dimension N: ``labels``, and what ``teacher`` and ``student`` answered.
        sentence: What the report says of the student, as it follows on its name, and ends with a full stop.
        details: Further sentences, for the summary; empty if there are none.
        table: Columns of equal length by name, for ``transfer.csv``; empty if there is no table.
    """

    answers: Mapping[str, Tensor]
    sentence: str
    details: str = ""
    table: Mapping[str, Sequence[float | str]] = field(default_factory=dict)


class _Row(NamedTuple):
    """Errors of one value over all samples, or over those of one range of its target (units of the target).

    Attributes:
        value: Index of the value.
        part: 0 for all samples, else the range, from 1.
        target_from: Least target.
        target_to: Greatest target.
        samples: Their number.
        teacher_mae: Mean absolute error of the teacher.
        student_mae: That of the student.
        teacher_p95: 95th percentile of the teacher's absolute errors, linear between ranks.
        student_p95: That of the student's.
        teacher_bias: Mean of the teacher's answers less their targets.
        student_bias: That of the student's.
        student_closer: Samples where the student is closer to the target than the teacher.
        correlation: Pearson's r of the student's answers with the teacher's; NaN where those of one are all alike.
    """

    value: int
    part: int
    target_from: float
    target_to: float
    samples: int
    teacher_mae: float
    student_mae: float
    teacher_p95: float
    student_p95: float
    teacher_bias: float
    student_bias: float
    student_closer: int
    correlation: float

    @property
    def lost(self) -> float:
        """Return by how much the student's mean error exceeds the teacher's."""
        return self.student_mae - self.teacher_mae


def value_errors(student: Tensor, teacher: Tensor, targets: Tensor) -> Errors:
    """Describe the errors of numbers, in the units of the targets.

    Args:
        student: The student's answers, shape (N, V).
        teacher: The teacher's answers, shape (N, V).
        targets: The targets, shape (N, V).

    Returns:
        The errors of each value, over all samples and over up to five ranges of its target with equally many samples.
        The sentence is about the value whose error grows most beside the teacher's.
    """
    ours, theirs, right = (values.detach().double().cpu().numpy() for values in (student, teacher, targets))
    rows = [row for value in range(right.shape[1]) for row in _rows(value, ours, theirs, right)]
    whole = [row for row in rows if not row.part]
    order = sorted(whole, key=lambda row: -row.student_mae / max(row.teacher_mae, 1e-300))
    several = len(whole) > 1
    ranges = [row for row in rows if row.part and row.value == order[0].value]
    step = max(1, targets.numel() // _KEPT)
    kept = {"labels": targets, "teacher": teacher, "student": student}
    return Errors(
        answers={name: values[::step].detach().float().cpu() for name, values in kept.items()},
        sentence=f"{f'errs most in value {order[0].value}: ' if several else 'errs '}{_sentence(order[0], ranges)}.",
        details=f"{_detail(order[0], theirs, ours, right)}{_others(order[1:])}",
        table={name: [getattr(row, name) for row in rows] for name in _Row._fields},
    )


def _rows(value: int, ours: _Array, theirs: _Array, right: _Array) -> list[_Row]:
    """Return the errors of a value over all samples, then over each range of its target."""
    columns = ours[:, value], theirs[:, value], right[:, value]
    targets = columns[2]
    edges = np.unique(np.quantile(targets, np.linspace(0, 1, max(1, min(_PARTS, len(targets) // _FEWEST)) + 1)))
    parts = max(1, len(edges) - 1)
    places = np.clip(np.searchsorted(edges, targets) - 1, 0, parts - 1)
    chosen = [places == part for part in range(parts) if (places == part).any()]
    found = [_row(value, 0, *columns)]
    if len(chosen) > 1:
        found += [_row(value, part, *(one[mask] for one in columns)) for part, mask in enumerate(chosen, start=1)]
    return found


def _row(value: int, part: int, ours: _Array, theirs: _Array, right: _Array) -> _Row:
    our_errors, their_errors = abs(ours - right), abs(theirs - right)
    return _Row(
        value=value,
        part=part,
        target_from=float(right.min()),
        target_to=float(right.max()),
        samples=len(right),
        teacher_mae=float(their_errors.mean()),
        student_mae=float(our_errors.mean()),
        teacher_p95=float(np.quantile(their_errors, _TAIL)),
        student_p95=float(np.quantile(our_errors, _TAIL)),
        teacher_bias=float((theirs - right).mean()),
        student_bias=float((ours - right).mean()),
        student_closer=int((our_errors < their_errors).sum()),
        correlation=_correlation(ours, theirs),
    )


def _correlation(one: _Array, other: _Array) -> float:
    if len(one) < 2 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return float("nan")
    return float(np.corrcoef(one, other)[0, 1])


def _sentence(row: _Row, ranges: Sequence[_Row]) -> str:
    """Return the errors of a value, and the range of its target where the student loses most."""
    told = (
        f"by {row.student_mae:.4g} on average, the teacher by {row.teacher_mae:.4g} (95 % of its errors are at most "
        f"{row.student_p95:.4g}, of the teacher's {row.teacher_p95:.4g}); it is closer to the target than the teacher "
        f"on {row.student_closer:,} of {row.samples:,} samples ({100 * row.student_closer / row.samples:.1f} %)"
    )
    worst = max(ranges, key=lambda one: one.lost, default=None)
    if worst is None or worst.lost <= 0:
        return told
    return (
        f"{told}; it loses most at targets from {worst.target_from:.4g} to {worst.target_to:.4g} "
        f"({worst.student_mae:.4g}, the teacher {worst.teacher_mae:.4g}, of {worst.samples:,} samples)"
    )


def _detail(row: _Row, theirs: _Array, ours: _Array, right: _Array) -> str:
    """Return the bias of a value, and what its answers correlate with."""
    told = (
        f"Its bias, the mean of its answers less the targets, is {row.student_bias:+.4g}, the teacher's "
        f"{row.teacher_bias:+.4g}."
    )
    if np.isnan(row.correlation):
        return told
    student, teacher = (_correlation(one[:, row.value], right[:, row.value]) for one in (ours, theirs))
    with_targets = "" if np.isnan(student) else f", with the targets {student:.2f} (the teacher's {teacher:.2f})"
    return f"{told} Its answers correlate with the teacher's by Pearson's r = {row.correlation:.2f}{with_targets}."


def _others(rows: Sequence[_Row]) -> str:
    """Return the errors of the other values, which grow less."""
    if not rows:
        return ""
    named = [f"{one.student_mae:.4g} in value {one.value} (the teacher {one.teacher_mae:.4g})" for one in rows[:_NAMED]]
    more = f", and less beside the teacher's in {len(rows) - _NAMED} more" if len(rows) > _NAMED else ""
    return f" Its mean error is {', '.join(named)}{more}."
