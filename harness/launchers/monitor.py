"""What the process does that let a scheduler start the workers: it shows how the study stands, until they are over."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from harness.cli.search import command_for
from harness.core.errors import HarnessError, Interrupted
from harness.launchers.placement import Placement
from harness.launchers.remote import errors_in
from harness.screen.terminal import ProgressBar, Terminal
from harness.settings import Settings

if TYPE_CHECKING:
    from harness.studies.study import Study

_EVERY_S = 2.0
_PATIENCE_S = 60.0  # until a word about workers of which nothing is seen


class Jobs(Protocol):
    """Workers that a scheduler was asked for.

    Attributes:
        title: What they are called.
        folder: Where their logs are.
        logs: Names of the logs there, as a pattern.
        queue_command: What to type to see whether they wait for a place.
        cancel_command: What to type to end them.
    """

    title: str
    folder: Path
    logs: str
    queue_command: str
    cancel_command: str

    def over(self) -> bool:
        """Return whether none of them waits or runs any more."""

    def cancel(self) -> bool:
        """End them; each stops in good order. Whether that was heard."""


def attend(jobs: Jobs, settings: Settings, placement: Placement) -> None:
    """Say what was submitted; unless it is to be left alone, show the study's progress and, at the end, its report.

    Args:
        jobs: What was submitted.
        settings: What they do.
        placement: Where.

    Raises:
        HarnessError: If they are over and the study is not.
        Interrupted: After a signal; they are cancelled then, and nothing is lost.
    """
    terminal = Terminal()
    terminal.say(f"{placement.launcher:<9} {jobs.title}")
    terminal.say(f"logs      {jobs.folder / jobs.logs}")
    if placement.detach:
        terminal.say(f"status    {command_for('status', settings)}")
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
    from harness.reporting.report import report
    from harness.storage.access import STORAGE_ERRORS

    study: Study | None = None
    bar: ProgressBar | None = None
    done, began_s = 0, time.monotonic()
    word_at = began_s + _PATIENCE_S
    try:
        while True:
            over = jobs.over()  # asked first: what is read of the study afterwards is its end
            try:
                study = study or _found(settings)
                if study is not None:
                    bar = bar or terminal.progress_bar("trials", settings.trials, "trials")
                    before, done = done, study.finished_at_once() or done
                    bar.advance(done - before)
            except (KeyError, *STORAGE_ERRORS):  # the study is being made anew, or its storage is away for a moment
                study = None
            if over:
                break
            if bar is None and time.monotonic() > word_at:
                terminal.say(f"waiting   no worker has begun the study yet; see {jobs.queue_command}")
                word_at = float("inf")
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
    """Return the study, once a worker has made it."""
    from harness.studies.opening import find_study

    try:
        return find_study(settings)
    except HarnessError:
        return None
