"""Run a worker that a scheduler started: search, and shut down in good order when the scheduler preempts it."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.core.addresses import redact
from harness.core.errors import HarnessError, Interrupted, interrupt_once, one_line, resend_dropped_signals
from harness.launchers.passwords import revealed
from harness.outcome import Outcome
from harness.settings import Settings


@dataclass(frozen=True)
class JobSpec:
    """The work of a worker, as it is sent to it.

    Attributes:
        settings: What it does.
        folder: Working folder of the submitting process, which paths are relative to.
        command: The command line that the person typed, without passwords, which the next steps name.
        next_steps: Returns what is printed at the end of the worker's log.
    """

    settings: Settings
    folder: Path
    command: tuple[str, ...]
    next_steps: Callable[[Outcome], str]

    def run(self, stopping: Sequence[int], log: Path) -> int | None:
        """Search, and print the next steps.

        Args:
            stopping: Signals that stop the search in good order. A second signal does not interrupt the shutdown.
            log: The worker's log, the same after each restart. A file beside it has the time of the first start.

        Returns:
            The signal that stopped the search, or ``None`` after a search that had nothing left to do.

        Raises:
            HarnessError: For a mistake that a person can correct. No error writes a password into the scheduler's
                files.
        """
        from harness.session import search_and_print
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
            if settings.study_dir.is_dir():  # begun before: a worker that is requeued during an outage must wait
                await_storage(settings, print)
            search_and_print(settings, self.next_steps)
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
    """Return the settings with the time that is left: ``--timeout`` counts from the worker's first start.

    Args:
        settings: The settings of the search.
        began: A file whose modification time is that of the first start; created by it.
    """
    if settings.timeout_s is None:
        return settings
    if not began.exists():
        began.touch()
    return replace(settings, timeout_s=max(0.0, settings.timeout_s - (time.time() - began.stat().st_mtime)))


def job_spec(settings: Settings, processes: int, next_steps: Callable[[Outcome], str]) -> JobSpec:
    """Return what is sent to a worker, which trains one trial at a time.

    Args:
        settings: What the search does.
        processes: How many workers are started together.
        next_steps: Returns what is printed at the end of the worker's log.
    """
    command = tuple(redact(word) for word in sys.argv)
    return JobSpec(replace(settings, workers=1, processes=processes), Path.cwd(), command, next_steps)


def errors_in(logs: Sequence[Path]) -> list[str]:
    """Return the errors in the logs of workers, each once."""
    lines = (line for log in logs for line in log.read_text(encoding="utf-8", errors="replace").splitlines())
    return list(dict.fromkeys(line.removeprefix("error: ") for line in lines if line.startswith("error: ")))
