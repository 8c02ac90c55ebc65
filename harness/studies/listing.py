"""The studies of a storage: which there are, for whoever names none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import optuna

from harness.core.addresses import redact
from harness.core.errors import HarnessError
from harness.settings import Settings
from harness.storage.access import open_storage
from harness.studies.opening import see_that_it_exists


@dataclass(frozen=True)
class Listed:
    """A study of this program.

    Attributes:
        name: Its name.
        space: Name of the space that it searches.
        finished: Trials that are finished.
    """

    name: str
    space: str
    finished: int


def with_study(settings: Settings, say: Callable[[str], None]) -> Settings | None:
    """Return the settings with the only study of their storage, where they name none; list them if there are several.

    Args:
        settings: Name a storage, and a study or none.
        say: Called with each line of the list.

    Returns:
        The settings; ``None`` where the studies were listed.

    Raises:
        HarnessError: If there is no such storage, or no study in it.
    """
    if settings.study:
        return settings
    found = studies_in(settings)
    if not found:
        raise HarnessError(f"{redact(settings.storage)} must hold a study, but holds none of this program.")
    if len(found) == 1:
        return replace(settings, study=found[0].name)
    width = max(len(one.name) for one in found)
    for one in found:
        say(f"{one.name:<{width}}  {one.finished} trials of {one.space} finished")
    say(f"{len(found)} studies in {redact(settings.storage)}; --study names one")
    return None


def studies_in(settings: Settings) -> list[Listed]:
    """Return the studies of the settings' storage, by name."""
    see_that_it_exists(settings)
    storage = open_storage(settings)
    found = []
    for summary in optuna.get_all_study_summaries(storage.optuna):
        if identity := summary.user_attrs.get("kd.identity"):
            study = optuna.load_study(study_name=summary.study_name, storage=storage.optuna)
            states = (trial.state for trial in study.get_trials(deepcopy=False))
            finished = sum(state.is_finished() for state in states)
            found.append(Listed(summary.study_name, str(identity["space"]), finished))
    return sorted(found, key=lambda one: one.name)
