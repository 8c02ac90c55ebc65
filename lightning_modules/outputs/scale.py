"""Compare the scale of a teacher's numbers with that of the targets, and map one to the other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_FEWEST = 20  # samples: a line through fewer explains much by chance
_LEAST_R2 = 0.25  # share of the targets' variance that a map must explain: else the teacher knows too little to tell
_TIMES = 3  # by which a map must reduce the mean error
_SHARE = 1 / 3  # of a constant answer's mean error: a teacher that errs less is on the targets' scale


@dataclass(frozen=True, eq=False)
class AffineMap:
    """A line for each value: what it means in the targets' units.

    Attributes:
        slope: Factors, shape (V,).
        intercept: What is added, shape (V,), in units of the target.
    """

    slope: Tensor
    intercept: Tensor

    def __call__(self, answers: Tensor) -> Tensor:
        """Return answers, shape (..., V), in units of the target."""
        return answers * self.slope.to(answers) + self.intercept.to(answers)

    def __str__(self) -> str:
        lines = [
            f"{slope:.4g} · answer {'-' if intercept < 0 else '+'} {abs(intercept):.4g}"
            for slope, intercept in zip(self.slope.tolist(), self.intercept.tolist(), strict=True)
        ]
        if len(lines) == 1:
            return lines[0]
        return ", ".join(f"value {value}: {line}" for value, line in enumerate(lines))


def fit_affine(answers: Tensor, targets: Tensor) -> AffineMap:
    """Return the line of least squared error from each value's answers to its targets.

    Args:
        answers: A teacher's answers, shape (N, V); where those of a value are all alike, the slope is 0.
        targets: The targets, shape (N, V).
    """
    given, wanted = answers.detach().double().cpu(), targets.detach().double().cpu()
    centred = given - given.mean(0)
    spread = centred.square().sum(0)
    slope = torch.where(spread > 0, (centred * (wanted - wanted.mean(0))).sum(0) / spread, 0.0)
    return AffineMap(slope.float(), (wanted.mean(0) - slope * given.mean(0)).float())


def scale_fault(answers: Tensor, targets: Tensor) -> str | None:
    """Return how a teacher's answers are off the targets' scale, in one clause; ``None`` if they are not seen to be.

    They are if a line through them explains a quarter of the targets' variance or more, and cuts their mean absolute
    error to less than a third, and this error is more than a third of that of the targets' mean.

    Args:
        answers: The answers, shape (N, V).
        targets: The targets, shape (N, V).
    """
    if len(targets) < _FEWEST:
        return None
    given, wanted = answers.detach().double().cpu(), targets.detach().double().cpu()
    line = fit_affine(given, wanted)
    mapped = line(given)
    plain, fitted, constant = ((one - wanted).abs().mean(0) for one in (given, mapped, wanted.mean(0)))
    unexplained = (mapped - wanted).square().sum(0) / (wanted - wanted.mean(0)).square().sum(0).clamp(min=1e-300)
    off = (plain > _TIMES * fitted) & (plain > _SHARE * constant) & (unexplained <= 1 - _LEAST_R2)
    if not off.any():
        return None
    worst = int(off.double().argmax())
    which = f" in {int(off.sum())} of {len(off)} values; value {worst}" if len(off) > 1 else ": a target"
    return (
        f"numbers on another scale than the targets{which} is about "
        f"{AffineMap(line.slope[worst : worst + 1], line.intercept[worst : worst + 1])}, which leaves a mean error of "
        f"{float(fitted[worst]):.4g} instead of {float(plain[worst]):.4g}"
    )
