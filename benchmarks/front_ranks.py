"""The priority that MO-ASHA is described with, for Syne Tune's own does not give it.

Syne Tune 0.16.0 sorts the trials at a rung by fronts, and reads the sorted *numbers* of the trials as their priorities
(``NonDominatedPriority.priority_unsafe``): a trial that dominates all those before it has the last. Here the rank of
each is its priority, as in Schmucker et al. (2021), arXiv:2106.12639: by fronts, and within a front spread widely.
"""

from __future__ import annotations

import numpy as np
from syne_tune.optimizer.schedulers.multiobjective.non_dominated_priority import compute_epsilon_net, pareto_efficient


def front_ranks(objectives: np.ndarray) -> np.ndarray:
    """Ranks of trials by the fronts that they stand on, the foremost first; shape (trials,).

    Args:
        objectives: All to be made small, shape (trials, objectives).
    """
    ranks, left, ranked = np.empty(len(objectives), dtype=int), np.arange(len(objectives)), 0
    while left.size:
        is_foremost = pareto_efficient(objectives[left])
        front = left[is_foremost]
        ranks[front] = ranked + compute_epsilon_net(objectives[front], dim=0)  # which gives ranks
        left, ranked = left[~is_foremost], ranked + len(front)
    return ranks
