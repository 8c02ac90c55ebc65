"""Monitor the workers that a scheduler started: show the study's progress until they have ended, then its report."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from harness.core.errors import HarnessError, Interrupted
from harness.hints import status_command
from harness.launchers.placement import Placement
from harness.launchers.remote import errors_in
from harness.screen.terminal import ProgressBar, Terminal
from harness.settings import Settings

if TYPE_CHECKING:
    from harness.studies.study import Study

_EVERY_S = 2.0
_NOTICE_AFTER_S = 60.0  # without a study: the workers may be queued


class Jobs(Protocol):
    """Workers that were submitted to a scheduler.

    Attributes:
        title: Name of the jobs, for messages.
        folder: Folder of their logs.
        logs: Pattern of the logs' names there.
        queue_command: Command that shows whether they are queued.
        cancel_command: Command that cancels them.
    """

    title: str
    folder: Path
    logs: str
    queue_command: str
    cancel_command: str

    def over(self) -> bool:
        """Return whether no worker is queued or running any more."""

    def cancel(self) -> bool:
        """Cancel the workers, which stop in good order; return whether the scheduler accepted it."""


def monitor(jobs: Jobs, settings: Settings, placement: Placement) -> None:
    """Print what was submitted; unless it is detached, show the study's progress and, at the end, its report.

    Args:
        jobs: The submitted workers.
        settings: What they do.
        placement: Where they run.

    Raises:
        HarnessError: If the workers have ended before the study is complete.
        Interrupted: After a signal; the workers are cancelled then, and nothing is lost.
    """
    terminal = Terminal()
    terminal.say(f"{placement.launcher:<9} {jobs.title}")
    terminal.say(f"logs      {jobs.folder / jobs.logs}")
    if placement.detach:
        terminal.say(f"status    {status_command(settings)}")
        terminal.say(f"cancel    {jobs.cancel_command}")
        return
    try:
        _follow(jobs, settings, terminal)
    except Interrupted:
        if jobs.cancel():
            terminal.say(f"cancelled {jobs.title}; nothing is lost, and the same command goes on.")
        else:
            terminal.say(f"{jobs.title} may still run, for it could not be cancelled; to end it: {jobs.cancel_command}")
        raise


def _follow(jobs: Jobs, settings: Settings, terminal: Terminal) -> None:
    """Show the study's progress until its workers have ended, then its report."""
    from harness.reporting.report import report
    from harness.storage.access import STORAGE_ERRORS

    study: Study | None = None
    bar: ProgressBar | None = None
    done, began_s = 0, time.monotonic()
    notice_at = began_s + _NOTICE_AFTER_S
    try:
        while True:
            over = jobs.over()  # asked first: the study that is read afterwards is final
            try:
                study = study or _found(settings)
                if study is not None:
                    bar = bar or terminal.progress_bar("trials", settings.trials, "trials")
                    before, done = done, study.finished_at_once() or done
                    bar.advance(done - before)
            except (KeyError, *STORAGE_ERRORS):  # the study is being created anew, or its storage is away for a moment
                study = None
            if over:
                break
            if bar is None and time.monotonic() > notice_at:
                terminal.say(f"waiting   no worker has begun the study yet; see {jobs.queue_command}")
                notice_at = float("inf")
            time.sleep(_EVERY_S)
    finally:
        if bar is not None:
            bar.close()
    if study is not None and study.is_over:
        report(study, terminal)
        return
    time_is_up = settings.timeout_s is not None and time.monotonic() - began_s >= settings.timeout_s
    reasons = "; ".join(errors_in(sorted(jobs.folder.glob(jobs.logs))))
    standing = f"{done} of {settings.trials} trials finished"
    if study is not None and done and time_is_up:
        terminal.say(f"the time is up with {standing}; the same command goes on.")
        report(study, terminal)
        if not reasons:
            return
    raise HarnessError(
        f"{jobs.title} has ended with {standing}{reasons and f': {reasons}'} (logs: {jobs.folder / jobs.logs}); the "
        "same command goes on."
    )


def _found(settings: Settings) -> Study | None:
    """Return the study, once a worker has created it."""
    from harness.studies.opening import find_study

    try:
        return find_study(settings)
    except HarnessError:
        return None
