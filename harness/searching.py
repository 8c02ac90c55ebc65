"""Search an opened study with the workers of this machine: prepare, run trials, train controls, report."""

from __future__ import annotations

from harness.outcome import Outcome
from harness.preparation.concurrency import workers_together
from harness.preparation.prepare import prepare
from harness.preparation.prepared import Prepared
from harness.reporting.parent import ParentRun
from harness.reporting.report import report
from harness.reporting.trials_table import picked
from harness.screen.terminal import Terminal
from harness.settings import Settings
from harness.space import SearchSpace
from harness.studies.study import Study
from harness.tracking.autologging import switch_off_autologging
from harness.tracking.mirror import Mirror
from harness.trials.context import TrialContext
from harness.trials.controls import describe_controls, untrained_controls
from harness.trials.forecasting import why_no_forecast
from harness.trials.progress import RetrainingDisplay, SearchDisplay
from harness.trials.pruning import why_no_pruning
from harness.trials.retraining import Retraining, mark_waiting_runs
from harness.trials.worker import sync_spools
from harness.trials.worker_pool import retrain_locally, search_locally

_INDENT = " " * 10


class Search:
    """A search in this process, and what it says of itself. Other processes may work on the same study.

    Args:
        settings: The settings of the search.
        space: The space, with the parameters that are held fixed.
        study: The study, opened.
        mirror: Sends the runs to the tracker; connected.
        terminal: Shows progress and the report.
    """

    def __init__(
        self, settings: Settings, space: SearchSpace, study: Study, mirror: Mirror, terminal: Terminal
    ) -> None:
        self._settings = settings
        self._space = space
        self._study = study
        self._mirror = mirror
        self._terminal = terminal
        terminal.say(_header(settings, study.finished()))
        for change in study.changes:
            terminal.say_wrapped(f"changed   {change}", indent=_INDENT)
        switch_off_autologging(terminal.say)
        study.retry.notifier.say = terminal.say

    def run(self) -> None:
        """Do all that is left: trials, then controls; and report."""
        settings, study = self._settings, self._study
        with ParentRun(study, settings, self._mirror, self._controls_left) as parent:
            sync_spools(study, self._mirror)
            if not study.is_over or self._controls_left() or settings.bound not in (None, study.bound):
                prepared = prepare(settings, self._space, study, self._terminal, self._mirror)
                switch_off_autologging(self._terminal.say)
                study.store_sources()
                parent.start(prepared)
                self._train(prepared)
            else:
                self._terminal.say(_finished(settings, study))
            if settings.timeout_s is not None and not study.is_over:
                self._terminal.say(f"the time is up with {_standing(settings, study)}; the same command goes on.")
            mark_waiting_runs(study, self._mirror)
            if study.is_over and study.finished() < settings.trials:
                self._terminal.say(f"the space is exhausted: {study.finished()} trials are all that it has.")
            report(study, self._terminal, parent.spool, anew=False)

    def stop(self) -> Outcome:
        """Say what is finished after a signal, and return how the search stands."""
        sync_spools(self._study, self._mirror)
        undone = len(self._controls_left())
        self._terminal.say_wrapped(_stopped(self._settings, self._study, undone))
        return self.outcome(is_over=self._study.is_over and not undone)

    def outcome(self, *, is_over: bool) -> Outcome:
        """Return how the search stands."""
        return Outcome(
            settings=self._settings,
            experiment_id=self._mirror.experiment_id,
            primary=self._study.primary,
            finished=self._study.finished(),
            is_over=is_over,
            is_exhausted=self._study.is_exhausted,
            has_picks=is_over and bool(picked(self._study)),
        )

    def _controls_left(self) -> list[Retraining]:
        study = self._study
        return untrained_controls(study, self._settings, self._space, picked(study)) if study.is_over else []

    def _train(self, prepared: Prepared) -> None:
        """Run trials, then the controls of those on the front."""
        settings, space, study, terminal = self._settings, self._space, self._study, self._terminal
        if settings.sampler == "front" and (why := why_no_forecast(space, study, prepared)):
            terminal.say(f"sampler   tpe, for {why}")
        if settings.pruner == "pareto" and (why := why_no_pruning(study)):
            terminal.say(f"pruner    none, for {why}")
        context = TrialContext(settings=settings, space=space, study=study, prepared=prepared, mirror=self._mirror)
        with SearchDisplay(terminal, study, prepared.epochs_of(space)) as display:
            search_locally(context, display)
        if left := self._controls_left():
            told = describe_controls(left, study, workers_together(settings, space, prepared.data.device))
            terminal.say_wrapped(f"controls  {told}{_fewer(settings)}", indent=_INDENT)
            names = [control.title for control in left]
            with RetrainingDisplay(terminal, "controls", names, prepared.epochs_of(space)) as bar:
                retrain_locally(left, context, bar)
        sync_spools(study, self._mirror)  # a worker elsewhere may have been lost before its last word


def _header(settings: Settings, finished: int) -> str:
    """Return the line that names the search, and how many trials earlier runs have finished."""
    held = [f"{name}={value}" for name, value in settings.fixed.items()]
    budgets = [f"{name} at most {value:g}" for name, value in settings.budgets.items()]
    asked = ", ".join([settings.space_name, settings.sampler, *held, *budgets])
    if finished > settings.trials:
        return f"study     {settings.study}: {finished} trials of {asked}, more than the {settings.trials} asked for"
    before = f"; {finished} are finished" if 0 < finished < settings.trials else ""
    return f"study     {settings.study}: {settings.trials} trials of {asked}{before}"


def _finished(settings: Settings, study: Study) -> str:
    """Return the line of a study that has nothing left to do, and how to go on."""
    if study.is_exhausted:
        return f"study {settings.study!r} is finished: its space is exhausted."
    count = study.finished()
    return f"study {settings.study!r} is finished: {count} trials; --trials {2 * count} would add as many."


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
