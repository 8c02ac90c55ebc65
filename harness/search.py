"""A search, whole: what one process does of it, wherever it runs and however many others work on the same study."""

from __future__ import annotations

from harness.cli import next_steps
from harness.settings import Settings


def search(settings: Settings) -> None:
    """Open the study, prepare, search with the workers of this machine, train controls, report.

    Args:
        settings: What the command line asks for.

    Raises:
        HarnessError: For whatever the person can mend.
        Interrupted: After a signal; nothing is lost.
    """
    from harness.mirror import Mirror
    from harness.terminal import Terminal

    terminal = Terminal()
    held = [f"{name}={value}" for name, value in settings.fixed.items()]
    budgets = [f"{name} at most {value:g}" for name, value in settings.budgets.items()]
    asked = ", ".join([settings.space_name, settings.sampler, *held, *budgets])
    terminal.say(f"study     {settings.study}: {settings.trials} trials of {asked}")
    with Mirror() as mirror:  # its process imports MLflow and connects while this one imports torch
        mirror.begin_to_connect(settings.tracking_uri, settings.experiment, settings.runs_dir, say=terminal.say)
        from harness.controls import controls, due
        from harness.errors import Interrupted
        from harness.first_trials import first_trials
        from harness.launchers.local import retrain_here, search_here
        from harness.opening import open_study
        from harness.parent import ParentRun
        from harness.prepare import prepare
        from harness.pruning import unprunable
        from harness.report import report
        from harness.space import load_space
        from harness.storage import STORAGE_ERRORS, open_storage, storage_in_reach
        from harness.worker import catch_up

        whole_space = load_space(settings.space_file)
        space = whole_space.fixed(settings.fixed)
        first_trials(space, settings.recipes)  # says now, if one is out of reach
        storage = open_storage(settings)
        mirror.wait_until_connected()
        study = open_study(settings, whole_space, storage)
        study.patience.word.say = terminal.say
        try:
            with storage_in_reach(settings), ParentRun(study, settings, mirror) as parent:
                catch_up(study, mirror)
                if not study.is_over or (settings.controls and due(study)):
                    prepared = prepare(settings, space, study, terminal, mirror)
                    parent.start(prepared)
                    if settings.pruner == "pareto" and (why := unprunable(study)):
                        terminal.say(f"pruner    none, for {why}")
                    epochs = settings.epochs or space.epochs
                    with terminal.search(study, epochs) as display:
                        search_here(settings, space, study, prepared, mirror, display)
                    if settings.controls and study.is_over and (left := controls(study, settings, space)):
                        names = [control.title for control in left]
                        with terminal.retraining("controls", names, epochs) as bar:
                            retrain_here(left, settings, space, study, prepared, mirror, bar)
                    catch_up(study, mirror)  # a worker elsewhere may have been lost before its last word
                elif study.is_exhausted:
                    terminal.say(f"study {settings.study!r} is finished: its space is exhausted.")
                else:
                    terminal.say(
                        f"study {settings.study!r} is finished: {study.finished()} trials; --trials "
                        f"{2 * study.finished()} would add as many."
                    )
                if study.is_over and study.finished() < settings.trials:
                    terminal.say(f"the space is exhausted: {study.finished()} trials are all that it has.")
                report(study, terminal, parent.spool)
        except Interrupted:
            study.patience.hurry()
            try:
                catch_up(study, mirror)
                cut = study.running()
                going_on = f"; {cut} will go on from their last epochs" if cut else ""
                terminal.say(
                    f"stopped with {study.finished()} of {settings.trials} trials finished{going_on}; nothing is lost."
                )
                terminal.say(next_steps(settings, study, mirror.experiment_id))
            except STORAGE_ERRORS:
                terminal.say("stopped while the storage is away; nothing is lost, and the same command goes on.")
            raise
        terminal.say(next_steps(settings, study, mirror.experiment_id))
