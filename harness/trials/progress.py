"""Show the progress of trainings: as bars on a terminal, as one line each in a file."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Column

from harness.metrics import timed_text
from harness.screen.formatting import configuration_text, duration_text
from harness.screen.terminal import Terminal
from harness.studies.study import Study


class _ProgressDisplay:
    """Common part of the displays: messages, and a context manager that removes the bars."""

    def __init__(self, terminal: Terminal, epochs: int) -> None:
        self._terminal = terminal
        self._epochs = epochs

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def message(self, text: str) -> None:
        """Print a message that concerns no single training."""
        self._terminal.say(text)

    def close(self) -> None:
        """Remove the bars."""


_NO_BAR = TaskID(-1)


@dataclass
class _Running:
    """A trial that is shown."""

    params: dict[str, Any]
    started_s: float
    bar: TaskID = _NO_BAR


class SearchDisplay(_ProgressDisplay):
    """Show a search: trials done of the total, time left, the running trials, and the best so far.

    Args:
        terminal: Where to print.
        study: The study, with its earlier trials and the number requested.
        epochs: Epochs of a trial.
    """

    def __init__(self, terminal: Terminal, study: Study, epochs: int) -> None:
        super().__init__(terminal, epochs)
        self._study = study
        self._total = study.settings.trials
        self._primary = study.primary
        self._done = study.finished()
        self._done_before = self._done
        self._started_s = time.monotonic()
        self._running: dict[int, _Running] = {}
        self._has_told_waiting = False
        self._maximize = study.primary_direction == "maximize"
        self._best: tuple[float, str] | None = None
        self._progress: Progress | None = None
        self._pruned = 0
        for trial in study.trials():
            self._pruned += trial.state.name == "PRUNED"
            if trial.state.name == "COMPLETE":
                self._update_best(trial.user_attrs["metrics"], trial.params)
        if terminal.live:
            self._progress = _bars(terminal)
            self._trials: TaskID = self._progress.add_task(
                "trials", total=self._total, completed=self._done, left="", note=self._best_text()
            )
            self._progress.start()

    def started(self, number: int, params: dict[str, Any], resumed_after: int | None) -> None:
        """Show that a trial starts, or resumes after ``resumed_after`` epochs."""
        if resumed_after == self._epochs:
            self._terminal.say(f"trial {number} was interrupted after its last epoch; it is scored now")
        elif resumed_after == 0:
            self._terminal.say(f"trial {number} was interrupted; it starts again, for no checkpoint of it is here")
        elif resumed_after is not None:
            self._terminal.say(
                f"trial {number} was interrupted; it resumes after epoch {resumed_after} of {self._epochs}"
            )
        self._running[number] = _Running(params, time.monotonic())
        if self._progress is not None:
            self._running[number].bar = self._progress.add_task(
                f"trial {number}",
                total=self._epochs,
                completed=resumed_after or 0,
                left="",
                note=configuration_text(params),
            )

    def epoch(self, number: int, epoch: int) -> None:
        """Advance the bar of a trial to the end of an epoch."""
        if self._progress is not None:
            self._progress.update(self._running[number].bar, completed=epoch + 1)

    def finished(self, number: int, metrics: dict[str, float]) -> None:
        """Show the result of a trial that was trained to the end."""
        trial = self._running[number]
        self._update_best(metrics, trial.params)
        self._count_as_done(number)
        if self._progress is None:
            assert self._best is not None
            self._terminal.say(
                f"trial {number:<4} {self._primary} {metrics[self._primary]:.4f}, "
                f"{timed_text(metrics)}, {metrics['parameters']:,.0f} parameters "
                f"({configuration_text(trial.params)}) "
                f"in {time.monotonic() - trial.started_s:.1f} s; {self._done}/{self._total} done, "
                f"{self._left()}; best {self._best[0]:.4f}"
            )

    def pruned(self, number: int, reason: str) -> None:
        """Show why a trial was pruned."""
        trial = self._running[number]
        self._pruned += 1
        self._count_as_done(number)
        if self._progress is None:
            self._terminal.say(
                f"trial {number:<4} pruned: {reason} ({configuration_text(trial.params)}) "
                f"in {time.monotonic() - trial.started_s:.1f} s; {self._done}/{self._total} done, {self._left()}"
            )

    def failed(self, number: int, reason: str) -> None:
        """Show why a trial failed."""
        trial = self._running[number]
        self._count_as_done(number)
        self._terminal.say(f"trial {number} FAIL: {reason} ({configuration_text(trial.params)})")

    def interrupted(self, number: int, reason: str) -> None:
        """Show why a worker lost a trial, which another worker resumes."""
        self._remove(number)
        self._terminal.say(f"trial {number} is interrupted: {reason}")

    def waiting(self, running: int) -> None:
        """Say once how many of the last trials are run by workers elsewhere."""
        elsewhere = running - len(self._running)
        if elsewhere > 0 and not self._has_told_waiting:
            self._has_told_waiting = True
            run = "is run" if elsewhere == 1 else "are run"
            self._terminal.say(f"{elsewhere} of the last trials {run} elsewhere; lost ones are resumed here")

    def close(self) -> None:
        """Remove the bars."""
        if self._progress is not None:
            self._progress.stop()

    def _remove(self, number: int) -> None:
        trial = self._running.pop(number)
        if self._progress is not None:
            self._progress.remove_task(trial.bar)

    def _count_as_done(self, number: int) -> None:
        self._remove(number)
        finished = self._study.finished_at_once()  # workers here and elsewhere finish trials too
        self._done = self._done + 1 if finished is None else finished
        if self._progress is not None:
            self._progress.update(self._trials, completed=self._done, left=self._left(), note=self._best_text())

    def _update_best(self, metrics: dict[str, float], params: dict[str, Any]) -> None:
        value = metrics[self._primary]
        if self._best is None or (value > self._best[0] if self._maximize else value < self._best[0]):
            self._best = (value, f"{metrics['parameters']:,.0f} parameters, {configuration_text(params)}")

    def _best_text(self) -> str:
        pruned = f"{self._pruned} pruned; " if self._pruned else ""
        return "" if self._best is None else f"{pruned}best {self._primary} {self._best[0]:.4f} ({self._best[1]})"

    def _left(self) -> str:
        here = self._done - self._done_before
        left_s = (time.monotonic() - self._started_s) / max(here, 1) * (self._total - self._done)
        return f"{duration_text(left_s)} left"


def _bars(terminal: Terminal) -> Progress:
    return Progress(
        TextColumn("{task.description:<9}", markup=False, table_column=Column(no_wrap=True)),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[left]}", markup=False, table_column=Column(no_wrap=True)),
        # On a narrow terminal, this column shrinks.
        TextColumn(
            "{task.fields[note]}",
            markup=False,
            table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1),
        ),
        console=terminal.console,
        transient=True,
        expand=True,
    )


class RetrainingDisplay(_ProgressDisplay):
    """Show the progress of retrainings as one bar.

    Args:
        terminal: Where to print.
        label: What the trainings are, such as ``controls``.
        names: Name of each training.
        epochs: Epochs of each.
    """

    def __init__(self, terminal: Terminal, label: str, names: Sequence[str], epochs: int) -> None:
        super().__init__(terminal, epochs)
        self._names = names
        self._done = 0
        self._running: dict[int, int] = {}  # epochs done, by place
        self._bar = terminal.progress_bar(label, len(names), "students")

    def started(self, number: int, params: dict[str, Any], resumed_after: int | None) -> None:
        """Show that a training starts, or resumes after ``resumed_after`` epochs."""
        if resumed_after:
            self._terminal.say(
                f"{self._names[number]} was interrupted; it resumes after epoch {resumed_after} of {self._epochs}"
            )
        self._running[number] = resumed_after or 0

    def epoch(self, number: int, epoch: int) -> None:
        """Advance the bar by an epoch of one training."""
        self._running[number] = epoch + 1
        self._bar.show_partial(self._done + sum(self._running.values()) / self._epochs)

    def finished(self, number: int, metrics: dict[str, float]) -> None:
        """Advance the bar by a student that was trained to the end."""
        self._running.pop(number)
        self._done += 1
        self._bar.advance(note=self._names[number])

    def pruned(self, number: int, reason: str) -> None:
        """Refuse: retrainings are not pruned."""
        raise AssertionError(number)

    def failed(self, number: int, reason: str) -> None:
        """Show why a training failed."""
        self._running.pop(number)
        self._done += 1
        self._bar.advance()
        self._terminal.say(f"{self._names[number]} FAIL: {reason}")

    def interrupted(self, number: int, reason: str) -> None:
        """Show why a worker lost a training, which another worker resumes."""
        self._running.pop(number)
        self._terminal.say(f"{self._names[number]} is interrupted: {reason}")

    def waiting(self, running: int) -> None:
        """Refuse: retrainings do not wait for trials."""
        raise AssertionError(running)

    def close(self) -> None:
        """Remove the bar."""
        self._bar.close()
