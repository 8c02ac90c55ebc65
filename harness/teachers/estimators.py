"""What is asked of an estimator with scikit-learn's interface: whether it is fitted, its classes, its seeds."""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.core.content import derived_seed
from harness.core.errors import Unfit

SCORES = ("predict_proba", "decision_function")
"""Methods by which an estimator may give each class a number; the first gives probabilities."""


def rows_of(rows: Any, chosen: np.ndarray) -> Any:
    """Return some rows of an array, a sparse matrix, a data frame or a list."""
    if hasattr(rows, "iloc"):
        return rows.iloc[chosen]
    return [rows[place] for place in chosen] if isinstance(rows, list | tuple) else rows[chosen]


def is_fitted(estimator: Any) -> bool:
    """Return whether an estimator was fitted before it came here."""
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    try:
        check_is_fitted(estimator)
    except (NotFittedError, TypeError):
        return False
    return True


def check_answers(estimator: Any, scores: str) -> None:
    """Check that an estimator answers with a probability for each class, or with what was asked for in its place.

    Raises:
        Unfit: If it does not.
    """
    who = f"the {type(estimator).__name__} that teaches"
    if hasattr(estimator, scores):
        return
    if scores == SCORES[0] and hasattr(estimator, SCORES[1]):
        raise Unfit(
            f"{who} has no predict_proba, and its decision_function has a scale of its own, which is no log odds",
            "calibrate it, CalibratedClassifierCV(estimator), or say scores='decision_function' if its values are "
            "logits all the same",
        )
    raise Unfit(f"{who} must be a classifier with {scores}, but has none", "take a classifier")


def classes_of(estimator: Any) -> list[Any]:
    """Return the classes of a fitted classifier, as it was given them.

    Raises:
        Unfit: If it is no classifier of one label a sample.
    """
    classes = getattr(estimator, "classes_", None)
    if classes is None or any(isinstance(one, np.ndarray | list) for one in classes):
        raise Unfit(
            f"the {type(estimator).__name__} that teaches must be a classifier of one label a sample, with classes_",
            "fit it on one label a sample",
        )
    return list(classes)


def seeded_copy(given: Any, seed: int) -> tuple[Any, list[str]]:
    """Return an unfitted copy with each ``random_state`` that is ``None`` set from a seed, and the names of these."""
    from sklearn.base import clone

    estimator = clone(given)
    names = [
        name
        for name, value in sorted(estimator.get_params(deep=True).items())
        if value is None and (name == "random_state" or name.endswith("__random_state"))
    ]
    estimator.set_params(**{name: derived_seed(seed, "teacher", name) for name in names})
    return estimator, names
