"""The region of interest: the part of the front that a person would choose from, as a bound on the primary metric.

The hypervolume over all accuracies rewards the worst students most, which nobody deploys. So students outside of the
region are on no front, are no pick, and add nothing to the expected hypervolume improvement.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from harness.core.errors import HarnessError, did_you_mean
from harness.metrics import budget_names
from harness.settings import Bound
from harness.task import Task, primary_metric

HALF_WAY = 0.5
"""The default share of the teacher's distance from chance, by the logarithm of the error, that a student must have.

``benchmarks/README.md`` shows its effect on two data sets."""
_ROUNDING = 1e-6  # of a value: a metric of 0.95 in single precision is a little less


@dataclass(frozen=True)
class Region:
    """Which students count, by their primary metric.

    Attributes:
        metric: Name of the primary metric.
        sign: 1 where more of it is better, -1 where less is.
        floor: The worst value that counts; ``None`` where all count.
        why: Where the bound comes from, or why there is none.
    """

    metric: str
    sign: int
    floor: float | None = None
    why: str = ""

    def holds(self, value: float) -> bool:
        """Return whether a student with this value of the primary metric counts."""
        if self.floor is None:
            return True
        return self.sign * (value - self.floor) >= 0 or math.isclose(value, self.floor, rel_tol=_ROUNDING)

    @property
    def bound(self) -> str:
        """Return the bound in words, as ``accuracy at least 0.95``."""
        if self.floor is None:
            return "all students count"
        return f"{self.metric} at {'least' if self.sign > 0 else 'most'} {self.floor:.4g}"

    def __str__(self) -> str:
        return f"{self.bound}{self.why and f', {self.why}'}"


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What is known of a primary metric before students are trained.

    Attributes:
        metric: Its name.
        sign: 1 where more of it is better, -1 where less is.
        bounds: Its lower and upper limit; ``None`` for one that is not known.
        chance: The best score of a constant answer on the validation split; NaN where it can't be computed.
        samples: Number of samples in that split.
    """

    metric: str
    sign: int
    bounds: tuple[float | None, float | None]
    chance: float
    samples: int

    @property
    def best(self) -> float | None:
        """Return the best value that the metric can have; ``None`` if it is not known."""
        return self.bounds[1] if self.sign > 0 else self.bounds[0]


def sign_of(task: Task) -> int:
    """Return 1 where more of a task's primary metric is better, -1 where less is."""
    return 1 if primary_metric(task).direction == "maximize" else -1


def check_name(bound: Bound | None, task: Task) -> None:
    """Check that a bound names the primary metric of a task, and bounds it on its worse side.

    Raises:
        HarnessError: If not; the message names the flag to use.
    """
    if bound is None or not bound.metric:
        return
    metric, sign = primary_metric(task).name, sign_of(task)
    right = "--min" if sign > 0 else "--max"
    if bound.metric != metric:
        ours = f"{metric}, the primary metric" if bound.flag == right else ""
        costs = f"a cost ({', '.join(budget_names())})" if bound.flag == "--max" else ""
        known = " or ".join(filter(None, (ours, costs))) or f"a metric that is better the higher it is, unlike {metric}"
        near = did_you_mean(bound.metric, budget_names() if costs else (), otherwise=".")
        if did_you_mean(bound.metric, (metric,)):
            near = f"; did you mean {right} {metric}={bound.value:g}?"
        raise HarnessError(f"{bound.flag} must name {known}, but got {bound.metric!r}{near}")
    if bound.flag != right:
        way = "higher" if sign > 0 else "lower"
        raise HarnessError(
            f"{metric} is better the {way} it is, so {bound.flag} would keep the worst students; "
            f"use {right} {metric}={bound.value:g}."
        )


def check_reach(bound: Bound | None, scores: Scores) -> None:
    """Check that a bound can be reached, and that a share of the teacher's score is meaningful.

    Raises:
        HarnessError: If not.
    """
    if bound is None or bound.value is None:
        return
    if bound.flag == "--min-share":
        low, chance = scores.bounds[0], scores.chance
        if (low is not None and low < 0) or (low is None and not chance > 0):
            found = f"{scores.metric} can be {low:g}" if low is not None else f"a constant answer scores {chance:.4g}"
            raise HarnessError(_no_share(scores, found))
        return
    best = scores.best
    if best is not None and scores.sign * (bound.value - best) > 0:
        raise HarnessError(
            f"{bound} can't be reached: {scores.metric} is never {'above' if scores.sign > 0 else 'below'} {best:g}."
        )


def region_of(bound: Bound | None, scores: Scores, teacher: float) -> Region:
    """Return the region that was asked for, or the default one.

    By default a student must have half of the teacher's distance from chance, by the logarithm of the error, which is
    the distance to the best possible value: its error may be the geometric mean of the teacher's and of a constant
    answer's. A teacher without errors counts as having half a sample's share of a constant answer's error.

    Args:
        bound: The bound asked for; ``None`` takes the default.
        scores: What is known of the primary metric.
        teacher: The teacher's value of it on the validation split.

    Raises:
        HarnessError: If a share of the teacher's score is asked for, and that score is not above zero.
    """
    metric, sign = scores.metric, scores.sign
    if bound is None:
        return _default(scores, teacher)
    if bound.value is None:
        return Region(metric, sign, None, "--min none")
    if bound.flag != "--min-share":
        return Region(metric, sign, bound.value, str(bound))
    if not teacher > 0:
        raise HarnessError(_no_share(scores, f"the teacher scores {teacher:.4g}"))
    floor = teacher * bound.value if sign > 0 else teacher / bound.value
    return Region(metric, sign, floor, f"{bound} of the teacher's {teacher:.4f}")


def _default(scores: Scores, teacher: float) -> Region:
    metric, sign, best, chance = scores.metric, scores.sign, scores.best, scores.chance
    if best is None:
        return _whole(scores, f"the best that {metric} can be is not known")
    if not math.isfinite(chance):
        return _whole(scores, f"{metric} of a constant answer is not a number")
    most = sign * (best - chance)
    error = max(sign * (best - teacher), most / (2 * scores.samples))
    if not most > error:
        return _whole(scores, f"the teacher's {teacher:.4g} is no better than a constant answer's {chance:.4g}")
    floor = best - sign * most ** (1 - HALF_WAY) * error**HALF_WAY
    return Region(
        metric,
        sign,
        floor,
        f"by default: half of the way from a constant answer ({chance:.4g}) to the teacher ({teacher:.4g}), by the "
        "logarithm of the error; --min none lifts it",
    )


def _whole(scores: Scores, why: str) -> Region:
    flag = "--min" if scores.sign > 0 else "--max"
    return Region(
        scores.metric,
        scores.sign,
        None,
        f"for there is no bound by default where {why}; {flag} {scores.metric}=VALUE sets one",
    )


def _no_share(scores: Scores, found: str) -> str:
    flag = "--min" if scores.sign > 0 else "--max"
    return f"--min-share must be of scores above zero, but {found}; name a value: {flag} {scores.metric}=VALUE."
