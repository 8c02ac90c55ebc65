"""Fitted estimators in a file of skops: read without running code, of types that are trusted by name alone."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.core.content import write_atomically
from harness.core.errors import HarnessError, one_line
from harness.teachers.black_box import missing_extra

_TRUSTED = frozenset(
    {
        "sklearn.calibration._CalibratedClassifier",
        "sklearn.calibration._SigmoidCalibration",
        "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
        "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
        "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
        "sklearn.tree._tree.Tree",
        "sklearn.utils._bunch.Bunch",
    }
)
"""Parts of scikit-learn's estimators that skops leaves to its users. Those with pointers, the trees, are checked."""


class Untrusted(Exception):
    """An estimator has parts of types that are not trusted, and is neither kept nor read."""


def save_estimators(estimators: Sequence[Any], file: Path, key: str) -> None:
    """Write estimators to a file.

    Raises:
        Untrusted: If they could not be read again without trusting more types.
    """
    try:
        io = _skops()
        content = io.dumps({"key": key, "estimators": list(estimators)})
        unknown = _unknown(io.get_untrusted_types(data=content))
    except HarnessError as error:
        raise Untrusted(one_line(error).rstrip(".")) from error
    except Exception as error:  # of an object that skops can't write
        raise Untrusted(f"skops can't write it ({error})") from error
    if unknown:
        raise Untrusted(f"it has parts of {', '.join(unknown)}, which are no part of scikit-learn")
    write_atomically(file, lambda path: path.write_bytes(content))


def load_estimators(file: Path, key: str | None = None) -> list[Any]:
    """Read estimators: those that ``save_estimators`` wrote under a key, or a single one of a user.

    Raises:
        Untrusted: If there are parts of types that are not trusted.
        ValueError, OSError: If the file is damaged, or was written under another key.
    """
    io = _skops()
    content = file.read_bytes()
    try:
        types = io.get_untrusted_types(data=content)
    except (zipfile.BadZipFile, KeyError, AttributeError, ImportError, TypeError) as error:
        raise ValueError(f"is no such file, or damaged ({error})") from error
    if unknown := _unknown(types):
        raise Untrusted(f"holds {', '.join(unknown)}")
    try:
        found = io.loads(content, trusted=types)
    except Exception as error:  # whatever a part raises that is not as it was written
        raise ValueError(f"is damaged ({error})") from error
    _check_trees(found)
    if key is None:
        return [found]
    if not isinstance(found, dict) or found.get("key") != key:
        raise ValueError("its content does not match its key")
    return list(found["estimators"])


def _skops() -> Any:
    try:
        from skops import io
    except ImportError as error:
        raise missing_extra("skops", "sklearn", "keeping an estimator") from error
    return io


def _unknown(types: Sequence[str]) -> list[str]:
    return sorted(set(types) - _TRUSTED)


def _check_trees(found: Any) -> None:
    """Check that no tree points outside of itself: its code follows what a file says without a look.

    Raises:
        ValueError: If one does.
    """
    left, seen = [found], set[int]()
    while left:
        one = left.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if type(one).__name__ == "Tree" and hasattr(one, "children_left"):
            inner = one.children_left >= 0
            _check_within(np.stack([one.children_left[inner], one.children_right[inner]]), one.node_count)
            _check_within(one.feature[inner], one.n_features)
        elif type(one).__name__ == "TreePredictor":
            inner = one.nodes[one.nodes["is_leaf"] == 0]
            _check_within(np.stack([inner["left"], inner["right"]]), len(one.nodes))
        elif isinstance(one, dict):
            left += one.values()
        elif isinstance(one, list | tuple | set):
            left += one
        elif isinstance(one, np.ndarray):
            left += one.ravel().tolist() if one.dtype == object else []
        elif hasattr(one, "__dict__"):
            left += vars(one).values()


def _check_within(places: np.ndarray, size: int) -> None:
    if places.size and not 0 <= int(places.min()) <= int(places.max()) < size:
        raise ValueError("is damaged (a tree points outside of itself)")
