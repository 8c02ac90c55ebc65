"""What the contenders of ``benchmarks/against_tuners.py`` search, and the hypervolumes that they are to reach."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.core.pareto import hypervolume

MOST_PARAMETERS = 4.78  # log10, the reference point of every volume
WHOLE = 0.5  # accuracy, the reference point of the volume over all students


@dataclass(frozen=True)
class Goal:
    """A hypervolume to be reached by students of at least some accuracy.

    Attributes:
        volume: The hypervolume, of accuracy above ``floor`` and log10 of the parameters below ``MOST_PARAMETERS``.
        floor: The least accuracy that counts.
    """

    volume: float
    floor: float = WHOLE

    def __str__(self) -> str:
        return f"{self.volume:g}" if self.floor == WHOLE else f"{self.volume:g} in the region"


@dataclass(frozen=True)
class Race:
    """What is searched.

    Attributes:
        space: Name of the embedded space.
        widths: The least and the most of its students.
        epochs: Of a trial, as the space has them.
        floor: The least accuracy in the region of interest, as the harness has it by default.
        whole: Hypervolumes to be reached over all students, ascending.
        region: Hypervolumes to be reached in the region, ascending.
    """

    space: str
    widths: tuple[int, int]
    epochs: int
    floor: float
    whole: tuple[float, ...]
    region: tuple[float, ...]

    @property
    def goals(self) -> tuple[Goal, ...]:
        """Return the goals over all students, then those in the region, each ascending."""
        return (*map(Goal, self.whole), *(Goal(volume, self.floor) for volume in self.region))


RACES = {
    race.space: race
    for race in (
        # The grid of benchmarks/learning_curves.py has 1.131, and 0.221 in the region.
        Race("digits", widths=(2, 32), epochs=20, floor=0.888, whole=(0.98, 1.075, 1.1), region=(0.16, 0.19, 0.205)),
        # A study of 50 trials ended at 0.590, another at 0.229 in the region when it was at 0.583.
        Race(
            "fashion-mnist",
            widths=(2, 24),
            epochs=6,
            floor=0.743,
            whole=(0.56, 0.575, 0.583),
            region=(0.2, 0.22, 0.228),
        ),
    )
}


@dataclass(frozen=True)
class End:
    """A student that was trained to the end: when, in seconds since the epoch, and what it is."""

    time: float
    accuracy: float
    parameters: float


def volume(ends: Sequence[End], floor: float = WHOLE) -> float:
    """Return the hypervolume that students dominate above an accuracy."""
    points = [(end.accuracy, math.log10(end.parameters)) for end in ends]
    return hypervolume(points, (floor, MOST_PARAMETERS), ("maximize", "minimize"))


@dataclass(frozen=True)
class Run:
    """One run of a contender.

    Attributes:
        wall_s: Seconds from the start of the command until it had reached each goal; infinite if it never did.
        cpu_s: CPU seconds of all its processes until then, likewise.
        ran_s: Seconds until it was stopped, or ended.
        used_s: CPU seconds until then.
        trained: Students trained to the end.
        volumes: What they dominate over all accuracies, and in the region.
    """

    wall_s: tuple[float, ...]
    cpu_s: tuple[float, ...]
    ran_s: float
    used_s: float
    trained: int
    volumes: tuple[float, float]
