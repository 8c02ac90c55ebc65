"""Wall times of networks in rounds, kept in a file so that an interrupted measurement loses none."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from harness.core.content import write_atomically

ROUNDS = 30  # over all networks, where there is time; so often is each measured
FEWEST_ROUNDS = 5  # of a student that is measured by itself, when a trial asks for it
CALLS_A_ROUND = 5
_KEPT_APART_S = 0.5  # between two writings of what was measured: rounds of small networks take less


class Rounds:
    """Wall times by network and round, kept in a file as they are measured.

    Args:
        file: Where they are kept, and read from if a measurement was interrupted; ``None`` keeps them nowhere.

    Attributes:
        throughput_batch: Samples in the larger of the two batches, once it is chosen.
        calls: Wall times of single calls, s: for each network, for each round, some.
        batches: Those of a larger batch: for each network, for each round, one.
        spent_s: Seconds that measuring has taken.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._kept_at = time.monotonic()
        self.throughput_batch: int | None = None
        self.calls: dict[str, list[list[float]]] = {}
        self.batches: dict[str, list[float]] = {}
        self.spent_s = 0.0
        if file is not None:
            # What is missing or was damaged is measured anew.
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                kept = json.loads(file.read_text(encoding="utf-8"))
                self.calls, self.batches = dict(kept["calls"]), dict(kept["batches"])
                self.throughput_batch, self.spent_s = int(kept["throughput_batch"]), float(kept["spent_s"])

    def done(self, names: Sequence[str]) -> int:
        """Return how many complete rounds there are of all these networks."""
        return min(self.single(names), *(len(self.batches.get(name, ())) for name in names))

    def single(self, names: Sequence[str]) -> int:
        """Return how many rounds of single calls there are of all these networks, whatever the larger batch."""
        return min(len(self.calls.get(name, ())) for name in names)

    def choose_batch(self, size: int) -> None:
        """Measure a larger batch of ``size`` from now on; single calls are kept, batches of another size dropped."""
        if size != self.throughput_batch:
            self.throughput_batch, self.batches = size, {}

    def could_go_on(self, names: Sequence[str], limit_s: float) -> bool:
        """Return whether there is time for another round over all of these networks."""
        return self.done(names) < ROUNDS and self.spent_s + self._round_s(names) <= limit_s

    def could_take_more(self, names: Sequence[str], limit_s: float, *, most: int) -> bool:
        """Return whether a round with twice the larger batch, up to ``most``, takes at most half of the time left."""
        size = 2 * (self.throughput_batch or most)
        return size <= most and self._round_s(names, larger=2) <= (limit_s - self.spent_s) / 2

    def _round_s(self, names: Sequence[str], *, larger: float = 1) -> float:
        """Estimate the seconds of a round with a larger batch ``larger`` times as large; infinity before any."""
        if not self.done(names):
            return math.inf
        return sum(
            (1 + CALLS_A_ROUND) * float(np.mean(np.concatenate(self.calls[name])))
            + 2 * larger * float(np.mean(self.batches[name]))
            for name in names
        )

    def add(self, name: str, calls: list[float], batch: float, *, number: int) -> None:
        """Add a network's round ``number``, in place of what an interruption left of it."""
        self.calls.setdefault(name, [])[number : number + 1] = [calls]
        self.batches.setdefault(name, [])[number : number + 1] = [batch]

    def keep(self, *, at_once: bool = False) -> None:
        """Write the rounds to the file, at most twice a second unless ``at_once``."""
        if self._file is None or not (at_once or time.monotonic() - self._kept_at > _KEPT_APART_S):
            return
        kept = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        write_atomically(self._file, lambda path: path.write_text(json.dumps(kept), encoding="utf-8"))
        self._kept_at = time.monotonic()

    @property
    def spread(self) -> float | None:
        """Return the largest distance, over all networks, of the quartiles of the rounds' medians from their median.

        A share of that median, rounded up to whole percents; ``None`` where there are fewer than two rounds.
        """
        if not self.calls or self.single(list(self.calls)) < 2:
            return None
        medians = [np.median(calls, axis=1) for calls in self.calls.values()]
        widest = max(float(np.abs(np.percentile(of, (25, 75)) / np.median(of) - 1).max()) for of in medians)
        return math.ceil(100 * widest) / 100

    def __str__(self) -> str:
        spread = self.spread
        if spread is None:
            return "p50 of 1 round"
        return f"p50 of {self.single(list(self.calls))} rounds, quartiles within {round(100 * spread)} %"
