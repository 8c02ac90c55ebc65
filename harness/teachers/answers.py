"""What a teacher says of samples, in any usual form, as logits: checked row by row, and floored where it is zero."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from harness.core.errors import Unfit

PROBABILITIES, LOG_PROBABILITIES, LOGITS, LABELS, TOP_K, VALUES = (
    "probabilities", "log_probabilities", "logits", "labels", "top_k", "values",
)  # fmt: skip
KINDS = (PROBABILITIES, LOG_PROBABILITIES, LOGITS, LABELS, TOP_K, VALUES)
"""The forms in which a teacher may answer."""

SCORED = (LOGITS, PROBABILITIES, LOG_PROBABILITIES)
"""Those of them that give each class a number."""

OF_CLASSES, OF_LABELS, OF_VALUES = "classes", "labels", "values"
"""What the numbers of a sample may be of, as ``lightning_modules.outputs.Output.numbers_of`` says."""

_KINDS_OF = {OF_CLASSES: KINDS[:-1], OF_LABELS: (*SCORED, LABELS), OF_VALUES: (VALUES,)}

FLOOR = 1e-6
"""The least probability that is stored: a probability of 0 has no logarithm, and no student can follow it there."""

_SUM = 1e-3  # by which the probabilities of a sample may miss 1: of half precision, and of rounding to four decimals
_SHOWN = 3  # samples that are named


class Logits(NamedTuple):
    """Logits, and how many of the probabilities behind them were floored.

    Attributes:
        values: Shape (N, C), float32.
        floored: Number of probabilities below ``FLOOR``.
    """

    values: Tensor
    floored: int


def usable_kind(given: str | None, numbers_of: str, who: str) -> str:
    """Return the form of a teacher's answers; logits, or values of a regression, where none is said.

    Args:
        given: One of ``KINDS``, or ``None``.
        numbers_of: What the numbers are of.
        who: The teacher's name in messages.

    Raises:
        Unfit: If the task's output has no such answers.
    """
    known = _KINDS_OF[numbers_of]
    if given is None:
        return VALUES if numbers_of == OF_VALUES else LOGITS
    if given not in known:
        raise Unfit(f"{who} gives {given}, but the task's output has {numbers_of}", f"give {' or '.join(known)}")
    return given


def to_logits(values: Tensor, kind: str, who: str, name: Callable[[int], str], numbers_of: str = OF_CLASSES) -> Logits:
    """Return a teacher's answers as logits: logits unchanged, probabilities by their logarithm.

    Of several labels, a probability becomes the log odds of the label. Values of a regression stay as they are.

    Args:
        values: Its answers, shape (N, C).
        kind: ``"probabilities"``, ``"log_probabilities"``, ``"logits"`` or ``"values"``; of several labels also
            ``"labels"``, 0 or 1 for each.
        who: The teacher's name in messages.
        name: Gives the name of a row in messages.
        numbers_of: What the numbers are of.

    Raises:
        Unfit: If a row is no such answer.
    """
    numbers = values.double()
    _refuse(numbers.isnan().any(1), "NaN among", kind, who, name, "look at how they were made")
    _refuse((numbers == torch.inf).any(1), "infinity among", kind, who, name, "look at how they were made")
    if numbers_of != OF_CLASSES:
        return _apart(numbers, kind, who, name)
    if kind == LOGITS:
        _refuse((numbers == -torch.inf).all(1), "nothing but -inf for", kind, who, name, "give each sample numbers")
        return Logits(values.float(), 0)
    if kind == PROBABILITIES:
        _refuse((numbers < 0).any(1), "negative numbers among", kind, who, name, "are they logits? say kind='logits'")
    shares = numbers if kind == PROBABILITIES else numbers.exp()
    sums = shares.sum(1)
    off = (sums - 1).abs() > _SUM
    if off.any():
        first = float(sums[off][0])
        remedy = "give every class of the task a column, or say which kind they are (kind=...)"
        _refuse(off, f"a sum of {first:.6g} instead of 1 of", kind, who, name, remedy)
    floored = shares < FLOOR
    return Logits(shares.clamp(min=FLOOR).log().float(), int(floored.sum()))


def _apart(numbers: Tensor, kind: str, who: str, name: Callable[[int], str]) -> Logits:
    """Return answers whose columns do not exclude one another: values, or log odds of labels."""
    if kind in (VALUES, LOGITS):
        _refuse((numbers == -torch.inf).any(1), "-infinity among", kind, who, name, "look at how they were made")
        return Logits(numbers.float(), 0)
    shares = numbers.exp() if kind == LOG_PROBABILITIES else numbers
    off = ((shares < 0) | (shares > 1 + _SUM)).any(1)
    _refuse(off, "numbers that are none from 0 to 1 among", kind, who, name, "are they logits? say kind='logits'")
    if kind == LABELS:
        _refuse(((shares != 0) & (shares != 1)).any(1), "numbers between 0 and 1 among", kind, who, name,
                "say kind='probabilities'")  # fmt: skip
    floored = (shares < FLOOR) | (shares > 1 - FLOOR)
    return Logits(shares.clamp(FLOOR, 1 - FLOOR).logit().float(), int(floored.sum()))


def are_shares(answers: Tensor, numbers_of: str) -> bool:
    """Return whether answers, shape (N, C), are probabilities of classes, or of labels that do not exclude one another.

    Args:
        answers: The answers.
        numbers_of: What the numbers are of.
    """
    if numbers_of == OF_LABELS:
        return bool(((answers >= 0) & (answers <= 1)).all())
    return numbers_of == OF_CLASSES and are_probabilities(answers)


def are_probabilities(answers: Tensor) -> bool:
    """Return whether answers, shape (N, C), are probabilities: none negative, and a sum of 1 for each sample."""
    sums = answers.double().sum(1)
    return bool((answers >= 0).all()) and bool(((sums - 1).abs() < _SUM).all())


def from_labels(labels: Tensor, classes: int) -> Tensor:
    """Return class indices (N,) as logits (N, C): nearly 1 for the class, ``FLOOR`` for each other one."""
    shares = torch.full((len(labels), classes), FLOOR, dtype=torch.float64)
    shares[torch.arange(len(labels)), labels] = 1 - FLOOR * (classes - 1)
    return shares.log().float()


def from_top_k(indices: Tensor, shares: Tensor, classes: int, who: str, name: Callable[[int], str]) -> Tensor:
    """Return the k likeliest classes with their probabilities as probabilities of all; the rest is spread evenly.

    Args:
        indices: Class indices, shape (N, k); -1 leaves a place empty.
        shares: Their probabilities, shape (N, k).
        classes: Number of classes C.
        who: The teacher's name in messages.
        name: Gives the name of a row in messages.

    Raises:
        Unfit: If a class is named twice or is none, or the probabilities sum to more than 1.
    """
    given, numbers = indices >= 0, shares.double()
    what = "top k"
    _refuse((indices >= classes).any(1), f"a class beyond the {classes} of the task among", what, who, name,
            "count classes from 0, in the task's order")  # fmt: skip
    ordered = indices.sort(1).values
    _refuse(((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any(1), "a class twice among", what, who,
            name, "name each class once")  # fmt: skip
    numbers = numbers.masked_fill(~given, 0)
    _refuse(numbers.isnan().any(1) | (numbers < 0).any(1), "NaN or negative numbers among", what, who, name,
            "give probabilities")  # fmt: skip
    sums = numbers.sum(1)
    _refuse(sums > 1 + _SUM, "probabilities that sum to more than 1 in", what, who, name, "give probabilities")
    left = classes - given.sum(1)
    _refuse((left == 0) & (sums < 1 - _SUM), "all classes, and a sum below 1, in", what, who, name,
            "give probabilities")  # fmt: skip
    spread = ((1 - sums).clamp(min=0) / left.clamp(min=1))[:, None].repeat(1, classes)
    rows, places = given.nonzero(as_tuple=True)
    spread[rows, indices[rows, places]] = numbers[rows, places]
    return spread / spread.sum(1, keepdim=True)


def _refuse(bad: Tensor, found: str, kind: str, who: str, name: Callable[[int], str], remedy: str) -> None:
    """Refuse answers if a row is bad: name the first ones, and count all.

    Raises:
        Unfit: If a row is bad.
    """
    rows = bad.nonzero().flatten().tolist()
    if rows:
        named = ", ".join(name(row) for row in rows[:_SHOWN])
        more = f" and {len(rows) - _SHOWN:,} more" if len(rows) > _SHOWN else ""
        raise Unfit(f"{who} has {found} the {kind.replace('_', ' ')} of {named}{more}", remedy)
