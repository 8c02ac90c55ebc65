"""How a search stands when it ends, as data, and where its runs can be looked at. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass

from harness.core.errors import Interrupted
from harness.core.executables import executable
from harness.core.names import logged_name
from harness.settings import Settings
from harness.tracking.base import find_tracker


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a search stands when it ends.

    Attributes:
        settings: What was asked for.
        experiment_id: The tracker's id of the study's experiment.
        primary: Name of the primary metric.
        finished: Number of finished trials.
        is_over: Whether the same search would do nothing more.
        is_exhausted: Whether the space has no further trial.
        has_picks: Whether there are picks to confirm.
    """

    settings: Settings
    experiment_id: str
    primary: str
    finished: int
    is_over: bool
    is_exhausted: bool
    has_picks: bool

    def places_to_look(self) -> list[str]:
        """Return a line each for the tracker's page of the trials and for the picture of the front, if there is one."""
        tracker = find_tracker(self.settings.tracking_uri)
        command = tracker.ui_command(executable)
        page = tracker.runs_page(self.experiment_id, study=self.settings.study, metric=logged_name(self.primary))
        picture = self.settings.study_dir / "report" / "front.html"
        return [
            *([f"  compare  {page}"] if command is None else [f"  compare  {command}", f"           {page}"]),
            *([f"  look at  {picture}"] if picture.exists() else []),
        ]


class SearchInterrupted(Interrupted):
    """A search that a signal stopped in good order.

    Attributes:
        outcome: How it stands.
    """

    def __init__(self, signal_number: int, outcome: Outcome) -> None:
        super().__init__(signal_number)
        self.outcome = outcome
