"""What tells a network from another one, on whatever processor each was made."""

from __future__ import annotations

from dataclasses import dataclass

_CLOSE = 1e-3  # of the largest number: processors differ in the last bits, and convolutions on a GPU in some more


@dataclass(frozen=True)
class Start:
    """What a network starts from.

    Attributes:
        exact: A hash of what is the same on every processor.
        numbers: What is the same there but for the last bits.
        digest: What it is called on the processor that made it.
    """

    exact: str
    numbers: tuple[float, ...]
    digest: str

    def is_like(self, other: Start) -> bool:
        """Return whether two networks start from the same."""
        if self.exact != other.exact or len(self.numbers) != len(other.numbers):
            return False
        largest = max((abs(value) for value in (*self.numbers, *other.numbers)), default=0.0)
        return all(abs(a - b) <= _CLOSE * largest for a, b in zip(self.numbers, other.numbers, strict=True))
