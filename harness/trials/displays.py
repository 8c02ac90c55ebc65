"""What a person sees while students are trained: a line each in a file, on a terminal bars."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Column

from harness.screen.formatting import configuration_text, duration_text
from harness.screen.terminal import Terminal
from harness.studies.study import Study


@contextlib.contextmanager
def search_display(terminal: Terminal, study: Study, epochs: int) -> Iterator[SearchDisplay]:
    """Show the search while it runs.

    Args:
        terminal: Where.
        study: What has been tried before, and how much is asked for.
        epochs: Epochs of a trial.
    """
    display = SearchDisplay(terminal, study, epochs)
    try:
        yield display
    finally:
        display.close()


@contextlib.contextmanager
def retraining_display(
    terminal: Terminal, label: str, names: Sequence[str], epochs: int
) -> Iterator[RetrainingDisplay]:
    """Show students that are trained anew, while they are.

    Args:
        terminal: Where.
        label: What they are.
        names: Of each.
        epochs: Of each.
    """
    display = RetrainingDisplay(terminal, label, names, epochs)
    try:
        yield display
    finally:
        display.close()


_NO_BAR = TaskID(-1)


@dataclass
class _Running:
    """A trial that is shown."""

    params: dict[str, Any]
    started_s: float
    bar: TaskID = _NO_BAR


class SearchDisplay:
    """Trials done of total, time left, the trials that run, and the best so far."""

    def __init__(self, terminal: Terminal, study: Study, epochs: int) -> None:
        self._terminal = terminal
        self._study = study
        self._total = total = study.settings.trials
        self._epochs = epochs
        self._primary = study.primary
        self._done = study.finished()
        self._began_with = self._done
        self._started_s = time.monotonic()
        self._running: dict[int, _Running] = {}
        self._waits = False
        self._maximize = study.primary_direction == "maximize"
        self._best: tuple[float, str] | None = None
        self._progress: Progress | None = None
        self._pruned = 0
        for trial in study.trials():
            self._pruned += trial.state.name == "PRUNED"
            if trial.state.name == "COMPLETE":
                self._consider(trial.user_attrs["metrics"], trial.params)
        if terminal.live:
            self._progress = Progress(
                TextColumn("{task.description:<9}", markup=False, table_column=Column(no_wrap=True)),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[left]}", markup=False, table_column=Column(no_wrap=True)),
                # Where the terminal is narrow, this one gives way.
                TextColumn(
                    "{task.fields[note]}",
                    markup=False,
                    table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1),
                ),
                console=terminal.console,
                transient=True,
                expand=True,
            )
            self._trials: TaskID = self._progress.add_task(
                "trials", total=total, completed=self._done, left="", note=self._best_text()
            )
            self._progress.start()

    def started(self, number: int, params: dict[str, Any], resumed_after: int | None) -> None:
        """A trial begins, or goes on after ``resumed_after`` epochs."""
        if resumed_after == self._epochs:
            self._terminal.say(f"trial {number} was cut after its last epoch; it is scored now")
        elif resumed_after == 0:
            self._terminal.say(f"trial {number} was cut; it begins again, for no checkpoint of it is here")
        elif resumed_after is not None:
            self._terminal.say(f"trial {number} was cut; it goes on after epoch {resumed_after} of {self._epochs}")
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
        """An epoch of a trial ended."""
        if self._progress is not None:
            self._progress.update(self._running[number].bar, completed=epoch + 1)

    def finished(self, number: int, metrics: dict[str, float]) -> None:
        """A trial was trained to the end."""
        trial = self._running[number]
        self._consider(metrics, trial.params)
        self._ended(number)
        if self._progress is None:
            assert self._best is not None
            self._terminal.say(
                f"trial {number:<4} {self._primary} {metrics[self._primary]:.4f}, "
                f"{metrics['latency_p50_ms']:.3f} ms, {metrics['parameters']:,.0f} parameters "
                f"({configuration_text(trial.params)}) "
                f"in {time.monotonic() - trial.started_s:.1f} s; {self._done}/{self._total} done, "
                f"{self._left()}; best {self._best[0]:.4f}"
            )

    def pruned(self, number: int, reason: str) -> None:
        """A trial was stopped because it has no chance of the front any more."""
        trial = self._running[number]
        self._pruned += 1
        self._ended(number)
        if self._progress is None:
            self._terminal.say(
                f"trial {number:<4} pruned: {reason} ({configuration_text(trial.params)}) "
                f"in {time.monotonic() - trial.started_s:.1f} s; {self._done}/{self._total} done, {self._left()}"
            )

    def failed(self, number: int, reason: str) -> None:
        """A trial failed by its own doing."""
        trial = self._running[number]
        self._ended(number)
        self._terminal.say(f"trial {number} FAIL: {reason} ({configuration_text(trial.params)})")

    def cut(self, number: int, reason: str) -> None:
        """A trial's worker lost it; another one goes on with it."""
        self._forget(number)
        self._terminal.say(f"trial {number} is cut: {reason}")

    def waiting(self, running: int) -> None:
        """There is nothing left to begin, but so many trials that are run, here or elsewhere."""
        elsewhere = running - len(self._running)
        if elsewhere > 0 and not self._waits:
            self._waits = True
            run = "is run" if elsewhere == 1 else "are run"
            self._terminal.say(f"{elsewhere} of the last trials {run} elsewhere; what is lost there is taken up here")

    def word(self, text: str) -> None:
        """Something that lasts, and concerns no trial."""
        self._terminal.say(text)

    def close(self) -> None:
        """Take the bar away."""
        if self._progress is not None:
            self._progress.stop()

    def _forget(self, number: int) -> None:
        trial = self._running.pop(number)
        if self._progress is not None:
            self._progress.remove_task(trial.bar)

    def _ended(self, number: int) -> None:
        self._forget(number)
        finished = self._study.finished_at_once()  # others finish some too, here and elsewhere
        self._done = self._done + 1 if finished is None else finished
        if self._progress is not None:
            self._progress.update(self._trials, completed=self._done, left=self._left(), note=self._best_text())

    def _consider(self, metrics: dict[str, float], params: dict[str, Any]) -> None:
        value = metrics[self._primary]
        if self._best is None or (value > self._best[0] if self._maximize else value < self._best[0]):
            self._best = (value, f"{metrics['parameters']:,.0f} parameters, {configuration_text(params)}")

    def _best_text(self) -> str:
        pruned = f"{self._pruned} pruned; " if self._pruned else ""
        return "" if self._best is None else f"{pruned}best {self._primary} {self._best[0]:.4f} ({self._best[1]})"

    def _left(self) -> str:
        here = self._done - self._began_with
        left_s = (time.monotonic() - self._started_s) / max(here, 1) * (self._total - self._done)
        return f"{duration_text(left_s)} left"


