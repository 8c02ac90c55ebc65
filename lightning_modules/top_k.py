"""Keep a teacher's k largest logits one by one, and the others as one bucket, the tail.

The k largest alone, renormalised, would teach a student that all other classes are impossible, which is biased
(arXiv:2503.16870). With the tail's share beside them, student and teacher are compared over k + 1 buckets. That share
depends on the temperature, so it is kept for several, and interpolated in between.
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
    """Form in which a teacher's outputs are stored: its k largest logits, and the rest as one bucket.

    A row takes 2 bytes for each kept logit, 2 for its class (4 where there are more than 65,536), and 2 for the tail at
    each temperature and in the limit of an infinite one: 270 bytes at k = 64, 78 at k = 16.

    Args:
        k: Number of logits that are kept, below the number of classes.
        temperatures: Temperatures T, ascending, at which the tail's log-sum-exp of z / T is kept; unitless. It is
            interpolated in between and above, and unknown below the first.

    Raises:
        ValueError: If an argument is out of its range.
    """

    k: int
    temperatures: tuple[float, ...] = (1.0, 4 / 3, 2.0, 3.0, 5.0, 10.0)

    def __post_init__(self) -> None:
        if not isinstance(self.k, int) or isinstance(self.k, bool) or self.k < 1:
            raise ValueError(f"k must be a whole number of at least 1, but got k={self.k!r}.")
        given = tuple(float(one) for one in self.temperatures)
        if not given or list(given) != sorted(set(given)) or not 0 < given[0] <= given[-1] < math.inf:
            raise ValueError(
                f"temperatures must be positive, ascending and finite, at least one, but got {self.temperatures!r}."
            )
        object.__setattr__(self, "temperatures", given)

    def width(self, classes: int) -> int:
        """Return how many numbers of 16 bits a row takes."""
        return self.k * (2 if classes <= _NARROW else 3) + len(self.temperatures) + 1

    def row_bytes(self, classes: int) -> int:
        """Return how many bytes a row of C logits takes."""
        return 2 * self.width(classes)

    def pack(self, logits: Tensor, kept: Tensor | None = None) -> Tensor:
        """Return rows of logits as they are stored.

        Args:
            logits: Raw logits, shape (..., C), C above k; a class at -inf is impossible.
            kept: A class of each row that is kept in any case, shape (...), int64, as the true one, so that its
                probability is known; a number that is no class keeps none.

        Returns:
            Shape (..., W), int16: the classes, float16 differences from the largest logit, and float16 log-sum-exps of
            the tail, bit by bit.
        """
        classes = logits.shape[-1]
        rows = logits.detach().float().reshape(-1, classes)
        values, places = rows.topk(self.k, dim=1)
        largest = values[:, :1].clone()
        if kept is not None:
            asked = kept.reshape(-1, 1)
            is_absent = (asked >= 0) & (asked < classes) & ~(places == asked).any(1, keepdim=True)
            places[:, -1:] = torch.where(is_absent, asked, places[:, -1:])
            values = rows.gather(1, places)
        tail = (rows - largest).scatter_(1, places, -math.inf)
        shares = [(tail / temperature).logsumexp(1) for temperature in self.temperatures]
        possible = (tail > -math.inf).sum(1)
        shares = [share.clamp(min=_LEAST).where(possible > 0, -math.inf) for share in [*shares, possible.log()]]
        stored = [(values - largest).half().view(torch.int16), torch.stack(shares, 1).half().view(torch.int16)]
        low = places if classes <= _NARROW else torch.stack([places % _NARROW, places // _NARROW], 2).flatten(1)
        whole = torch.cat([low.where(low < _NARROW // 2, low - _NARROW).short(), *stored], 1)
        return whole.reshape(*logits.shape[:-1], -1)


class _Parts(NamedTuple):
    classes: Tensor  # (R, k), int64
    logits: Tensor  # (R, k), float32, differences from the largest
    tails: Tensor  # (R, G + 1), float32


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
        k, flat = self.form.k, self.packed.flatten(0, -2)
        tails = len(self.form.temperatures) + 1
        unsigned = flat[:, : -k - tails].long() & (_NARROW - 1)
        if self.classes > _NARROW:
            low, high = unsigned.view(len(flat), k, 2).unbind(2)
            unsigned = low + _NARROW * high
        numbers = flat[:, -k - tails :].contiguous().view(torch.float16).float()
        return _Parts(unsigned, numbers[:, :k], numbers[:, k:])

    def buckets(self, student_logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """Return student and teacher over k + 1 buckets: the kept classes, and all others together.

        Args:
            student_logits: Rows of the student's logits, shape (R, C).
            temperature: Softening T, at least the form's lowest, unitless.

        Returns:
            Logits of the buckets, shape (R, k + 1) each, at least float32: divided by T, their softmax is the buckets'
            shares at that temperature, and at no other one.

        Raises:
            ValueError: If the shapes differ, or the temperature is too low.
        """
        if student_logits.shape != (len(self.rows()), self.classes):
            raise ValueError(
                f"student_logits must have shape {(len(self.rows()), self.classes)}, but got "
                f"{tuple(student_logits.shape)}."
            )
        parts = self.parts()
        softened = at_least_fp32(student_logits) / temperature
        rest = softened.scatter(1, parts.classes, _LOW).logsumexp(1, keepdim=True)
        student = torch.cat([softened.gather(1, parts.classes), rest], 1) * temperature
        return student, torch.cat([parts.logits, self._tail(parts, temperature) * temperature], 1)

    def dense(self) -> Tensor:
        """Return logits of all classes, float32, shape (..., C): the tail's probability at T = 1 is spread evenly."""
        parts = self.parts()
        each = self._tail(parts, 1.0) - parts.tails[:, -1:]
        found = each.masked_fill(parts.tails[:, -1:] == -math.inf, -math.inf).repeat(1, self.classes)
        return found.scatter_(1, parts.classes, parts.logits).reshape(self.shape)

    def _tail(self, parts: _Parts, temperature: float) -> Tensor:
        """Return the tail's log-sum-exp at a temperature, shape (R, 1)."""
        weights = _weights(self.form.temperatures, float(temperature))
        used = [place for place, weight in enumerate(weights) if weight]
        chosen = torch.tensor([weights[place] for place in used], device=parts.tails.device)
        found = (parts.tails[:, used] * chosen).sum(1, keepdim=True)
        return found.masked_fill(parts.tails[:, -1:] == -math.inf, -math.inf)  # where no class is left


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


def compared_logits(
    student_logits: Tensor, teacher_logits: Tensor | TopKLogits, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Return logits of student and teacher over the classes that are told apart of the teacher, for a temperature.

    Those of ``TopKLogits`` are of k + 1 buckets, others are as they are.

    Args:
        student_logits: Rows of logits, shape (R, C).
        teacher_logits: Rows of the teacher's.
        temperature: Softening T, unitless, at which they are compared.
    """
    if isinstance(teacher_logits, TopKLogits):
        return teacher_logits.buckets(student_logits, temperature)
    return student_logits, teacher_logits


def divergence_of_rows(student_logits: Tensor, teacher_logits: Tensor | TopKLogits) -> Tensor:
    """Return KL(teacher ‖ student) at T = 1 of each row, shape (R,), in nats; of ``TopKLogits`` over their buckets.

    Args:
        student_logits: Rows of logits, shape (R, C).
        teacher_logits: Rows of the teacher's.
    """
    sides = compared_logits(student_logits, teacher_logits)
    return kl_terms(*(at_least_fp32(side).log_softmax(-1) for side in sides)).sum(-1)
