"""The sanity warnings of a preparation: collected, and shown with the command that looks closer."""

from __future__ import annotations

from pathlib import Path

from harness.hints import doctor_command
from harness.screen.terminal import Terminal
from harness.settings import Settings

INDENT = " " * 10  # of what continues a line


class WarningList:
    """Sanity warnings so far, a sentence each.

    Args:
        settings: Of the search, for the command that looks closer.
        terminal: Where to show them.
    """

    def __init__(self, settings: Settings, terminal: Terminal) -> None:
        self._settings, self._terminal = settings, terminal
        self._texts: list[str] = []

    @property
    def texts(self) -> tuple[str, ...]:
        """Return all of them."""
        return tuple(self._texts)

    def add(self, *warnings: str) -> None:
        """Take warnings, to be shown later; empty ones are none, and one that is known is not taken twice."""
        self._texts += [one for one in dict.fromkeys(warnings) if one and one not in self._texts]

    def show(self) -> None:
        """Show all that were taken so far."""
        for warning in self._texts:
            self._show(warning)

    def warn(self, warning: str, file: Path | None = None) -> None:
        """Take a warning and show it.

        Args:
            warning: The warning.
            file: The teacher's file, which the command that looks closer names.
        """
        self._texts.append(warning)
        self._show(warning, file)

    def tell(self, warning: str) -> None:
        """Take a warning into which no command looks closer, and show it."""
        self._texts.append(warning)
        self._terminal.say_wrapped(f"warning   {warning}", indent=INDENT)

    def _show(self, warning: str, file: Path | None = None) -> None:
        look = doctor_command(self._settings, file)
        self._terminal.say_wrapped(f"warning   {warning}; look: {look}", indent=INDENT)
