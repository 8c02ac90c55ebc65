"""Launchers start workers, and do nothing else; a worker does not know which of them started it."""

from __future__ import annotations

from harness.launchers.placement import Placement
from harness.settings import Settings


def launch(settings: Settings, placement: Placement) -> None:
    """Search here, or let a scheduler start the workers and watch them.

    Args:
        settings: What every worker does.
        placement: Where they run.

    Raises:
        HarnessError: For whatever the person can mend.
        Interrupted: After a signal; nothing is lost.
    """
    if placement.launcher == "local":
        from harness.session import run_search

        run_search(settings)
        return
    from harness.launchers.monitor import attend

    if placement.launcher == "slurm":
        from harness.launchers import slurm

        attend(slurm.submit(settings, placement), settings, placement)
    else:
        from harness.launchers import ray

        attend(ray.submit(settings, placement), settings, placement)
