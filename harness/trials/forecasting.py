"""Build a study's forecast from costs that are known before training, and choose the small architectures."""

from __future__ import annotations

from math import log
from typing import Any

import numpy as np

from harness.cost import budgets as budget
from harness.cost.table import MOST_ARCHITECTURES, key_of
from harness.metrics import metric_named
from harness.preparation.prepared import Prepared
from harness.sampling.candidates import SpaceEncoder
from harness.sampling.forecast import Forecast
from harness.sampling.model_fit import PrimaryMetric
from harness.settings import Settings
from harness.space import SearchSpace
from harness.studies.study import Study
from harness.trials.pruning import why_no_pruning


def why_no_forecast(space: SearchSpace, study: Study, prepared: Prepared) -> str | None:
    """Return why no improvement of the front can be forecast before a student trains; ``None`` if it can."""
    if _architectures(space, prepared) is None:
        return f"there are more than {MOST_ARCHITECTURES} architectures, and their costs are not known beforehand"
    return why_no_pruning(study)


def make_forecast(settings: Settings, space: SearchSpace, study: Study, prepared: Prepared) -> Forecast | None:
    """Return the forecast of a study; ``None`` if costs are not known beforehand, or the sampler is not ``front``.

    Args:
        settings: Sampler, budgets and seed.
        space: The space, with ranges narrowed to the budgets.
        study: The study.
        prepared: The cost table.
    """
    if settings.sampler != "front" or why_no_forecast(space, study, prepared):
        return None
    architectures = _affordable(settings, space, prepared)
    rows = map(prepared.costs.metrics, architectures)
    axes = [name for name in study.objectives if name != study.primary]
    return Forecast(
        space,
        encoder=SpaceEncoder(space),
        architectures=architectures,
        costs=np.array([[_minimized(name, costs[name]) for name in axes] for costs in rows], dtype=float),
        metric=PrimaryMetric(study.primary, study.primary_sign, study.primary_bounds, study.region.floor),
        seed=settings.seed,
    )


def small_architectures(
    settings: Settings, space: SearchSpace, study: Study, prepared: Prepared
) -> list[dict[str, Any]]:
    """Return the architecture with the fewest parameters, and the one at a quarter of the log range to the most.

    Args:
        settings: The budgets; architectures over them are left out.
        space: The space.
        study: The study.
        prepared: The cost table.

    Returns:
        Two architectures; an empty list if no cost is an objective, no architecture is within the budgets, or costs
        are not known beforehand.
    """
    if not any(metric_named(name).known_before_training for name in study.objectives if name != study.primary):
        return []
    affordable = _affordable(settings, space, prepared)
    sizes = [log(max(1, prepared.costs[architecture]["parameters"])) for architecture in affordable]
    if not sizes:
        return []
    quarter = (3 * min(sizes) + max(sizes)) / 4
    places = (int(np.argmin(sizes)), int(np.argmin(np.abs(np.array(sizes) - quarter))))
    return [affordable[place] for place in places]


def _affordable(settings: Settings, space: SearchSpace, prepared: Prepared) -> list[dict[str, Any]]:
    """Return the architectures within the budgets; an empty list if there are too many to be in the cost table."""
    listed = _architectures(space, prepared) or []
    return [each for each in listed if not budget.over(prepared.costs.metrics(each), settings.budgets)]


def _architectures(space: SearchSpace, prepared: Prepared) -> list[dict[str, Any]] | None:
    """Return the architectures of the cost table; ``None`` if the space has too many of them."""
    listed = space.architectures(limit=MOST_ARCHITECTURES) or []
    return [one for one in listed if key_of(one) in prepared.costs.students] or None


def _minimized(name: str, cost: float) -> float:
    return 1 / cost if metric_named(name).is_maximized else cost
