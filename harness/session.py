"""Run a search in this process. Other processes, here or elsewhere, may work on the same study."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from harness.core.errors import Interrupted
from harness.hints import report_command
from harness.outcome import Outcome, SearchInterrupted
from harness.settings import Settings

if TYPE_CHECKING:
    from harness.screen.terminal import Terminal
    from harness.space import SearchSpace
    from harness.studies.study import Study


def search_and_print(
    settings: Settings, next_steps: Callable[[Outcome], str], given: SearchSpace | None = None
) -> None:
    """Search as ``run_search`` does, and print the next steps, after an interrupt too.

    Args:
        settings: The settings of the search.
        next_steps: Returns the text to print.
        given: The space, where Python gives it.
    """
    from harness.screen.terminal import Terminal

    try:
        outcome = run_search(settings, given)
    except SearchInterrupted as interrupted:
        Terminal().say(next_steps(interrupted.outcome))
        raise
    Terminal().say(next_steps(outcome))


def run_search(settings: Settings, given: SearchSpace | None = None) -> Outcome:
    """Open the study, prepare, search with the workers of this machine, train controls, report.

    Args:
        settings: The settings of the search.
        given: The space, where Python gives it; else the settings' space file is run.

    Returns:
        How the search stands at its end.

    Raises:
        HarnessError: For a mistake that a person can correct.
        SearchInterrupted: After a signal; nothing is lost.
        Interrupted: After a signal before the search has begun, or while the storage is away.
    """
    from harness.screen.terminal import Terminal
    from harness.tracking.mirror import Mirror

    terminal = Terminal()
    # The mirror's process imports MLflow and connects while this one imports torch.
    with (
        Mirror(settings.tracking_uri, remedy=report_command(settings)) as mirror,
        contextlib.ExitStack() as reach,
    ):
        mirror.begin_to_connect(settings.experiment, settings.runs_dir, say=terminal.say)
        with _saying_if_stopped(terminal), terminal.loading("PyTorch, Optuna and MLflow"):
            from harness.preparation.concurrency import workers_together
            from harness.preparation.prepare import prepare
            from harness.region import check_name
            from harness.reporting.parent import ParentRun
            from harness.reporting.report import report
            from harness.reporting.trials_table import picked
            from harness.sampling.first_trials import first_trials
            from harness.space import load_space
            from harness.storage.access import STORAGE_ERRORS, open_storage, storage_in_reach
            from harness.studies.opening import open_study
            from harness.tracking.autologging import switch_off_autologging
            from harness.training.fit import device_of
            from harness.trials.context import TrialContext
            from harness.trials.controls import describe_controls, untrained_controls
            from harness.trials.forecasting import why_no_forecast
            from harness.trials.progress import RetrainingDisplay, SearchDisplay
            from harness.trials.pruning import why_no_pruning
            from harness.trials.retraining import Retraining, mark_waiting_runs
            from harness.trials.worker import sync_spools
            from harness.trials.worker_pool import retrain_locally, search_locally

            whole_space = given or load_space(settings.file_of_space, settings.epochs)
            space = whole_space.fixed(settings.fixed)
            first_trials(space, settings.recipes)  # says now, if one is out of reach
            check_name(settings.bound, space.task)  # and if it bounds something else
            device_of(settings.accelerator)  # and if there is none
            storage = open_storage(settings, say=terminal.say)
            reach.callback(storage.close_connections)
            reach.enter_context(storage_in_reach(settings))
            mirror.wait_until_connected()
            study = open_study(settings, whole_space, storage)
        terminal.say(_header(settings, study.finished()))
        for change in study.changes:
            terminal.say_wrapped(f"changed   {change}", indent=" " * 10)
        switch_off_autologging(terminal.say)
        study.retry.notifier.say = terminal.say

        def controls_left() -> list[Retraining]:
            return untrained_controls(study, settings, space, picked(study)) if study.is_over else []

        def outcome(*, is_over: bool) -> Outcome:
            return Outcome(
                settings=settings,
                experiment_id=mirror.experiment_id,
                primary=study.primary,
                finished=study.finished(),
                is_over=is_over,
                is_exhausted=study.is_exhausted,
                has_picks=is_over and bool(picked(study)),
            )

        try:
            with ParentRun(study, settings, mirror, controls_left) as parent:
                sync_spools(study, mirror)
                if not study.is_over or controls_left() or settings.bound not in (None, study.bound):
                    prepared = prepare(settings, space, study, terminal, mirror)
                    switch_off_autologging(terminal.say)
                    study.store_sources()
                    parent.start(prepared)
                    if settings.sampler == "front" and (why := why_no_forecast(space, study, prepared)):
                        terminal.say(f"sampler   tpe, for {why}")
                    if settings.pruner == "pareto" and (why := why_no_pruning(study)):
                        terminal.say(f"pruner    none, for {why}")
                    context = TrialContext(
                        settings=settings, space=space, study=study, prepared=prepared, mirror=mirror
                    )
                    with SearchDisplay(terminal, study, space.epochs) as display:
                        search_locally(context, display)
                    if left := controls_left():
                        told = describe_controls(left, study, workers_together(settings, space, prepared.data.device))
                        terminal.say_wrapped(f"controls  {told}{_fewer(settings)}", indent=" " * 10)
                        names = [control.title for control in left]
                        with RetrainingDisplay(terminal, "controls", names, space.epochs) as bar:
                            retrain_locally(left, context, bar)
                    sync_spools(study, mirror)  # a worker elsewhere may have been lost before its last word
                elif study.is_exhausted:
                    terminal.say(f"study {settings.study!r} is finished: its space is exhausted.")
                else:
                    terminal.say(
                        f"study {settings.study!r} is finished: {study.finished()} trials; --trials "
                        f"{2 * study.finished()} would add as many."
                    )
                if settings.timeout_s is not None and not study.is_over:
                    terminal.say(f"the time is up with {_standing(settings, study)}; the same command goes on.")
                mark_waiting_runs(study, mirror)
                if study.is_over and study.finished() < settings.trials:
                    terminal.say(f"the space is exhausted: {study.finished()} trials are all that it has.")
                report(study, terminal, parent.spool, anew=False)
        except Interrupted as interrupted:
            study.retry.set_deadline()
            try:
                sync_spools(study, mirror)
                undone = len(controls_left())
                terminal.say_wrapped(_stopped(settings, study, undone))
                stopped = outcome(is_over=study.is_over and not undone)
            except STORAGE_ERRORS:
                terminal.say("stopped while the storage is away; nothing is lost, and the same command goes on.")
                raise interrupted from None
            raise SearchInterrupted(interrupted.signal_number, stopped) from None
        return outcome(is_over=study.is_over)


@contextlib.contextmanager
def _saying_if_stopped(terminal: Terminal) -> Iterator[None]:
    try:
        yield
    except Interrupted:
        terminal.say("stopped before the search began; nothing is lost, and the same command goes on.")
        raise


def _header(settings: Settings, finished: int) -> str:
    """Return the line that names the search, and how many trials earlier runs have finished."""
    held = [f"{name}={value}" for name, value in settings.fixed.items()]
    budgets = [f"{name} at most {value:g}" for name, value in settings.budgets.items()]
    asked = ", ".join([settings.space_name, settings.sampler, *held, *budgets])
    if finished > settings.trials:
        return f"study     {settings.study}: {finished} trials of {asked}, more than the {settings.trials} asked for"
    before = f"; {finished} are finished" if 0 < finished < settings.trials else ""
    return f"study     {settings.study}: {settings.trials} trials of {asked}{before}"


def _stopped(settings: Settings, study: Study, controls: int) -> str:
    """Return the line that is printed after a signal: what is finished, and what the same command resumes."""
    if controls:
        return (
            f"stopped with all {study.finished()} trials finished and {controls} controls left; the same "
            "command trains them, those that were cut from their last checkpoints, and --no-controls leaves them out"
            f"{_fewer(settings)}; nothing is lost."
        )
    return f"stopped with {_standing(settings, study)}; nothing is lost."


def _fewer(settings: Settings) -> str:
    """Return the option that leaves out the tuned controls, where they are trained."""
    return "; --controls plain leaves out the tuned ones" if settings.controls == "tuned" else ""


def _standing(settings: Settings, study: Study) -> str:
    """Return how many trials are finished and running."""
    running = study.running()
    begun = f" and {running} more begun, which go on from their last checkpoints" if running else ""
    return f"{study.finished()} of {settings.trials} trials finished{begun}"
