"""A search, whole: what one process does of it, wherever it runs and however many others work on the same study."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from harness.cli.search import command_for, next_steps
from harness.core.errors import Interrupted
from harness.settings import Settings

if TYPE_CHECKING:
    from harness.screen.terminal import Terminal
    from harness.space import SearchSpace
    from harness.studies.study import Study


def run_search(settings: Settings, given: SearchSpace | None = None) -> None:
    """Open the study, prepare, search with the workers of this machine, train controls, report.

    Args:
        settings: What is asked for.
        given: The space, where Python gives it; else the settings' space file is run.

    Raises:
        HarnessError: For whatever the person can mend.
        Interrupted: After a signal; nothing is lost.
    """
    from harness.screen.terminal import Terminal
    from harness.tracking.mirror import Mirror

    terminal = Terminal()
    # The mirror's process imports MLflow and connects while this one imports torch.
    with Mirror(remedy=command_for("report", settings)) as mirror, contextlib.ExitStack() as reach:
        mirror.begin_to_connect(settings.tracking_uri, settings.experiment, settings.runs_dir, say=terminal.say)
        with _saying_if_stopped(terminal), terminal.loading("PyTorch, Optuna and MLflow"):
            from harness.preparation.concurrency import workers_together
            from harness.preparation.prepare import prepare
            from harness.region import check_name
            from harness.reporting.parent import ParentRun
            from harness.reporting.report import report
            from harness.reporting.result import picked
            from harness.sampling.first_trials import first_trials
            from harness.space import load_space
            from harness.storage.access import STORAGE_ERRORS, open_storage, storage_in_reach
            from harness.studies.opening import open_study
            from harness.tracking.autologging import switch_off_autologging
            from harness.training.fit import device_of
            from harness.trials.context import TrialContext
            from harness.trials.controls import announcement, controls
            from harness.trials.displays import retraining_display, search_display
            from harness.trials.local import retrain_here, search_here
            from harness.trials.prospects import unforeseeable
            from harness.trials.pruning import unprunable
            from harness.trials.retraining import Retraining, let_wait
            from harness.trials.worker import catch_up

            whole_space = given or load_space(settings.space_file, settings.epochs)
            space = whole_space.fixed(settings.fixed)
            first_trials(space, settings.recipes)  # says now, if one is out of reach
            check_name(settings.bound, space.task)  # and if it bounds something else
            device_of(settings.accelerator)  # and if there is none
            storage = open_storage(settings, say=terminal.say)
            reach.enter_context(storage_in_reach(settings))
            mirror.wait_until_connected()
            study = open_study(settings, whole_space, storage)
        terminal.say(_header(settings, study.finished()))
        for change in study.changes:
            terminal.tell(f"changed   {change}", indent=" " * 10)
        switch_off_autologging(terminal.say)
        study.retry.notifier.say = terminal.say

        def controls_left() -> list[Retraining]:
            return controls(study, settings, space, picked(study)) if study.is_over else []

        def steps(*, is_over: bool) -> str:
            has_picks = is_over and bool(picked(study))
            return next_steps(
                settings, study, mirror.experiment_id, is_over=is_over, has_picks=has_picks, by_command=given is None
            )

        try:
            with ParentRun(study, settings, mirror, controls_left) as parent:
                catch_up(study, mirror)
                if not study.is_over or controls_left() or settings.bound not in (None, study.bound):
                    prepared = prepare(settings, space, study, terminal, mirror)
                    switch_off_autologging(terminal.say)
                    study.store_sources()
                    parent.start(prepared)
                    if settings.sampler == "front" and (why := unforeseeable(space, study, prepared)):
                        terminal.say(f"sampler   tpe, for {why}")
                    if settings.pruner == "pareto" and (why := unprunable(study)):
                        terminal.say(f"pruner    none, for {why}")
                    context = TrialContext(
                        settings=settings, space=space, study=study, prepared=prepared, mirror=mirror
                    )
                    with search_display(terminal, study, space.epochs) as display:
                        search_here(context, display)
                    if left := controls_left():
                        told = announcement(left, study, workers_together(settings, space, prepared.data.device))
                        terminal.tell(f"controls  {told}{_fewer(settings)}", indent=" " * 10)
                        names = [control.title for control in left]
                        with retraining_display(terminal, "controls", names, space.epochs) as bar:
                            retrain_here(left, context, bar)
                    catch_up(study, mirror)  # a worker elsewhere may have been lost before its last word
                elif study.is_exhausted:
                    terminal.say(f"study {settings.study!r} is finished: its space is exhausted.")
                else:
                    terminal.say(
                        f"study {settings.study!r} is finished: {study.finished()} trials; --trials "
                        f"{2 * study.finished()} would add as many."
                    )
                if settings.timeout_s is not None and not study.is_over:
                    terminal.say(f"the time is up with {_standing(settings, study)}; the same command goes on.")
                let_wait(study, mirror)
                if study.is_over and study.finished() < settings.trials:
                    terminal.say(f"the space is exhausted: {study.finished()} trials are all that it has.")
                report(study, terminal, parent.spool, anew=False)
        except Interrupted:
            study.retry.set_deadline()
            try:
                catch_up(study, mirror)
                undone = len(controls_left())
                terminal.tell(_stopped(settings, study, undone))
                terminal.say(steps(is_over=study.is_over and not undone))
            except STORAGE_ERRORS:
                terminal.say("stopped while the storage is away; nothing is lost, and the same command goes on.")
            raise
        terminal.say(steps(is_over=study.is_over))


@contextlib.contextmanager
def _saying_if_stopped(terminal: Terminal) -> Iterator[None]:
    try:
        yield
    except Interrupted:
        terminal.say("stopped before the search began; nothing is lost, and the same command goes on.")
        raise


def _header(settings: Settings, finished: int) -> str:
    """Return what is searched, and how far it was before."""
    held = [f"{name}={value}" for name, value in settings.fixed.items()]
    budgets = [f"{name} at most {value:g}" for name, value in settings.budgets.items()]
    asked = ", ".join([settings.space_name, settings.sampler, *held, *budgets])
    if finished > settings.trials:
        return f"study     {settings.study}: {finished} trials of {asked}, more than the {settings.trials} asked for"
    before = f"; {finished} are finished" if 0 < finished < settings.trials else ""
    return f"study     {settings.study}: {settings.trials} trials of {asked}{before}"


def _stopped(settings: Settings, study: Study, controls: int) -> str:
    """Return what stands after a signal, and what will go on."""
    if controls:
        return (
            f"stopped with all {study.finished()} trials finished and {controls} controls left; the same "
            "command trains them, those that were cut from their last checkpoints, and --no-controls leaves them out"
            f"{_fewer(settings)}; nothing is lost."
        )
    return f"stopped with {_standing(settings, study)}; nothing is lost."


def _fewer(settings: Settings) -> str:
    """Return which flag asks for fewer controls, where one does."""
    return "; --controls plain leaves out the tuned ones" if settings.controls == "tuned" else ""


def _standing(settings: Settings, study: Study) -> str:
    """Return how far the search is."""
    running = study.running()
    begun = f" and {running} more begun, which go on from their last checkpoints" if running else ""
    return f"{study.finished()} of {settings.trials} trials finished{begun}"
