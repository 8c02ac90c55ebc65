"""``kd-harness`` and ``python -m harness``: check a task, search it; look at a study, test it, move it."""

from __future__ import annotations

import contextlib
import sys

from harness.cli.commands import parse_command
from harness.cli.search import command_for, run
from harness.launchers import launch
from harness.settings import Settings


def kd_harness() -> None:
    """Run the command ``kd-harness``."""
    run(main)


def main() -> None:
    """Parse, and do what is asked."""
    command, settings, placement = parse_command()
    if command == "search":
        launch(settings, placement)
        return
    {"confirm": confirm, "doctor": doctor, "move": move, "report": report, "status": status}[command](settings)


def confirm(settings: Settings) -> None:
    """Reopen the study, prepare, train its picks and controls with fresh seeds, report."""
    from harness.tracking.mirror import Mirror

    with Mirror(remedy=command_for("report", settings)) as mirror, contextlib.ExitStack() as reach:
        from harness.screen.terminal import Terminal

        terminal = Terminal()
        with terminal.loading("PyTorch, Optuna and MLflow"):
            from harness.core.errors import HarnessError
            from harness.preparation.concurrency import workers_together
            from harness.preparation.prepare import prepare
            from harness.preparation.scoring import score
            from harness.reporting.notes import nothing_to_confirm
            from harness.reporting.report import report
            from harness.reporting.result import collect
            from harness.storage.access import storage_in_reach
            from harness.studies.opening import reopen_study
            from harness.teachers.outputs import SEARCHED
            from harness.tracking.spool import Spool
            from harness.trials.confirm import SPLIT, confirmations
            from harness.trials.context import TrialContext
            from harness.trials.controls import announcement, controls
            from harness.trials.displays import retraining_display
            from harness.trials.local import retrain_here
            from harness.trials.worker import catch_up

            reach.enter_context(storage_in_reach(settings))
            study, space = reopen_study(settings)
        study.retry.notifier.say = terminal.say
        settings = study.settings
        found = collect(study)
        picks = found.picked
        if not picks:
            raise HarnessError(nothing_to_confirm(found))
        mirror.connect(settings.tracking_uri, settings.experiment, settings.runs_dir, say=terminal.say)
        study.join()
        catch_up(study, mirror)
        if study.finished() < len(study.trials()):
            terminal.say("the search is not over: these are its picks so far.")
        spool = Spool(study.folder, mirror.notify)
        tries = controls(study, settings, space, picks, of=picks)
        if tries or confirmations(study, settings, space, picks, settings.seeds) or study.tested_teacher is None:
            prepared = prepare(settings, space, study, terminal, mirror, splits=(*SEARCHED, SPLIT))
            context = TrialContext(settings=settings, space=space, study=study, prepared=prepared, mirror=mirror)
            if study.tested_teacher is None:
                logits = prepared.data.teacher_outputs[SPLIT]["logits"]
                study.tested_teacher = score(logits, prepared.data, space, prepared.classes, split=SPLIT)
            if tries := controls(study, settings, space, picks, of=picks):  # of a search that had fewer controls
                told = announcement(tries, study, workers_together(settings, space, prepared.data.device))
                terminal.tell(f"controls  {told}; --controls plain leaves out the tuned ones", indent=" " * 10)
                titles = [retraining.title for retraining in tries]
                with retraining_display(terminal, "controls", titles, space.epochs) as display:
                    retrain_here(tries, context, display)
            left = confirmations(study, settings, space, picks, settings.seeds)
            titles = [retraining.title for retraining in left]
            with retraining_display(terminal, "confirm", titles, space.epochs) as display:
                retrain_here(left, context, display)
        else:
            terminal.say(f"study {settings.study!r} is confirmed with {settings.seeds} seeds; --seeds takes more.")
        report(study, terminal, spool)
        spool.close()


def doctor(settings: Settings) -> None:
    """Check a task and its space; exit with code 1 if a check fails."""
    from harness.doctor import diagnose
    from harness.screen.terminal import Terminal

    if any(finding.state == "FAILED" for finding in diagnose(settings, Terminal())):
        sys.exit(1)


def move(settings: Settings) -> None:
    """Move a study to another storage."""
    from harness.screen.terminal import Terminal
    from harness.studies.move import move

    move(settings, Terminal())


def report(settings: Settings) -> None:
    """Read the study, report."""
    from harness.tracking.mirror import Mirror

    with Mirror(remedy=command_for("report", settings)) as mirror, contextlib.ExitStack() as reach:
        from harness.screen.terminal import Terminal

        terminal = Terminal()
        with terminal.loading("PyTorch and Optuna"):
            from harness.core.errors import HarnessError
            from harness.reporting.report import report
            from harness.storage.access import storage_in_reach
            from harness.studies.listing import with_study
            from harness.studies.opening import find_study
            from harness.tracking.spool import Spool
            from harness.trials.worker import catch_up

            reach.enter_context(storage_in_reach(settings))
            named = with_study(settings, terminal.say)
            if named is None:
                return
            settings = named
            study = find_study(settings)
        study.retry.notifier.say = terminal.say
        try:
            mirror.connect(settings.tracking_uri, f"kd-{study.space_name}", settings.runs_dir, say=terminal.say)
        except HarnessError as error:
            terminal.say(f"the report is not logged to MLflow: {error}")
            report(study, terminal)
        else:
            spool = Spool(study.folder, mirror.notify) if study.owns_folder() else None
            if spool is not None:
                catch_up(study, mirror)
            report(study, terminal, spool if spool is not None and spool.begun else None)
            if spool is not None:
                spool.close()


def status(settings: Settings) -> None:
    """Read the study, say how it stands."""
    from harness.screen.terminal import Terminal

    terminal = Terminal()
    with contextlib.ExitStack() as reach:
        with terminal.loading("PyTorch and Optuna"):
            from harness.storage.access import storage_in_reach
            from harness.studies.listing import with_study
            from harness.studies.opening import find_study
            from harness.studies.status import status

            reach.enter_context(storage_in_reach(settings))
            named = with_study(settings, terminal.say)
            if named is None:
                return
            study = find_study(named)
        for line in status(study):
            terminal.tell(line, indent=" " * 10)


if __name__ == "__main__":
    kd_harness()
