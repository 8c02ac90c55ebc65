"""Define what every training of a study needs: its context, the display and the mirror that it reports to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from harness.preparation.prepared import Prepared
from harness.settings import Settings
from harness.space import SearchSpace
from harness.studies.study import Study


class MirrorClient(Protocol):
    """Client of the mirror, which sends spools to MLflow: the mirror itself, or its proxy in a worker process."""

    def notify(self, folder: Path) -> None:
        """Announce that the spool in a run's folder has new events."""


class Display(Protocol):
    """Display of the trainings' progress: the terminal's, or its proxy in a worker process.

    ``number`` identifies a training: a trial by its number, a retraining by its index in the list.
    """

    def started(self, number: int, params: dict[str, Any], resumed_after: int | None) -> None:
        """Show that a training starts, or resumes after ``resumed_after`` epochs."""

    def epoch(self, number: int, epoch: int) -> None:
        """Show that an epoch of a training has ended; the first is 0."""

    def finished(self, number: int, metrics: dict[str, float]) -> None:
        """Show that a student was trained to the end."""

    def pruned(self, number: int, reason: str) -> None:
        """Show that a trial was pruned, for it can no longer reach the front."""

    def failed(self, number: int, reason: str) -> None:
        """Show that a training failed by its own fault."""

    def interrupted(self, number: int, reason: str) -> None:
        """Show that a worker lost its training; another worker resumes it."""

    def waiting(self, running: int) -> None:
        """Show that no trial is left to claim, while ``running`` of them are run by workers that may lose them."""

    def message(self, text: str) -> None:
        """Show a message that concerns no single training."""


@dataclass(frozen=True, kw_only=True)
class TrialContext:
    """What every training of a study needs.

    Attributes:
        settings: How the study is searched.
        space: The search space, with the values that the user fixed.
        study: The study, which stores results and costs.
        prepared: Data with teacher outputs, and the cost table.
        mirror: Notified of each training's events.
    """

    settings: Settings
    space: SearchSpace
    study: Study
    prepared: Prepared
    mirror: MirrorClient
