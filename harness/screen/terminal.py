"""What a person at the terminal sees: a live bar, or plain lines where the output is no terminal."""

from __future__ import annotations

import contextlib
import gc
import textwrap
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text


class Terminal:
    """Writes to standard output.

    Args:
        console: Where to write; standard output unless said otherwise.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self.live = self.console.is_terminal
        if not self.live and console is None:
            self.console.width = 120  # a file has none of its own

    def say(self, text: str, style: str | None = None) -> None:
        """Write a line, above a bar if there is one. The terminal wraps it: an address in it stays whole."""
        self.console.print(text, markup=False, emoji=False, soft_wrap=True, style=style)

    def tell(self, sentence: str, *, indent: str = "  ") -> None:
        """Write a sentence; on a terminal, broken between words where the line is full, and indented from there."""
        if self.live:
            sentence = textwrap.fill(
                sentence, self.console.width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
            )
        self.say(sentence)

    @contextlib.contextmanager
    def passing(self, text: str) -> Iterator[None]:
        """Show what takes a while; it is gone when that is over. In a file, say nothing."""
        if not self.live:
            yield
            return
        with self.console.status(Text(text), spinner="dots"):
            yield

    @contextlib.contextmanager
    def loading(self, libraries: str) -> Iterator[None]:
        """Show that libraries are being imported, and look for no garbage meanwhile.

        Imports leave next to none, but make so many objects that Python looks through all of them over and over: a
        quarter of the time. Nor need it look through them later, least of all in the forks of this process, whose
        memory is shared as long as nobody touches it.
        """
        enabled = gc.isenabled()
        gc.disable()
        try:
            with self.passing(f"loading {libraries} …"):
                yield
        finally:
            gc.freeze()
            if enabled:
                gc.enable()

    def bar(self, label: str, total: int, unit: str) -> Bar:
        """Return a bar of ``total`` steps, to be closed; in a file, a line where it begins and at each third."""
        return Bar(self, label, total, unit)


class Bar:
    """Progress of one preparation.

    Args:
        terminal: Where it is shown.
        label: What is made.
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
        """Count steps that are done."""
        before, self._done = self._done, self._done + steps
        if self._progress is not None:
            self._progress.update(self._task, completed=self._done, note=note)
        elif before * 3 // self._total != self._done * 3 // self._total:
            self._terminal.say(f"{self._label:<9} {self._done}/{self._total} {self._unit}{', ' + note if note else ''}")

    def within(self, done: float) -> None:
        """Show a step in its course: ``done`` steps, a part of one included."""
        if self._progress is not None:
            self._progress.update(self._task, completed=done)

    def close(self) -> None:
        """Take the bar away."""
        if self._progress is not None:
            self._progress.stop()
