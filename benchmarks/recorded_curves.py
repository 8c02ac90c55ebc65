"""The learning curves of a grid, as ``learning_curves.py`` has recorded them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from learning_curves import EPOCHS, GRIDS, SEEDS

from harness.cost.table import key_of

FLOORS = {"digits": 0.888, "fashion-mnist": 0.743}
"""The least accuracy in the region of interest, as a search has it by default."""
Place = tuple[int, ...]
"""A configuration of a grid: the place of each parameter's value."""


class Curves:
    """The learning curves of a grid.

    Attributes:
        space: Name of the space.
        names: The grid's parameters; the first one is the width.
        shape: How many values each has.
        accuracy: After each epoch, shape (*grid, seeds, epochs), of the training seeds whose runs are all there.
        seeds: How many those are.
        size: log10 of the parameters of the student of each width.
        macs: Of one sample, likewise.
    """

    def __init__(self, space: str, runs_dir: Path) -> None:
        grid = GRIDS[space]
        self.space = space
        self.names, self.epochs = list(grid), EPOCHS[space]
        self.shape = tuple(len(values) for values in grid.values())
        accuracy = np.full((*self.shape, SEEDS, self.epochs), np.nan)
        file = runs_dir / "curves" / f"{space}.jsonl"
        for line in file.read_text().splitlines() if file.exists() else []:
            run = json.loads(line)
            place = tuple(grid[name].index(run[name]) for name in grid)
            accuracy[(*place, run["seed"])] = run["accuracy"]
        whole = ~np.isnan(accuracy[..., -1].reshape(-1, SEEDS)).any(axis=0)
        if not whole.any():
            raise SystemExit(f"no grid in {file} is whole; benchmarks/learning_curves.py trains its runs.")
        self.accuracy = accuracy[..., whole, :]
        self.seeds = int(whole.sum())
        costs = json.loads(file.with_suffix(".costs.json").read_text())
        self.size = [math.log10(costs[key_of({"width": width})]["parameters"]) for width in grid["width"]]
        self.macs = [costs[key_of({"width": width})]["macs"] for width in grid["width"]]

    def places(self) -> Iterator[Place]:
        """Yield every configuration."""
        return np.ndindex(*self.shape)
