"""What is known of a study's students before they train: whether they can be foreseen, the forecast, the small ones."""

from __future__ import annotations

from math import log
from typing import Any

import numpy as np

from harness.cost import budgets as budget
from harness.cost.table import MOST_ARCHITECTURES, key_of
from harness.metrics import METRICS
from harness.preparation.prepared import Prepared
from harness.sampling.candidates import Points
from harness.sampling.forecast import Forecast
from harness.settings import Settings
from harness.space import SearchSpace
from harness.studies.study import Study
from harness.trials.pruning import unprunable


def unforeseeable(space: SearchSpace, study: Study, prepared: Prepared) -> str | None:
    """Return why nothing can be said of what a student may add to the front before it trains; ``None`` if it can."""
    if _architectures(space, prepared) is None:
        return f"there are more than {MOST_ARCHITECTURES} architectures, and their costs are not known beforehand"
    return unprunable(study)


def forecast_of(settings: Settings, space: SearchSpace, study: Study, prepared: Prepared) -> Forecast | None:
    """Return the forecast of a study's students; ``None`` if they can't be foreseen, or another sampler is asked for.

    Args:
        settings: Name the sampler and the budgets.
        space: What varies, within the budgets as far as ranges can say it.
        study: The study.
        prepared: What every trial stands on.
    """
    if settings.sampler != "front" or unforeseeable(space, study, prepared):
        return None
    architectures = _affordable(settings, space, prepared)
    costs = map(prepared.costs.metrics, architectures)
    axes = [name for name in study.objectives if name != study.primary]
    return Forecast(
        space,
        points=Points(space),
        architectures=architectures,
        costs=np.array([[_small_is_good(name, its[name]) for name in axes] for its in costs], dtype=float),
        epochs=space.epochs,
        primary=study.primary,
        sign=study.primary_sign,
        bounds=study.primary_bounds,
        floor=study.region.floor,
        seed=settings.seed,
    )


def small_students(settings: Settings, space: SearchSpace, study: Study, prepared: Prepared) -> list[dict[str, Any]]:
    """The architecture of the fewest parameters, and the one a quarter of the way to the most, by their logarithms.

    Args:
        settings: Name the budgets; what is over them is none of these.
        space: What varies.
        study: The study.
        prepared: What every trial stands on.

    Returns:
        None where no cost is an objective, or none is within the budgets, or costs are not known beforehand.
    """
    if not any(METRICS[name].known_before_training for name in study.objectives if name != study.primary):
        return []
    affordable = _affordable(settings, space, prepared)
    sizes = [log(max(1, prepared.costs[architecture]["parameters"])) for architecture in affordable]
    if not sizes:
        return []
    quarter = (3 * min(sizes) + max(sizes)) / 4
    places = (int(np.argmin(sizes)), int(np.argmin(np.abs(np.array(sizes) - quarter))))
    return [affordable[place] for place in places]


def _affordable(settings: Settings, space: SearchSpace, prepared: Prepared) -> list[dict[str, Any]]:
    """Return all architectures that are within the budgets; none if they are too many for their costs to be known."""
    listed = _architectures(space, prepared) or []
    return [one for one in listed if not budget.over(prepared.costs.metrics(one), settings.budgets)]


def _architectures(space: SearchSpace, prepared: Prepared) -> list[dict[str, Any]] | None:
    """Return all of the space that memory suffices for; ``None`` if they are too many for their costs to be known."""
    listed = space.architectures(limit=MOST_ARCHITECTURES) or []
    return [one for one in listed if key_of(one) in prepared.costs.students] or None


def _small_is_good(name: str, cost: float) -> float:
    return 1 / cost if METRICS[name].is_maximized else cost
