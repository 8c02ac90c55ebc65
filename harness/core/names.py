"""Valid names of parameters and metrics, the same in tables, flags and logs.

A parameter has the name of an argument of ``student()``. If a table has another column of that name, the parameter's
column is ``params.<name>``. A metric's name must be unique. In MLflow ``_`` replaces the characters that it refuses.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

LONGEST = 200  # characters; MLflow takes 250, with prefixes as "val/"
FOLD_SPREAD = "fold_spread"
"""The standard deviation of the primary metric over folds, of a trial whose score is their mean."""
COLUMNS = (
    *("number", "state", "recipe", "reason", "started", "finished"),
    *("front", "pick", "control", "tuned_control", "gain_over", "gain", FOLD_SPREAD),
)
"""Columns of a table of trials beside parameters and metrics."""
_LOSSES = ("loss", "hard_loss", "soft_loss", "temperature", "alpha")
_PREFIXES = ("train/", "val/", "test/", "params.")


def check_parameter_names(names: Iterable[str]) -> None:
    """Check that parameters have valid names, which differ in MLflow too.

    Raises:
        ValueError: If one can't be given in a flag, or two are logged under one name.
    """
    logged: dict[str, str] = {}
    for name in names:
        _check_name("a parameter", name)
        if (other := logged.setdefault(logged_name(name), name)) != name:
            raise ValueError(
                f"parameters must have different names in MLflow, which has neither {name!r} nor {other!r} as it is, "
                f"but both would be {logged_name(name)!r}; call the argument of student() otherwise."
            )


def check_metric_name(name: str, others: Iterable[str]) -> None:
    """Check that a task's metric has a valid and unique name.

    Args:
        name: Its name.
        others: Names of the metrics that every trial has (``harness.metrics.METRICS``).

    Raises:
        ValueError: If it can't be given in a flag, or names another column or curve.
    """
    _check_name("metric_name", name)
    logged = logged_name(name)
    if {name, logged} & {*others, *COLUMNS, *_LOSSES} or name.startswith(_PREFIXES):
        mlflow = "" if logged == name else f" (in MLflow {logged!r})"
        raise ValueError(
            f"metric_name must be a name of its own, but {name!r}{mlflow} has another meaning, as a column or a curve; "
            f"call it otherwise, as 'task_{name.rpartition('/')[2]}'."
        )


def _check_name(what: str, name: str) -> None:
    if not isinstance(name, str):
        raise ValueError(f"{what} must be a string, but got {name!r}.")
    if not 0 < len(name) <= LONGEST:
        raise ValueError(f"{what} must have 1 to {LONGEST} characters, but got {len(name)}: {name[:40]!r}")
    bad = [character for character in name if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")]
    if bad or name != name.strip() or set(name) & set(",="):
        raise ValueError(
            f"{what} must have no comma, '=', line break or other control character, and no blank at its ends, for "
            f"flags name it, but got {name!r}."
        )


def logged_name(name: str) -> str:
    """Return a name for MLflow, with ``_`` for characters that it refuses: ``recall_1`` for ``recall@1``."""
    shown = re.sub(r"[^\w.\-: /]", "_", name)
    # A path within the run's folder: MLflow refuses empty parts and parts of dots.
    return "/".join(
        part if part not in ("", ".") and not part.startswith("..") else f"_{part.lstrip('.')}"
        for part in shown.split("/")
    )


def column_names(parameters: Iterable[str], others: Iterable[str]) -> dict[str, str]:
    """Return the column of each parameter, by its name: ``params.<name>`` where another column has its name.

    ``params.`` is repeated until the column is unique.
    """
    columns = {name: name for name in parameters}
    taken = {*others}
    for name in columns:
        while columns[name] in taken or (columns[name] != name and columns[name] in columns):
            columns[name] = f"params.{columns[name]}"
    return columns
