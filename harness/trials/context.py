"""What every training of a study stands on, and who is told of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from harness.preparation.prepared import Prepared
from harness.settings import Settings
from harness.space import SearchSpace
from harness.studies.study import Study


class Notified(Protocol):
    """Who sends spools to MLflow: the mirror, or what stands for it in another process."""

    def notify(self, folder: Path) -> None:
        """Say that a run's spool has news."""


class Display(Protocol):
    """Who shows what trainings do: the terminal, or what stands for it in another process.

    A training is known by its number: a trial by its own, another training by its place in the list.
    """

    def started(self, number: int, params: dict[str, Any], resumed_after: int | None) -> None:
        """Show that a training begins, or goes on after ``resumed_after`` epochs."""

    def epoch(self, number: int, epoch: int) -> None:
        """Show that an epoch of a training ended."""

    def finished(self, number: int, metrics: dict[str, float]) -> None:
        """Show that a student was trained to the end."""

    def pruned(self, number: int, reason: str) -> None:
        """Show that a trial was stopped because it has no chance of the front any more."""

    def failed(self, number: int, reason: str) -> None:
        """Show that a training failed by its own doing."""

    def cut(self, number: int, reason: str) -> None:
        """Show that a training's worker lost it; another worker goes on with it."""

    def waiting(self, running: int) -> None:
        """Show that there is nothing left to begin, but so many trials that other workers run, and may lose."""

    def word(self, text: str) -> None:
        """Show something that lasts, and concerns no single training."""


@dataclass(frozen=True, kw_only=True)
class TrialContext:
    """What every training of a study stands on.

    Attributes:
        settings: How the study is searched.
        space: What varies, with what the person holds fixed.
        study: The study; keeps results and costs.
        prepared: Data with teacher outputs, and the cost table.
        mirror: Told of each training's news.
    """

    settings: Settings
    space: SearchSpace
    study: Study
    prepared: Prepared
    mirror: Notified
