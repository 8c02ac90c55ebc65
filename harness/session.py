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
            from harness.region import check_name
            from harness.sampling.first_trials import first_trials
            from harness.searching import Search
            from harness.space import load_space
            from harness.storage.access import STORAGE_ERRORS, open_storage, storage_in_reach
            from harness.studies.opening import open_study
            from harness.training.fit import device_of

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
        search = Search(settings, space, study, mirror, terminal)
        try:
            search.run()
        except Interrupted as interrupted:
            study.retry.set_deadline()
            try:
                stopped = search.stop()
            except STORAGE_ERRORS:
                terminal.say("stopped while the storage is away; nothing is lost, and the same command goes on.")
                raise interrupted from None
            raise SearchInterrupted(interrupted.signal_number, stopped) from None
        return search.outcome(is_over=study.is_over)


@contextlib.contextmanager
def _saying_if_stopped(terminal: Terminal) -> Iterator[None]:
    try:
        yield
    except Interrupted:
        terminal.say("stopped before the search began; nothing is lost, and the same command goes on.")
        raise
