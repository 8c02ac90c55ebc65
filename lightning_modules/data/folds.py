"""Cut samples into folds for cross-validation, always the same ones."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold
from torch import Tensor

MIN_FOLDS = 2
_SEED = 0  # folds are part of the dataset: no flag moves them


def check_folds(folds: object) -> int:
    """Return a number of folds.

    Raises:
        ValueError: If it is none.
    """
    if isinstance(folds, bool) or not isinstance(folds, Integral) or folds < MIN_FOLDS:
        raise ValueError(f"folds must be a whole number of at least {MIN_FOLDS}, but got {folds!r}.")
    return int(folds)


def fold_numbers(labels: Tensor, folds: int, groups: Sequence[Any] | None = None) -> NDArray[np.int64]:
    """Return the fold that validates each sample, from 0, shape (N,).

    Folds are of about equal size, and have each class in about the same proportion where labels are classes, shape
    (N,), whole numbers.

    Args:
        labels: Labels of the samples, first dimension N.
        folds: Number of folds.
        groups: The group of each sample, as a patient: samples of one group are in one fold. ``None`` for none.

    Raises:
        ValueError: If there are fewer samples, groups, or samples of a class than folds.
    """
    size = len(labels)
    has_classes = labels.ndim == 1 and not labels.is_floating_point()
    names = None if groups is None else _group_indices(groups, size)
    _check_enough(labels, folds, names, has_classes=has_classes)
    cut = _cutter(folds, grouped=names is not None, has_classes=has_classes)
    found = np.empty(size, dtype=np.int64)
    with warnings.catch_warnings():  # of a class with fewer samples than folds, which groups may have
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        parts = cut.split(np.zeros(size), labels.cpu().numpy() if has_classes else None, names)
        for fold, (_, held_out) in enumerate(parts):
            found[held_out] = fold
    return found


def _cutter(folds: int, *, grouped: bool, has_classes: bool) -> Any:
    if grouped and not has_classes:
        return GroupKFold(folds, shuffle=True, random_state=_SEED)
    kind = StratifiedGroupKFold if grouped else StratifiedKFold if has_classes else KFold
    return kind(folds, shuffle=True, random_state=_SEED)


def _group_indices(groups: Sequence[Any], size: int) -> NDArray[np.int64]:
    """Return the index of each sample's group."""
    values = groups.tolist() if hasattr(groups, "tolist") else list(groups)
    if len(values) != size:
        raise ValueError(f"groups must name the group of each of the {size:,} samples, but there are {len(values):,}.")
    places: dict[Any, int] = {}
    return np.array([places.setdefault(value, len(places)) for value in values])


def _check_enough(labels: Tensor, folds: int, groups: NDArray[np.int64] | None, *, has_classes: bool) -> None:
    """Check that each fold can have samples; of each class, where samples are cut one by one.

    Raises:
        ValueError: If one can't.
    """
    size, what = (len(labels), "samples") if groups is None else (int(groups.max()) + 1, "groups")
    if size < folds:
        raise ValueError(f"folds must be at most the number of {what}, {size:,}, but got {folds}.")
    if groups is None and has_classes:
        classes, counts = labels.unique(return_counts=True)
        if int(counts.min()) < folds:
            raise ValueError(
                f"each class must have a sample for each of {folds} folds, but class {int(classes[counts.argmin()])} "
                f"has {int(counts.min())}: take fewer folds, or leave the class out."
            )
