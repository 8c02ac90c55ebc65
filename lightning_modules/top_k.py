"""Keep a teacher's largest logits one by one, the others as one bucket, the tail, and a few that are drawn from it.

The largest alone, renormalised, would teach a student that all other classes are impossible, which is biased. With the
tail's share beside them student and teacher are compared over buckets, which says nothing of the classes within the
tail. Classes that are drawn from it by their probability tell that in the mean over the rows, without bias: Anshumann
et al. (2025), arXiv:2503.16870.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_modules.losses._numeric import at_least_fp32, kl_terms

_NARROW = 2**16  # classes that a number of 16 bits can tell apart
_LEAST = -65504.0  # that float16 holds
_LOW = -1e30  # in place of -inf: the logarithm of a sum over nothing but -inf has no gradient


@dataclass(frozen=True)
class TopK:
    """Form in which a teacher's outputs are stored: its largest logits, and the rest as one bucket with some draws.

    A row takes 2 bytes for each of k logits, 2 for its class (4 where there are more than 65,536), and 2 for the tail
    at each temperature and in the limit of an infinite one: 270 bytes at k = 64, 78 at k = 16.

    Args:
        k: Number of logits that are kept, below the number of classes.
        draws: How many of them are drawn from the tail, by their probability at T = 1; the others, two at least, are
            the largest. ``None`` takes a quarter of k.
        temperatures: Temperatures T, ascending, at which the tail's log-sum-exp of z / T is kept; unitless. It is
            interpolated in between and above, and unknown below the first, which is at most 1: scores are of T = 1.

    Raises:
        ValueError: If an argument is out of its range.
    """

    k: int
    draws: int | None = None
    temperatures: tuple[float, ...] = (1.0, 4 / 3, 2.0, 3.0, 5.0, 10.0)

    def __post_init__(self) -> None:
        if not isinstance(self.k, int) or isinstance(self.k, bool) or self.k < 2:
            raise ValueError(f"k must be a whole number of at least 2, but got k={self.k!r}.")
        draws: Any = self.k // 4 if self.draws is None else self.draws
        if not isinstance(draws, int) or isinstance(draws, bool) or not 0 <= draws <= self.k - 2:
            raise ValueError(
                f"draws must be a whole number from 0 to k - 2, but got draws={draws!r} and k={self.k}: the largest "
                "logit and the true class are kept."
            )
        given = tuple(float(one) for one in self.temperatures)
        if not given or list(given) != sorted(set(given)) or not (0 < given[0] <= 1 and given[-1] < math.inf):
            raise ValueError(
                "temperatures must be ascending and finite, the first above 0 and at most 1, at which the teacher is "
                f"scored, but got {self.temperatures!r}."
            )
        object.__setattr__(self, "draws", draws)
        object.__setattr__(self, "temperatures", given)

    @property
    def largest(self) -> int:
        """Return how many of the largest logits are kept."""
        return self.k - (self.draws or 0)

    def width(self, classes: int) -> int:
        """Return how many numbers of 16 bits a row takes."""
        return self.k * (2 if classes <= _NARROW else 3) + len(self.temperatures) + 1

    def row_bytes(self, classes: int) -> int:
        """Return how many bytes a row of C logits takes."""
        return 2 * self.width(classes)

    def pack(self, logits: Tensor, kept: Tensor | None = None, *, seed: int = 0) -> Tensor:
        """Return rows of logits as they are stored.

        Args:
            logits: Raw logits, shape (..., C), C above k; a class at -inf is impossible.
            kept: A class of each row that is kept in any case, shape (...), int64, as the true one, so that its
                probability is known; a number that is no class keeps none.
            seed: Seed of the draws.

        Returns:
            Shape (..., W), int16: the classes, float16 differences from the largest logit, and float16 log-sum-exps of
            the tail, bit by bit.
        """
        classes = logits.shape[-1]
        rows = logits.detach().float().reshape(-1, classes)
        rows = rows - rows.amax(1, keepdim=True)
        places = rows.topk(self.largest, dim=1).indices
        if kept is not None:
            asked = kept.reshape(-1, 1)
            is_absent = (asked >= 0) & (asked < classes) & ~(places == asked).any(1, keepdim=True)
            places[:, -1:] = torch.where(is_absent, asked, places[:, -1:])
        tail = rows.scatter(1, places, -math.inf)
        shares = [(tail / temperature).logsumexp(1) for temperature in self.temperatures]
        possible = (tail > -math.inf).sum(1)
        shares = [share.clamp(min=_LEAST).where(possible > 0, -math.inf) for share in [*shares, possible.log()]]
        if self.draws:
            places = torch.cat([places, _drawn(tail, self.draws, seed)], 1)
        numbers = torch.cat([rows.gather(1, places), torch.stack(shares, 1)], 1).half().view(torch.int16)
        low = places if classes <= _NARROW else torch.stack([places % _NARROW, places // _NARROW], 2).flatten(1)
        whole = torch.cat([low.where(low < _NARROW // 2, low - _NARROW).short(), numbers], 1)
        return whole.reshape(*logits.shape[:-1], -1)


def _drawn(tail: Tensor, draws: int, seed: int) -> Tensor:
    """Draw classes by their logits, shape (R, draws), systematically: evenly spaced from a random start in a row."""
    weights = (tail - tail.amax(1, keepdim=True).nan_to_num(neginf=0.0)).exp()  # or all may be 0, of a small tail
    start = torch.rand(len(weights), 1, generator=torch.Generator().manual_seed(seed)).to(weights.device)
    ends = weights.cumsum(1)
    asked = (torch.arange(draws, device=weights.device) + start) / draws * ends[:, -1:]
    found = torch.searchsorted(ends, asked, right=True)
    last = (weights > 0).long().cumsum(1).argmax(1, keepdim=True)  # the last that is possible: rounding may pass it
    return found.minimum(last)


class _Parts(NamedTuple):
    classes: Tensor  # of the largest, shape (R, k - draws), int64
    logits: Tensor  # differences from the largest, float32
    drawn: Tensor  # classes that are drawn from the tail, shape (R, draws), int64
    drawn_logits: Tensor
    tails: Tensor  # shape (R, G + 1), float32


class _Tail(NamedTuple):
    share: Tensor  # logarithms of the bucket's probabilities of student and teacher, shape (2, R, 1)
    weights: Tensor  # of the draws in a mean over the teacher's tail, shape (R, draws)
    student: Tensor  # logarithms of the probabilities of what is drawn, within the tail, shape (R, draws)
    teacher: Tensor


class Compared(NamedTuple):
    """Student and teacher over the classes that are told apart of the teacher, at a temperature.

    Attributes:
        student: Logits, shape (R, B): divided by T, their softmax is the student's share of each bucket.
        teacher: Likewise of the teacher.
        tail: What is known within the last bucket; ``None`` where every class is told apart.
    """

    student: Tensor
    teacher: Tensor
    tail: _Tail | None = None

    def within_tail(self, share: float = 0.0) -> Tensor:
        """Estimate what KL(teacher ‖ mixture) over all classes has beyond that over the buckets, shape (R,), in nats.

        By the chain rule that is the tail's probability times the divergence within it, a mean over draws.

        Args:
            share: Share of the teacher in the mixture with the student, in [0, 1).
        """
        if self.tail is None:
            return self.student.new_zeros(len(self.student))
        (own, theirs), weights, student, teacher = self.tail
        if share:
            whole, of_student = theirs + math.log(share), own + math.log1p(-share)
            student = torch.logaddexp(teacher + whole, student + of_student) - torch.logaddexp(whole, of_student)
        found: Tensor = theirs.exp().squeeze(1) * (weights * (teacher - student)).sum(1)
        return found


@dataclass(frozen=True, eq=False)
class TopKLogits:
    """Rows of a teacher's logits in the form of ``TopK``, in place of a tensor (..., C).

    Attributes:
        packed: As ``TopK.pack`` returns them, shape (..., W), int16.
        form: The form.
        classes: Number of classes C.
    """

    packed: Tensor
    form: TopK
    classes: int

    def __len__(self) -> int:
        return len(self.packed)

    def __getitem__(self, places: Any) -> TopKLogits:
        return TopKLogits(self.packed[places], self.form, self.classes)

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of the logits, classes last."""
        return (*self.packed.shape[:-1], self.classes)

    def to(self, device: torch.device) -> TopKLogits:
        """Return the same rows on a device."""
        return TopKLogits(self.packed.to(device), self.form, self.classes)

    def rows(self) -> TopKLogits:
        """Return the logits of all places, shape (R, C)."""
        return TopKLogits(self.packed.flatten(0, -2), self.form, self.classes)

    def argmax(self, dim: int = -1) -> Tensor:
        """Return the class of the largest logit, shape (...)."""
        parts = self.parts()
        return parts.classes.gather(1, parts.logits.argmax(1, keepdim=True)).reshape(self.packed.shape[:-1])

    def parts(self) -> _Parts:
        """Return the kept classes, their logits less the largest one, and the tails, a row for each place."""
        k, largest, flat = self.form.k, self.form.largest, self.packed.flatten(0, -2)
        tails = len(self.form.temperatures) + 1
        unsigned = flat[:, : -k - tails].long() & (_NARROW - 1)
        if self.classes > _NARROW:
            low, high = unsigned.view(len(flat), k, 2).unbind(2)
            unsigned = low + _NARROW * high
        numbers = flat[:, -k - tails :].contiguous().view(torch.float16).float()
        return _Parts(
            unsigned[:, :largest], numbers[:, :largest], unsigned[:, largest:], numbers[:, largest:k], numbers[:, k:]
        )

    def compared(self, student_logits: Tensor, temperature: float) -> Compared:
        """Compare a student at a temperature: over the largest logits' classes and the bucket of all others.

        Args:
            student_logits: Rows of the student's logits, shape (R, C).
            temperature: Softening T, at least the form's lowest, unitless.

        Raises:
            ValueError: If the shapes differ, or the temperature is too low.
        """
        if student_logits.shape != (len(self.rows()), self.classes):
            raise ValueError(
                f"student_logits must have shape {(len(self.rows()), self.classes)}, but got "
                f"{tuple(student_logits.shape)}."
            )
        parts = self.parts()
        tail = self._tail(parts.tails, temperature)
        softened = at_least_fp32(student_logits) / temperature
        rest = softened.scatter(1, parts.classes, _LOW).logsumexp(1, keepdim=True)
        student = torch.cat([softened.gather(1, parts.classes), rest], 1)
        teacher = torch.cat([parts.logits / temperature, tail], 1)
        within = None
        if self.form.draws:
            shares = torch.stack([side.log_softmax(1)[:, -1:] for side in (student, teacher)])
            own, theirs = softened.gather(1, parts.drawn) - rest, parts.drawn_logits / temperature - tail
            nothing = tail == -math.inf  # no class is left
            own, theirs = own.masked_fill(nothing, 0), theirs.masked_fill(nothing, 0)
            drawn_by = parts.drawn_logits.masked_fill(nothing, 0)
            within = _Tail(shares, (drawn_by / temperature - drawn_by).softmax(1), own, theirs)
        return Compared(student * temperature, teacher * temperature, within)

    def dense(self) -> Tensor:
        """Return logits of all classes, float32, shape (..., C): the tail's probability at T = 1 is spread evenly."""
        parts = self.parts()
        each = self._tail(parts.tails, 1.0) - parts.tails[:, -1:]
        found = each.masked_fill(parts.tails[:, -1:] == -math.inf, -math.inf).repeat(1, self.classes)
        return found.scatter_(1, parts.classes, parts.logits).reshape(self.shape)

    def _tail(self, tails: Tensor, temperature: float) -> Tensor:
        """Return the tail's log-sum-exp at a temperature, shape (R, 1)."""
        weights = _weights(self.form.temperatures, float(temperature))
        used = [place for place, weight in enumerate(weights) if weight]
        chosen = torch.tensor([weights[place] for place in used], device=tails.device)
        found = (tails[:, used] * chosen).sum(1, keepdim=True)
        return found.masked_fill(tails[:, -1:] == -math.inf, -math.inf)  # where no class is left