class RetrainingDisplay:
    """How far students are that are trained anew, as one bar.

    Args:
        terminal: Where it is shown.
        label: What they are.
        names: Of each.
        epochs: Of each.
    """

    def __init__(self, terminal: Terminal, label: str, names: Sequence[str], epochs: int) -> None:
        self._terminal = terminal
        self._names = names
        self._epochs = epochs
        self._done = 0
        self._running: dict[int, int] = {}  # epochs done, by place
        self._bar = terminal.progress_bar(label, len(names), "students")

    def started(self, number: int, params: dict[str, Any], resumed_after: int | None) -> None:
        """One begins, or goes on after ``resumed_after`` epochs."""
        if resumed_after:
            self._terminal.say(
                f"{self._names[number]} was cut; it goes on after epoch {resumed_after} of {self._epochs}"
            )
        self._running[number] = resumed_after or 0

    def epoch(self, number: int, epoch: int) -> None:
        """An epoch of one ended."""
        self._running[number] = epoch + 1
        self._bar.show_partial(self._done + sum(self._running.values()) / self._epochs)

    def finished(self, number: int, metrics: dict[str, float]) -> None:
        """One was trained to the end."""
        self._running.pop(number)
        self._done += 1
        self._bar.advance(note=self._names[number])

    def pruned(self, number: int, reason: str) -> None:
        """None is: they are trained to the end."""
        raise AssertionError(number)

    def failed(self, number: int, reason: str) -> None:
        """One failed by its own doing."""
        self._running.pop(number)
        self._done += 1
        self._bar.advance()
        self._terminal.say(f"{self._names[number]} FAIL: {reason}")

    def cut(self, number: int, reason: str) -> None:
        """Its worker lost it; another one goes on with it."""
        self._running.pop(number)
        self._terminal.say(f"{self._names[number]} is cut: {reason}")

    def waiting(self, running: int) -> None:
        """None waits for trials."""
        raise AssertionError(running)

    def word(self, text: str) -> None:
        """Something that lasts, and concerns none of them."""
        self._terminal.say(text)

    def close(self) -> None:
        """Take the bar away."""
        self._bar.close()
