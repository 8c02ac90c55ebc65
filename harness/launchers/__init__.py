"""Start workers here, on Slurm or on Ray; a worker does not know which launcher started it."""

from __future__ import annotations

from collections.abc import Callable

from harness.launchers.placement import Placement
from harness.outcome import Outcome
from harness.settings import Settings


def launch(settings: Settings, placement: Placement, next_steps: Callable[[Outcome], str]) -> None:
    """Search here, or let a scheduler start the workers and monitor them.

    Args:
        settings: What every worker does.
        placement: Where they run.
        next_steps: Returns what is printed at the end of a search, where it runs. A scheduler's workers import it.

    Raises:
        HarnessError: For a mistake that a person can correct.
        Interrupted: After a signal; nothing is lost.
    """
    if placement.launcher == "local":
        from harness.session import search_and_print

        search_and_print(settings, next_steps)
        return
    from harness.launchers.monitor import monitor

    if placement.launcher == "slurm":
        from harness.launchers import slurm

        monitor(slurm.submit(settings, placement, next_steps), settings, placement)
    else:
        from harness.launchers import ray

        monitor(ray.submit(settings, placement, next_steps), settings, placement)
