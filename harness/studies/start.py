"""Fingerprint of a network's start weights, which compares across processors."""

from __future__ import annotations

from dataclasses import dataclass

_TOLERANCE = 1e-3  # of the largest number: processors differ in the last bits, convolutions on a GPU in some more


@dataclass(frozen=True)
class Start:
    """The start weights of a network, as a fingerprint.

    Attributes:
        exact: A hash of what is the same on every processor.
        numbers: Numbers that differ between processors in the last bits only.
        digest: A hash that names it, as the processor that made it gives it.
    """

    exact: str
    numbers: tuple[float, ...]
    digest: str

    def is_like(self, other: Start) -> bool:
        """Return whether two networks have the same start weights, up to the precision of processors."""
        if self.exact != other.exact or len(self.numbers) != len(other.numbers):
            return False
        largest = max((abs(value) for value in (*self.numbers, *other.numbers)), default=0.0)
        return all(abs(a - b) <= _TOLERANCE * largest for a, b in zip(self.numbers, other.numbers, strict=True))
