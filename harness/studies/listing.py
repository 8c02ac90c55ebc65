"""List the studies of a storage, for commands that name none."""

from __future__ import annotations

from collections.abc import Callable

import optuna

from harness.core.addresses import redact
from harness.core.errors import HarnessError
from harness.settings import Places, StudyPlaces
from harness.storage.access import open_storage
from harness.studies.opening import check_storage_exists


def choose_study(places: Places, study: str | None, say: Callable[[str], None]) -> StudyPlaces | None:
    """Return the study of a name, or the only study of a storage; list the studies if there are several.

    Args:
        places: Name the storage.
        study: Name of the study; ``None`` if none is named.
        say: Called with each line of the list.

    Returns:
        The study and its places; ``None`` if the studies were listed.

    Raises:
        HarnessError: If no study is named, and there is no such storage or no study in it.
    """
    if study is not None:
        return StudyPlaces(**vars(places), study=study)
    check_storage_exists(places)
    storage = open_storage(places).optuna
    studies = sorted(optuna.get_all_study_summaries(storage), key=lambda one: one.study_name)
    identities = {one.study_name: one.user_attrs.get("kd.identity") for one in studies}
    spaces = {name: identity["space"] for name, identity in identities.items() if identity}
    if not spaces:
        raise HarnessError(f"{redact(places.storage)} must hold a study, but holds none of this program.")
    if len(spaces) == 1:
        return StudyPlaces(**vars(places), study=next(iter(spaces)))
    width = max(map(len, spaces))
    for name, space in spaces.items():
        trials = optuna.load_study(study_name=name, storage=storage).get_trials(deepcopy=False)
        say(f"{name:<{width}}  {sum(trial.state.is_finished() for trial in trials)} trials of {space} finished")
    say(f"{len(spaces)} studies in {redact(places.storage)}; --study names one")
    return None
