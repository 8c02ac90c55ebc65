"""What a distribution holds: its ends, its middle, its values, and a value that is held fixed."""

from __future__ import annotations

import math
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial

from harness.core.choices import holds
from harness.core.errors import HarnessError, did_you_mean


def middle_of(distribution: BaseDistribution) -> Any:
    """Return the middle of a range, of its logarithm where it is sampled so; the first of some choices."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[0]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high = distribution.low, distribution.high
    value = math.sqrt(low * high) if distribution.log else (low + high) / 2
    if distribution.step is not None:
        value = low + round((value - low) / distribution.step) * distribution.step
    return round(value) if isinstance(distribution, IntDistribution) else value


def ends(distribution: BaseDistribution) -> tuple[Any, ...]:
    """Return every choice, or the lowest and the highest value; one alone where nothing varies."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high = distribution.low, distribution.high
    return (low,) if distribution.single() else (low, high)


def bounds_of(distribution: BaseDistribution) -> tuple[Any, ...]:
    """Return every choice, or the lowest and the highest value, which may be the same."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return distribution.low, distribution.high


def listed(distribution: BaseDistribution, limit: int) -> list[Any] | None:
    """Return every value of a distribution, or ``None`` if they are uncountable or more than ``limit``."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if distribution.single():
        return [distribution.low]
    if isinstance(distribution, FloatDistribution):
        low, high, step = distribution.low, distribution.high, distribution.step
        if step is None:
            return None
        count = round((high - low) / step) + 1
        return [min(low + i * step, high) for i in range(count)] if count <= limit else None
    count = (distribution.high - distribution.low) // distribution.step + 1
    return list(range(distribution.low, distribution.high + 1, distribution.step)) if count <= limit else None


def member(distribution: BaseDistribution, value: float) -> Any:
    """Return the value of a distribution that equals ``value``, of its own type; ``None`` if there is none."""
    if isinstance(distribution, CategoricalDistribution):
        return next((choice for choice in distribution.choices if choice == value), None)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if not holds(distribution, value):
        return None
    return int(value) if isinstance(distribution, IntDistribution) else float(value)


def hold(name: str, distribution: BaseDistribution, text: str) -> BaseDistribution:
    """Return the distribution of the one value that ``text`` names.

    Args:
        name: The parameter's name.
        distribution: Its distribution.
        text: The value, as a flag gives it.

    Raises:
        HarnessError: If the distribution does not hold it.
    """
    if isinstance(distribution, CategoricalDistribution):
        for choice in distribution.choices:
            if str(choice) == text:
                return CategoricalDistribution([choice])
        near = did_you_mean(text, map(str, distribution.choices), otherwise=".")
        raise HarnessError(f"--fix {name} must be one of {list(distribution.choices)}, but got {text!r}{near}")
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    kind = float if isinstance(distribution, FloatDistribution) else int
    try:
        value = kind(text)
    except ValueError:
        raise HarnessError(f"--fix {name} must be a number ({kind.__name__}), but got {text!r}.") from None
    if not holds(distribution, value):
        step = f" in steps of {distribution.step}" if distribution.step not in (None, 1) else ""
        raise HarnessError(f"--fix {name} must lie in [{distribution.low}, {distribution.high}]{step}, but got {text}.")
    if isinstance(distribution, FloatDistribution):
        return FloatDistribution(value, value, log=distribution.log)
    return IntDistribution(int(value), int(value), log=distribution.log)


def suggest(trial: Trial, name: str, distribution: BaseDistribution) -> Any:
    """Return a trial's value of a parameter, suggested by its sampler."""
    match distribution:
        case FloatDistribution():
            return trial.suggest_float(
                name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
            )
        case IntDistribution():
            return trial.suggest_int(
                name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
            )
        case CategoricalDistribution():
            return trial.suggest_categorical(name, distribution.choices)
    raise AssertionError(f"unknown distribution {distribution!r}")
