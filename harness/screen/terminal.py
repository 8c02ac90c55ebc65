"""Output to the terminal: lines and progress bars; plain lines only, where the output is a file."""

from __future__ import annotations

import contextlib
import gc
import textwrap
from collections.abc import Iterator

from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.text import Text


class Terminal:
    """Writes to standard output.

    Args:
        console: Where to write; standard output by default.

    Attributes:
        live: Whether the output is a terminal, which can show progress bars.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self.live = self.console.is_terminal
        if not self.live and console is None:
            self.console.width = 120  # a file has no width of its own

    def say(self, text: str, style: str | None = None) -> None:
        """Write a line, above a progress bar if there is one. The terminal wraps it, so an address can be copied."""
        self.console.print(text, markup=False, emoji=False, soft_wrap=True, style=style)

    def say_wrapped(self, sentence: str, *, indent: str = "  ") -> None:
        """Write a sentence, wrapped between words at the width of the terminal; ``indent`` begins the further lines."""
        if self.live:
            sentence = textwrap.fill(
                sentence, self.console.width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
            )
        self.say(sentence)

    def show(self, renderable: RenderableType) -> None:
        """Write a table, or whatever else rich renders; a line that is too long for the terminal is not cut."""
        self.console.print(Group(*self._unpadded(renderable)), crop=False)

    def _unpadded(self, renderable: RenderableType) -> Iterator[Text]:
        """Yield what rich renders, line by line, without the blanks that fill its lines up to the table's width."""
        for line in Segment.split_lines(self.console.render(renderable)):
            text = Text.assemble(
                *((segment.text, segment.style or "") for segment in line), no_wrap=True, overflow="ignore"
            )
            text.rstrip()
            yield text

    @contextlib.contextmanager
    def spinner(self, text: str) -> Iterator[None]:
        """Show a spinner with a text while the body runs; a file gets nothing."""
        if not self.live:
            yield
            return
        with self.console.status(Text(text), spinner="dots"):
            yield

    @contextlib.contextmanager
    def loading(self, libraries: str) -> Iterator[None]:
        """Show a spinner while libraries are imported, without garbage collection; freeze what they leave.

        Imports leave next to no garbage, but so many objects that Python collects over and over: a quarter of the time.
        Frozen objects are not traversed later either, least of all in forks of this process, whose memory stays shared
        as long as no process writes to it.
        """
        enabled = gc.isenabled()
        gc.disable()
        try:
            with self.spinner(f"loading {libraries} …"):
                yield
        finally:
            gc.freeze()
            if enabled:
                gc.enable()

    def progress_bar(self, label: str, total: int, unit: str) -> ProgressBar:
        """Return a progress bar; the caller closes it."""
        return ProgressBar(self, label, total, unit)


class ProgressBar:
    """The progress of one task; in a file, a line at its beginning and at each third.

    Args:
        terminal: Where to show it.
        label: The task, in at most 9 characters.
        total: Number of steps.
        unit: What a step is, in the plural.
    """

    def __init__(self, terminal: Terminal, label: str, total: int, unit: str) -> None:
        self._unit = unit
        self._terminal = terminal
        self._label = label
        self._total = total
        self._done = 0
        self._progress: Progress | None = None
        if terminal.live:
            self._progress = Progress(
                TextColumn("{task.description:<9}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn(unit),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}", markup=False),
                console=terminal.console,
                transient=True,
            )
            self._task = self._progress.add_task(label, total=total, note="")
            self._progress.start()
        else:
            terminal.say(f"{label:<9} 0/{total} {unit}")

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Count steps that are done, and show a note beside the bar."""
        before, self._done = self._done, self._done + steps
        if self._progress is not None:
            self._progress.update(self._task, completed=self._done, note=note)
        elif before * 3 // self._total != self._done * 3 // self._total:
            self._terminal.say(f"{self._label:<9} {self._done}/{self._total} {self._unit}{', ' + note if note else ''}")

    def show_partial(self, done: float) -> None:
        """Show progress within a step: ``done`` steps of the total, with a fraction for the current one."""
        if self._progress is not None:
            self._progress.update(self._task, completed=done)

    def close(self) -> None:
        """Remove the bar."""
        if self._progress is not None:
            self._progress.stop()