@lru_cache
def _weights(temperatures: tuple[float, ...], temperature: float) -> list[float]:
    """Return the weight of the tail at each kept temperature, the infinite one last, in that at another.

    The log-sum-exp of z / T is smooth and convex in 1 / T. It is interpolated there by the polynomial through the four
    nearest kept ones, and is exact at these.

    Raises:
        ValueError: If the temperature is below the lowest kept one.
    """
    if not temperature >= temperatures[0] * (1 - 1e-6):
        raise ValueError(
            f"temperature must be at least {temperatures[0]:g}, the lowest at which the teacher's tail is stored, but "
            f"got {temperature=}: give TopK(k, temperatures=...) a lower one."
        )
    nodes, at = [1 / one for one in (*temperatures, math.inf)], min(1 / temperature, 1 / temperatures[0])
    nearest = sorted(range(len(nodes)), key=lambda place: abs(nodes[place] - at))[:_NODES]
    weights = [0.0] * len(nodes)
    for place in nearest:
        others = [nodes[other] for other in nearest if other != place]
        weights[place] = math.prod((at - other) / (nodes[place] - other) for other in others)
    return weights


_NODES = 4


def compared(student_logits: Tensor, teacher_logits: Tensor | TopKLogits, temperature: float = 1.0) -> Compared:
    """Compare rows of logits over the classes that are told apart of the teacher: all, where its logits are a tensor.

    Args:
        student_logits: Rows of logits, shape (R, C).
        teacher_logits: Rows of the teacher's.
        temperature: Softening T, unitless, at which they are compared.
    """
    if isinstance(teacher_logits, TopKLogits):
        return teacher_logits.compared(student_logits, temperature)
    return Compared(student_logits, teacher_logits)


def divergence_of_rows(student_logits: Tensor, teacher_logits: Tensor | TopKLogits) -> Tensor:
    """Return KL(teacher ‖ student) at T = 1 of each row, shape (R,), in nats; an estimate for ``TopKLogits``.

    Args:
        student_logits: Rows of logits, shape (R, C).
        teacher_logits: Rows of the teacher's.
    """
    found = compared(student_logits, teacher_logits)
    sides = (at_least_fp32(side).log_softmax(-1) for side in found[:2])
    return kl_terms(*sides).sum(-1) + found.within_tail()
