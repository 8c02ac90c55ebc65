"""A worker that a scheduler has started: the same search as anywhere, and a good end when its place is wanted back."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.core.addresses import redact
from harness.core.errors import HarnessError, Interrupted, interrupt_once, one_line, resend_dropped_signals
from harness.launchers.passwords import revealed
from harness.settings import Settings


@dataclass(frozen=True)
class JobSpec:
    """What is sent to a worker.

    Attributes:
        settings: What it does.
        folder: The folder that the person stands in, which paths are relative to.
        command: What the person typed, without passwords: a worker's log says how to go on.
    """

    settings: Settings
    folder: Path
    command: tuple[str, ...]

    def run(self, stopping: Sequence[int], log: Path) -> int | None:
        """Search.

        Args:
            stopping: Signals that end it in good order. A second one does not cut short what the first began.
            log: The worker's log, the same whenever it is started again. Beside it a file says when it first was.

        Returns:
            The signal that ended it, or ``None`` after a search that had nothing left to do.

        Raises:
            HarnessError: For whatever the person can mend. Neither it nor another error brings a password into the
                scheduler's files.
        """
        from harness.session import run_search
        from harness.storage.access import await_storage

        try:
            for number in stopping:
                signal.signal(number, interrupt_once)
            resend_dropped_signals()
            if not self.folder.is_dir():
                raise HarnessError(f"a worker must see the folder {self.folder}, but this machine does not have it.")
            os.chdir(self.folder)
            sys.argv = list(self.command)
            settings = _with_time_left(revealed(self.settings), log.with_suffix(".began"))
            if settings.study_dir.is_dir():  # it was begun: whoever is requeued amid an outage must not be lost
                await_storage(settings, print)
            run_search(settings)
        except Interrupted as interrupted:
            return interrupted.signal_number
        except HarnessError as error:
            print(f"error: {one_line(error)}", file=sys.stderr)
            raise HarnessError(one_line(error)) from None
        except Exception as error:
            print(f"error: {type(error).__name__}: {one_line(error)}", file=sys.stderr)
            raise RuntimeError(redact(traceback.format_exc())) from None
        return None


def _with_time_left(settings: Settings, began: Path) -> Settings:
    """Return the settings of a worker that may have been started before: ``--timeout`` counts from its first start.

    Args:
        settings: What was asked for.
        began: A file that is as old as that start.
    """
    if settings.timeout_s is None:
        return settings
    if not began.exists():
        began.touch()
    return replace(settings, timeout_s=max(0.0, settings.timeout_s - (time.time() - began.stat().st_mtime)))


def job_spec(settings: Settings, processes: int) -> JobSpec:
    """Return what is sent to a worker of one trial at a time, of so many that are started together."""
    command = tuple(redact(word) for word in sys.argv)
    return JobSpec(replace(settings, workers=1, processes=processes), Path.cwd(), command)


def errors_in(logs: Sequence[Path]) -> list[str]:
    """Return why workers ended, as their logs say it; each reason once."""
    lines = (line for log in logs for line in log.read_text(encoding="utf-8", errors="replace").splitlines())
    return list(dict.fromkeys(line.removeprefix("error: ") for line in lines if line.startswith("error: ")))
