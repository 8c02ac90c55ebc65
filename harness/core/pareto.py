"""Pareto front, hypervolume and knee of a set of points."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

DIRECTIONS = ("minimize", "maximize")


def pareto_front(values: ArrayLike, directions: Sequence[str] | None = None) -> NDArray[np.int64]:
    """Return the positions of the points that no other point dominates.

    A point dominates another if it is at least as good in each objective and better in one. Equal points do not
    dominate each other: all of them are on the front, or none.

    Args:
        values: Points, shape (N, M); N may be 0.
        directions: ``"minimize"`` or ``"maximize"`` for each objective; all are minimised by default.

    Returns:
        Positions in ``values``, ascending, int64.

    Raises:
        ValueError: If the shape is wrong, a value is NaN or a direction is unknown.
    """
    costs = _as_costs(values, directions)
    if len(costs) == 0:
        return np.empty(0, dtype=np.int64)
    # In lexicographic order a point can only be dominated by one before it, or be equal to it.
    order = np.lexsort(costs.T[::-1])
    front: list[int] = []
    kept = np.empty_like(costs)
    for position in order:
        point, others = costs[position], kept[: len(front)]
        dominated = (others <= point).all(axis=1) & (others < point).any(axis=1)
        if not dominated.any():
            kept[len(front)] = point
            front.append(int(position))
    return np.sort(np.array(front, dtype=np.int64))


def front_by_spread(
    values: ArrayLike, spreads: Sequence[float], directions: Sequence[str] | None = None
) -> NDArray[np.int64]:
    """Return the positions of points that are on a front only by differences within the noise of measurement.

    Values of an objective count as equal if they differ by no more than its spread, as a share of the smaller one. The
    points returned are those that another point then dominates.

    Args:
        values: The points of the front, shape (F, M); F may be 0.
        spreads: Relative measurement noise of each objective; 0 for an exact one.
        directions: ``"minimize"`` or ``"maximize"`` for each objective; all are minimised by default.

    Returns:
        Positions in ``values``, ascending, int64.

    Raises:
        ValueError: If the shape is wrong, a value is NaN or a direction is unknown.
    """
    costs = _as_costs(values, directions)
    sizes = np.abs(costs)
    found = []
    for position, (point, size) in enumerate(zip(costs, sizes, strict=True)):
        margins = np.minimum(sizes, size) * np.asarray(spreads)
        is_beaten = (costs <= point + margins).all(axis=1) & (costs < point - margins).any(axis=1)
        if is_beaten.any():
            found.append(position)
    return np.array(found, dtype=np.int64)


def hypervolume(values: ArrayLike, reference_point: ArrayLike, directions: Sequence[str] | None = None) -> float:
    """Return the volume that the points dominate, up to a reference point.

    Exact, by sweeping the last objective over slices of one dimension less: for the fronts of a study (M up to 4), not
    for hundreds of points in many dimensions.

    Args:
        values: Points, shape (N, M); those that are not better than the reference point everywhere add nothing.
        reference_point: Worst corner of the volume, shape (M,), in the units of ``values``.
        directions: ``"minimize"`` or ``"maximize"`` for each objective; all are minimised by default.

    Returns:
        The product of the objectives' units, at least 0.

    Raises:
        ValueError: If the shapes do not fit, a value is NaN or a direction is unknown.
    """
    costs = _as_costs(values, directions)
    reference = _as_costs(np.atleast_2d(np.asarray(reference_point, dtype=float)), directions)[0]
    if len(costs) == 0:
        return 0.0
    if costs.shape[1] != len(reference):
        raise ValueError(
            f"reference_point must have a value for each of {costs.shape[1]} objectives, but got {len(reference)}."
        )
    inside = costs[(costs < reference).all(axis=1)]
    return _volume(inside[pareto_front(inside)], reference)


def knee(losses: ArrayLike, costs: ArrayLike) -> int:
    """Return the position of a front's knee, beyond which more cost reduces the loss little.

    Each axis is scaled to [0, 1] over the front; several costs are averaged. The knee is the point farthest below the
    line between the best and the cheapest end: the one with the smallest sum of scaled loss and cost.

    Args:
        losses: Shape (N,), N at least 1; the lower the better.
        costs: Shape (N, K), K may be 0; the lower the better. Pass logarithms of costs that grow by factors.

    Returns:
        A position; of equal points, the first.

    References:
        Das (1999), On characterizing the "knee" of the Pareto curve. doi:10.1007/BF01195985.
    """
    loss = _scaled(np.asarray(losses, dtype=float)[:, None])[:, 0]
    cost = _scaled(np.asarray(costs, dtype=float).reshape(len(loss), -1))
    return int(np.argmin(loss + (cost.mean(axis=1) if cost.shape[1] else 0)))


def _scaled(values: NDArray[np.float64]) -> NDArray[np.float64]:
    low, high = values.min(axis=0), values.max(axis=0)
    scaled: NDArray[np.float64] = (values - low) / np.where(high > low, high - low, 1)
    return scaled


def _as_costs(values: ArrayLike, directions: Sequence[str] | None) -> NDArray[np.float64]:
    """Return the points as an array (N, M) of objectives to be minimised."""
    costs = np.array(values, dtype=float)
    if costs.size == 0:
        costs = costs.reshape(0, costs.shape[1] if costs.ndim == 2 else len(directions or ()))
    if costs.ndim != 2:
        raise ValueError(f"values must have shape (N, M), but got shape {costs.shape}.")
    if np.isnan(costs).any():
        raise ValueError("values must not be NaN.")
    if directions is None:
        return costs
    if len(directions) != costs.shape[1] or not set(directions) <= set(DIRECTIONS):
        raise ValueError(
            f"directions must name one of {DIRECTIONS} for each of {costs.shape[1]} objectives, but got {directions=}."
        )
    return costs * np.where(np.array(directions) == "maximize", -1.0, 1.0)


def _volume(front: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    if len(front) == 0:
        return 0.0
    if front.shape[1] == 1:
        return float(reference[0] - front[:, 0].min())
    ordered = front[np.argsort(front[:, -1], kind="stable")]
    ends = np.append(ordered[1:, -1], reference[-1])
    volume = 0.0
    for count, (start, end) in enumerate(zip(ordered[:, -1], ends, strict=True), start=1):
        if end > start:
            part = ordered[:count, :-1]
            volume += (end - start) * _volume(part[pareto_front(part)], reference[:-1])
    return float(volume)
