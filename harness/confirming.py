"""Confirm the picks of a study: train them with fresh seeds, score them on the test split, and report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from harness.core.errors import HarnessError
from harness.preparation.concurrency import workers_together
from harness.preparation.prepare import prepare
from harness.reporting.notes import nothing_to_confirm
from harness.reporting.report import report
from harness.reporting.result import collect
from harness.screen.terminal import Terminal
from harness.space import SearchSpace
from harness.studies.study import Study
from harness.teachers.outputs import SEARCHED
from harness.tracking.mirror import Mirror
from harness.tracking.spool import Spool
from harness.trials.confirm import SPLIT, confirmations, seeds_confirmed, untrained_confirmations
from harness.trials.context import TrialContext
from harness.trials.controls import describe_controls, untrained_controls
from harness.trials.new_data_scores import score_on
from harness.trials.progress import RetrainingDisplay
from harness.trials.retraining import Retraining
from harness.trials.worker import sync_spools
from harness.trials.worker_pool import retrain_locally


def confirm_picks(
    study: Study, space: SearchSpace, seeds: int, mirror: Mirror, terminal: Terminal, *, on: Path | None = None
) -> None:
    """Train what has no result yet of the picks and their controls, and report.

    Args:
        study: The study, reopened.
        space: Its space.
        seeds: Number of fresh seeds for each.
        on: New data that all of them are scored on too; ``None`` for none.
        mirror: Sends the runs to the tracker.
        terminal: Shows progress and the report.

    Raises:
        HarnessError: If the study has no pick.
    """
    study.retry.notifier.say = terminal.say
    settings, found = study.settings, collect(study)
    if not found.picked:
        raise HarnessError(nothing_to_confirm(found))
    mirror.connect(settings.experiment, settings.runs_dir, say=terminal.say)
    study.join()
    sync_spools(study, mirror)
    if study.finished() < len(study.trials()):
        terminal.say("the search is not over: these are its picks so far.")
    spool = Spool(study.folder, mirror.notify)
    if is_confirmed := _is_confirmed(study, space, found.picked, seeds):
        terminal.say(f"study {settings.study!r} is confirmed with {seeds} seeds; --seeds takes more.")
    if on is not None or not is_confirmed:
        prepared = prepare(settings, space, study, terminal, mirror, splits=(*SEARCHED, SPLIT), on=on)
        new, prepared = prepared.new, replace(prepared, new=None)  # workers do without it
        context = TrialContext(settings=settings, space=space, study=study, prepared=prepared, mirror=mirror)
        _train(context, found.picked, seeds, terminal)
        if on is not None and new is not None:
            trained = confirmations(study, settings, space, found.picked, max(seeds, seeds_confirmed(study)))
            with terminal.spinner(f"scoring on {on} …"):
                score_on(on, new, trained, context, spool, terminal.say_wrapped)
    report(study, terminal, spool)
    spool.close()


def _is_confirmed(study: Study, space: SearchSpace, picks: Mapping[int, str], seeds: int) -> bool:
    """Return whether the picks, their controls and the teacher have all of their scores."""
    settings = study.settings
    return not (
        untrained_controls(study, settings, space, picks, of=picks)
        or untrained_confirmations(study, settings, space, picks, seeds)
        or study.tested_teacher is None
    )


def _train(context: TrialContext, picks: Mapping[int, str], seeds: int, terminal: Terminal) -> None:
    """Score the teacher; train the controls of a search that had fewer of them, then all with fresh seeds."""
    settings, space, study, prepared = context.settings, context.space, context.study, context.prepared
    if study.tested_teacher is None:
        study.tested_teacher = prepared.teacher_scores(space, SPLIT)
    if tries := untrained_controls(study, settings, space, picks, of=picks):
        told = describe_controls(tries, study, workers_together(settings, space, prepared.data.device))
        terminal.say_wrapped(f"controls  {told}; --controls plain leaves out the tuned ones", indent=" " * 10)
        _retrain("controls", tries, context, terminal)
    if left := untrained_confirmations(study, settings, space, picks, seeds):
        _retrain("confirm", left, context, terminal)


def _retrain(label: str, retrainings: list[Retraining], context: TrialContext, terminal: Terminal) -> None:
    titles = [retraining.title for retraining in retrainings]
    with RetrainingDisplay(terminal, label, titles, context.prepared.epochs_of(context.space)) as display:
        retrain_locally(retrainings, context, display)
