"""List the studies of a storage, for commands that name none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import optuna

from harness.core.addresses import redact
from harness.core.errors import HarnessError
from harness.settings import Settings
from harness.storage.access import open_storage
from harness.studies.opening import check_storage_exists


def with_study(settings: Settings, say: Callable[[str], None]) -> Settings | None:
    """Complete settings that name no study with the only one of their storage; list the studies if there are several.

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
    check_storage_exists(settings)
    storage = open_storage(settings).optuna
    studies = sorted(optuna.get_all_study_summaries(storage), key=lambda study: study.study_name)
    identities = {study.study_name: study.user_attrs.get("kd.identity") for study in studies}
    spaces = {name: identity["space"] for name, identity in identities.items() if identity}
    if not spaces:
        raise HarnessError(f"{redact(settings.storage)} must hold a study, but holds none of this program.")
    if len(spaces) == 1:
        return replace(settings, study=next(iter(spaces)))
    width = max(map(len, spaces))
    for name, space in spaces.items():
        trials = optuna.load_study(study_name=name, storage=storage).get_trials(deepcopy=False)
        say(f"{name:<{width}}  {sum(trial.state.is_finished() for trial in trials)} trials of {space} finished")
    say(f"{len(spaces)} studies in {redact(settings.storage)}; --study names one")
    return None
