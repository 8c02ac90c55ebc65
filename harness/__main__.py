"""Run the commands of ``kd-harness`` and ``python -m harness``: doctor, search, status, report, confirm, move."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable

from harness.cli.commands import parse_command
from harness.cli.hints import next_steps
from harness.cli.run import run
from harness.hints import report_command
from harness.launchers import launch
from harness.launchers.placement import Placement
from harness.settings import ConfirmSettings, Places, Settings, StudyPlaces


def kd_harness() -> None:
    """Run the console script ``kd-harness``."""
    run(main)


def main() -> None:
    """Parse the command line, and run the command."""
    name, asked = parse_command()
    commands: dict[str, Callable[..., None]] = {
        "search": search,
        "confirm": confirm,
        "doctor": doctor,
        "move": move,
        "report": report,
        "status": status,
    }
    commands[name](*asked)


def search(settings: Settings, placement: Placement) -> None:
    """Search here, or where workers are asked for."""
    launch(settings, placement, next_steps)


def confirm(asked: ConfirmSettings) -> None:
    """Reopen the study, prepare, train its picks and controls with fresh seeds, report."""
    from harness.tracking.mirror import Mirror

    with (
        Mirror(asked.places.tracking_uri, remedy=report_command(asked.places)) as mirror,
        contextlib.ExitStack() as reach,
    ):
        from harness.screen.terminal import Terminal

        terminal = Terminal()
        with terminal.loading("PyTorch, Optuna and MLflow"):
            from harness.confirming import confirm_picks
            from harness.storage.access import storage_in_reach
            from harness.studies.opening import reopen_study

            reach.enter_context(storage_in_reach(asked.places))
            study, space = reopen_study(asked)
        confirm_picks(study, space, asked.seeds, mirror, terminal, on=asked.on)


def doctor(settings: Settings) -> None:
    """Check a task and its space; exit with code 1 if a check fails."""
    from harness.doctor import diagnose
    from harness.screen.terminal import Terminal

    if any(finding.state == "FAILED" for finding in diagnose(settings, Terminal())):
        sys.exit(1)


def move(places: StudyPlaces, to: str) -> None:
    """Move a study to another storage."""
    from harness.screen.terminal import Terminal
    from harness.studies.move import move

    move(places, to, Terminal())


def report(places: Places, name: str | None) -> None:
    """Report on a study: the one of a name, or the only one; list the studies if there are several."""
    from harness.tracking.mirror import Mirror

    with Mirror(places.tracking_uri) as mirror, contextlib.ExitStack() as reach:
        from harness.screen.terminal import Terminal

        terminal = Terminal()
        with terminal.loading("PyTorch and Optuna"):
            from harness.core.errors import HarnessError
            from harness.reporting.report import report
            from harness.storage.access import storage_in_reach
            from harness.studies.listing import choose_study
            from harness.studies.opening import find_study
            from harness.tracking.base import find_tracker
            from harness.tracking.spool import Spool
            from harness.trials.worker import sync_spools

            reach.enter_context(storage_in_reach(places))
            found = choose_study(places, name, terminal.say)
            if found is None:
                return
            study = find_study(found)
            mirror.remedy = report_command(found)
        study.retry.notifier.say = terminal.say
        try:
            mirror.connect(f"kd-{study.space_name}", places.runs_dir, say=terminal.say)
        except HarnessError as error:
            terminal.say(f"the report is not logged to {find_tracker(places.tracking_uri).name}: {error}")
            report(study, terminal)
        else:
            spool = Spool(study.folder, mirror.notify) if study.owns_folder() else None
            if spool is not None:
                sync_spools(study, mirror)
            report(study, terminal, spool if spool is not None and spool.begun else None)
            if spool is not None:
                spool.close()


def status(places: Places, name: str | None) -> None:
    """Show how a study stands: the one of a name, or the only one; list the studies if there are several."""
    from harness.screen.terminal import Terminal

    terminal = Terminal()
    with contextlib.ExitStack() as reach:
        with terminal.loading("PyTorch and Optuna"):
            from harness.storage.access import storage_in_reach
            from harness.studies.listing import choose_study
            from harness.studies.opening import find_study
            from harness.studies.status import status

            reach.enter_context(storage_in_reach(places))
            found = choose_study(places, name, terminal.say)
            if found is None:
                return
            study = find_study(found)
        for line in status(study):
            terminal.say_wrapped(line, indent=" " * 10)


if __name__ == "__main__":
    kd_harness()
