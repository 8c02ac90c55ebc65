"""Read what a teacher said from a table (Parquet, CSV, JSON lines) or from arrays (.npz, .safetensors)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from harness.teachers.answers import KINDS, LABELS, LOG_PROBABILITIES, LOGITS, PROBABILITIES, TOP_K, VALUES
from harness.teachers.joining import Keys

SUFFIXES = (".parquet", ".csv", ".jsonl", ".npz", ".safetensors")

_KEYS = {"id": "ids", "ids": "ids", "split": "splits", "row": "rows", "view": "views"}
"""Columns and arrays that say which sample a row is of."""
_LABEL = ("label", "labels")
_VALUE = "value"
_TOP_K = ("top_k_classes", "top_k_probabilities")


class Found(NamedTuple):
    """Outputs of a file.

    Attributes:
        keys: What each row is of.
        values: What was said, as ``StoredOutputs`` takes it.
        kind: One of ``harness.teachers.answers.KINDS``.
        classes: Names of the columns; ``None`` where they have none.
        is_guessed: Whether the kind is guessed from the numbers.
    """

    keys: Keys
    values: Any
    kind: str
    classes: list[str] | None
    is_guessed: bool = False


def holds_outputs(path: Path) -> bool:
    """Return whether a file of safetensors holds a teacher's outputs, and not its weights."""
    try:
        with safe_open(path, framework="np") as reader:
            names = set(reader.keys())
    except (SafetensorError, OSError):
        return False
    return bool(names & {*_KEYS}) and bool(names & {*KINDS, *_LABEL, *_TOP_K})


def read_outputs(path: Path) -> Found:
    """Read outputs from a file.

    Raises:
        ValueError, OSError: If they can't be read, or do not say what they are.
    """
    if path.suffix in (".npz", ".safetensors"):
        return _of_arrays(_arrays(path))
    return _of_table(_table(path), is_untyped=path.suffix == ".csv")


def _arrays(path: Path) -> dict[str, np.ndarray]:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return {name: value.float().numpy() if value.is_floating_point() else value.numpy()
                for name, value in load_file(path).items()}  # fmt: skip
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except Exception as error:  # of a zip file, of its members, of pickled objects
        raise ValueError(
            f"must be a file that np.savez wrote, of numbers and texts and no pickled objects, but can't be read "
            f"({error})"
        ) from error


def _of_arrays(arrays: dict[str, np.ndarray]) -> Found:
    found: dict[str, Any] = {_KEYS[name]: value for name, value in arrays.items() if name in _KEYS}
    keys = Keys(**found)
    classes = [str(one) for one in arrays["classes"].tolist()] if "classes" in arrays else None
    if set(_TOP_K) <= arrays.keys():
        return Found(keys, tuple(arrays[name] for name in _TOP_K), TOP_K, None)
    kinds = [kind for kind in (*KINDS, "label") if kind in arrays]
    if len(kinds) != 1:
        raise ValueError(
            f"must hold one of {', '.join(kind for kind in KINDS if kind != TOP_K)} or {' and '.join(_TOP_K)}, but "
            f"holds {', '.join(arrays)}"
        )
    kind = LABELS if kinds[0] in _LABEL else kinds[0]
    return Found(keys, arrays[kinds[0]], kind, classes)


def _table(path: Path) -> Any:
    import pandas as pd

    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        if path.suffix == ".jsonl":
            return pd.read_json(path, lines=True, dtype=False, precise_float=True)
        return pd.read_csv(path, dtype={"id": str, "ids": str}, keep_default_na=False, na_values=[""])
    except Exception as error:  # pandas has many of its own
        raise ValueError(f"must be a table of outputs, but can't be read ({error})") from error


def _of_table(table: Any, *, is_untyped: bool) -> Found:
    names = {name: name.strip() if isinstance(name, str) else str(name) for name in table.columns}
    table = table.rename(columns=names)
    keys = Keys(**{_KEYS[name]: table[name] for name in table.columns if name in _KEYS}, is_untyped=is_untyped)
    rest = [name for name in table.columns if name not in _KEYS]
    if len(rest) == 1 and rest[0] in _LABEL:
        return Found(keys, table[rest[0]].to_numpy(), LABELS, None)
    if len(rest) == 1 and rest[0] == _VALUE:
        return Found(keys, table[rest].to_numpy(dtype=float), VALUES, None)
    if len(rest) == 1 and rest[0] in KINDS:
        return _of_cells(keys, table[rest[0]].tolist(), rest[0])
    if len(rest) < 2:
        raise ValueError(
            f"must have a column for each class, a column label or value, or one of {', '.join(KINDS)} with lists, "
            f"beside {', '.join(_KEYS)}; but has {', '.join(table.columns)}"
        )
    values = table[rest].to_numpy()
    try:
        values = values.astype(float)
    except (TypeError, ValueError):
        raise ValueError(f"must have numbers in its columns of classes ({', '.join(rest[:5])}), but has not") from None
    return Found(keys, values, _kind_of(values), rest, is_guessed=True)


def _of_cells(keys: Keys, cells: list[Any], kind: str) -> Found:
    """Return outputs that one column holds: lists in the task's order, or an object with a value for each class."""
    if kind == TOP_K:
        if not all(isinstance(one, dict) for one in cells):
            raise ValueError('must have objects in its column top_k, as {"cat": 0.9, "dog": 0.05}')
        k = max((len(one) for one in cells), default=0)
        names = np.array([[*one, *[""] * (k - len(one))] for one in cells], dtype=object)
        shares = np.array([[*one.values(), *[0.0] * (k - len(one))] for one in cells], dtype=float)
        return Found(keys, (names, shares), kind, None)
    if all(isinstance(one, dict) for one in cells):
        classes = list(cells[0])
        for place, one in enumerate(cells):
            if one.keys() != set(classes):
                raise ValueError(
                    f"must have the same classes in each row, but {keys.name(place)} has {', '.join(map(str, one))}"
                )
        return Found(keys, np.array([[one[name] for name in classes] for one in cells], dtype=float), kind, classes)
    lengths = {len(one) if hasattr(one, "__len__") and not isinstance(one, str) else -1 for one in cells}
    if len(lengths) != 1 or -1 in lengths:
        raise ValueError(f"must have lists of one length in its column {kind}, or objects with a value for each class")
    return Found(keys, np.array([list(one) for one in cells], dtype=float), kind, None)


def _kind_of(values: np.ndarray) -> str:
    """Return what kind of numbers most rows are, for a table of classes does not say; rows that differ are refused."""
    with np.errstate(over="ignore", invalid="ignore"):
        if (values >= 0).mean() > _MOST and (np.abs(values.sum(1) - 1) < _SUM).mean() > _MOST:
            return PROBABILITIES
        if (values <= 0).mean() > _MOST and (np.abs(np.exp(values).sum(1) - 1) < _SUM).mean() > _MOST:
            return LOG_PROBABILITIES
    return LOGITS


_MOST, _SUM = 0.5, 1e-2
