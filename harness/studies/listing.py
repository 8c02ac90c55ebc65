"""The studies of a storage: which there are, for whoever names none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import optuna

from harness.core.addresses import redact
from harness.core.errors import HarnessError
from harness.settings import Places, StudyPlaces
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


def choose_study(places: Places, study: str | None, say: Callable[[str], None]) -> StudyPlaces | None:
    """Return the study of a name, or the only study of a storage; list the studies if there are several.

    Args:
        places: Name the storage.
        study: Name of the study; ``None`` where none is named.
        say: Called with each line of the list.

    Returns:
        The study and its places; ``None`` where the studies were listed.

    Raises:
        HarnessError: If no study is named, and there is no such storage or no study in it.
    """
    if study is not None:
        return StudyPlaces(**vars(places), study=study)
    found = studies_in(places)
    if not found:
        raise HarnessError(f"{redact(places.storage)} must hold a study, but holds none of this program.")
    if len(found) == 1:
        return StudyPlaces(**vars(places), study=found[0].name)
    width = max(len(one.name) for one in found)
    for one in found:
        say(f"{one.name:<{width}}  {one.finished} trials of {one.space} finished")
    say(f"{len(found)} studies in {redact(places.storage)}; --study names one")
    return None


def studies_in(places: Places) -> list[Listed]:
    """Return the studies of a storage, by name."""
    see_that_it_exists(places)
    storage = open_storage(places)
    found = []
    for summary in optuna.get_all_study_summaries(storage.optuna):
        if identity := summary.user_attrs.get("kd.identity"):
            study = optuna.load_study(study_name=summary.study_name, storage=storage.optuna)
            states = (trial.state for trial in study.get_trials(deepcopy=False))
            finished = sum(state.is_finished() for state in states)
            found.append(Listed(summary.study_name, str(identity["space"]), finished))
    return sorted(found, key=lambda one: one.name)
