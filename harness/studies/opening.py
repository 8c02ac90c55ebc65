"""Opening a study: created, resumed if it is the same one, or found to be read; and whose its folder is."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import check_distribution_compatibility
from optuna.trial import TrialState

from harness.core.addresses import is_server, redact, sqlite_path
from harness.core.content import FolderLock, write_atomically
from harness.core.errors import HarnessError, did_you_mean
from harness.core.sources import Code
from harness.metrics import DEFAULT_OBJECTIVES, METRICS
from harness.options.spaces import space_argument, space_file, space_names
from harness.settings import ConfirmSettings, Places, Settings, StudyPlaces
from harness.space import SearchSpace, load_space
from harness.storage.access import Storage, open_storage
from harness.storage.database_locks import alone
from harness.storage.location import HERE_ATTR, MOVING_ATTR, here, is_first_start, see_that_it_is_here
from harness.storage.retry import RetryPolicy, server_is_away
from harness.studies.changes import check_code, check_format, with_format
from harness.studies.study import MARK, Study

_MAKING_ATTR = "kd.making"
_FLAGS = {name: f"--{name}" for name in ("space", "objectives", "epochs", "seed", "max")} | {"fixed": "--fix"}
_ADJUSTABLE = ("region",)
"""What of a study's identity may be another one when it is resumed (``Record.bound`` is the latest)."""


def open_study(settings: Settings, space: SearchSpace, storage: Storage) -> Study:
    """Create the study, or resume it if it is the same one.

    Args:
        settings: Names it.
        space: Its whole space, nothing held fixed.
        storage: Where it is, or will be.

    Raises:
        HarnessError: If the stored study is of another space, other objectives, another number of epochs or another
            seed, stands on other code that is not accepted, was made by another version of this program, or was moved,
            or an objective is unknown.
    """
    objectives = settings.objectives or (space.task.metric_name, *DEFAULT_OBJECTIVES)
    directions = [_direction(name, space) for name in objectives]
    identity = with_format(
        {
            "space": settings.space_name,
            "parameters": space.declaration(),
            "objectives": list(objectives),
            "epochs": space.epochs,
            "seed": settings.seed,
            "fixed": dict(settings.fixed),
            "max": dict(settings.budgets),
            "region": settings.bound and str(settings.bound),
        }
    )
    with alone([storage.server], f"open {settings.study}", settings.study_dir.with_name(f".{settings.study}.lock")):
        if settings.study in optuna.get_all_study_names(storage.optuna):
            loaded = optuna.load_study(study_name=settings.study, storage=storage.optuna)
            see_that_it_is_here(loaded.user_attrs, settings)
            stored = loaded.user_attrs.get("kd.identity")
            empty = not loaded.user_attrs and not loaded.get_trials(deepcopy=False)  # cut right after it was created
            if stored is None and _MAKING_ATTR not in loaded.user_attrs and not empty:
                raise HarnessError(
                    f"study {settings.study!r} in {redact(settings.storage)} was not made by this program; "
                    "use --study to name a new one."
                )
        else:
            loaded, stored = None, None
        if loaded is not None and stored is not None and not _begins_anew(loaded, settings, identity, space.code):
            known = Study(storage, loaded, settings)
            _compare(known, stored, identity)
            check_code(known, space.code, accept=settings.accept_changes)
            _check_ranges(known, space)
        else:
            # A study that was cut while it was being made has no identity yet, and one whose preparation failed has no
            # trial: it is made again, whole.
            if loaded is not None:
                optuna.delete_study(study_name=settings.study, storage=storage.optuna)
            elif (settings.study_dir / MARK).exists():
                _hold_beside_namesake(settings).release()  # or it is refused before it is made
            loaded = optuna.create_study(study_name=settings.study, storage=storage.optuna, directions=directions)  # type: ignore[arg-type]
            loaded.set_user_attr(_MAKING_ATTR, True)
            loaded.set_user_attr(HERE_ATTR, here(settings))
            loaded.set_user_attr("kd.primary", space.task.metric_name)
            loaded.set_user_attr("kd.primary_direction", space.task.metric_direction)
            loaded.set_user_attr("kd.groups", space.fixed(settings.fixed).groups)
            loaded.set_user_attr("kd.id", uuid.uuid4().hex)
            Study(storage, loaded, settings).keep_code(space.code.to_json())
            loaded.set_user_attr("kd.identity", identity)
        assert loaded is not None
        study = Study(storage, loaded, settings)
        study.note_code()
        _own_folder(study)
        if not study.sources:  # else when all is prepared: what is refused is not what others go on with
            study.keep_sources()
    return study


def _begins_anew(study: optuna.Study, settings: Settings, identity: Mapping[str, Any], code: Code) -> bool:
    """Return whether a study of another identity or code stands there for nothing, so that it is made anew."""
    if study.user_attrs["kd.identity"] == identity and not code.differences(study.user_attrs["kd.code"]):
        return False
    return _is_abandoned(study, settings)


def _is_abandoned(study: optuna.Study, settings: Settings) -> bool:
    """Whether a study has no trial and nobody at work on it: a first start that failed over what was then mended."""
    if study.get_trials(deepcopy=False) or not is_first_start(study, settings):
        return False
    settings.study_dir.mkdir(parents=True, exist_ok=True)
    lease = FolderLock(settings.study_dir)
    free = lease.acquire()
    lease.release()
    return free


def find_study(settings: StudyPlaces, *, on_word: Callable[[str], None] | None = None) -> Study:
    """Open a study that exists.

    Args:
        settings: Names it, and its storage.
        on_word: If given, a server that is away is waited for, and this is told of it.

    Raises:
        HarnessError: If the storage can't be used or has no such study of this program, or it was moved.
    """
    if on_word is not None and is_server(settings.storage):
        return RetryPolicy(server_is_away, on_word).call(lambda: find_study(settings))
    study = load_stored(settings)
    see_that_it_is_here(study.attrs, settings)
    return study


def see_that_it_exists(settings: Places) -> None:
    """Check that a storage that is a file is there: to open it would make an empty one.

    Raises:
        HarnessError: If it is not.
    """
    path = sqlite_path(settings.storage)
    if path is not None and not path.exists():
        raise HarnessError(
            f"--storage must be a study's database, but there is no file {str(path.resolve())!r}; the search had "
            "another, or was in another folder."
        )


def load_stored(settings: StudyPlaces) -> Study:
    """Return what a storage has of a study, whether it was moved or not.

    Args:
        settings: Name it, and its storage.

    Raises:
        HarnessError: If the storage can't be used or has no such study of this program.
    """
    name = settings.study
    see_that_it_exists(settings)
    storage = open_storage(settings)
    names = optuna.get_all_study_names(storage.optuna)
    if name not in names:
        known, near = ", ".join(sorted(names)) or "none", did_you_mean(name, names, otherwise=".")
        raise HarnessError(f"{redact(settings.storage)} must hold study {name!r}, but holds {known}{near}")
    loaded = optuna.load_study(study_name=name, storage=storage.optuna)
    if loaded.user_attrs.keys().isdisjoint(("kd.identity", MOVING_ATTR)):
        raise HarnessError(f"study {name!r} was not made by this program.")
    if (identity := loaded.user_attrs.get("kd.identity")) is not None:
        check_format(name, identity)
    if not isinstance(settings, Settings):
        settings = Settings(**vars(settings), space_name=(identity or {}).get("space", ""))
    return Study(storage, loaded, settings)


def reopen_study(asked: ConfirmSettings) -> tuple[Study, SearchSpace]:
    """Open a study that was searched, to work on what it has found; with its space, and what it held fixed.

    A space file is code. The storage says where it was, but whoever can write there must not choose what runs here.

    Args:
        asked: Names it, and its storage; a space file, unless it is an embedded one; data and teachers where they
            are not where they were.

    Raises:
        HarnessError: If the storage has no such study, its folder is elsewhere, its space can't be had, or its code is
            another one by now.
    """
    study = find_study(asked.places)
    if not study.owns_folder():
        raise HarnessError(
            f"study {asked.places.study!r} was searched with another --runs-dir or in another folder than "
            f"{study.folder.resolve()}; go on there."
        )
    identity, sources = study.attrs["kd.identity"], study.sources
    if asked.space_file is None and study.space_name not in space_names():
        raise HarnessError(
            f"--space must give the file of study {asked.places.study!r}, for it is run as code; by the storage it was "
            f"{sources['space_file']}: see that it is yours."
        )
    file = asked.space_file or space_file(study.space_name)
    settings = replace(
        study.settings,
        space_file=file,
        trials=len(study.trials()),
        data_dir=asked.data_dir or (Path(sources["data_dir"]) if sources["data_dir"] else None),
        teachers=asked.teachers or tuple(Path(file) for file in sources["teachers"]),
        trained_teachers=sources["trained_teachers"],
        average=sources["average"],
        epochs=identity["epochs"],
        objectives=tuple(identity["objectives"]),
        seed=identity["seed"],
        fixed=identity["fixed"],
        controls=asked.controls,
        accept_changes=asked.accept_changes,
        accelerator=asked.accelerator,
        workers=asked.workers,
    )
    space = load_space(file, settings.epochs)
    if space.declaration() != identity["parameters"]:
        raise HarnessError(
            f"{file} must declare the space that study {settings.study!r} was created with, but "
            f"declares {_shown(space.declaration())}; it had {_shown(identity['parameters'])}."
        )
    check_code(study, space.code, accept=settings.accept_changes)
    reopened = Study(study.storage, study.optuna, settings)
    reopened.note_code()
    return reopened, space.fixed(settings.fixed)


def _own_folder(study: Study) -> None:
    """Check that the study's folder holds this study's trials, and not those of a namesake in another storage.

    A namesake's folder is put aside under its id, and comes back when its study is opened again.
    """
    if study.owns_folder():
        return
    mark, kept = study.folder / MARK, _aside(study.folder, study.id)
    # Where it is shared, its workers may be anywhere, and their folders too.
    if not study.is_shared and not kept.exists() and any(trial.state == TrialState.RUNNING for trial in study.trials()):
        # Its lease, if it is alive, and its checkpoint are in the folder that it was begun with.
        raise HarnessError(
            f"study {study.settings.study!r} has a trial that was begun with another --runs-dir or in another folder "
            f"than {study.folder.resolve()}; go on there."
        )
    if mark.exists():
        lease = _hold_beside_namesake(study.settings)
        study.folder.rename(_aside(study.folder, json.loads(mark.read_text(encoding="utf-8"))["id"]))
        lease.release()
    if kept.exists():
        shutil.rmtree(study.folder, ignore_errors=True)  # nothing but an empty folder can be there
        kept.rename(study.folder)
    write_atomically(mark, lambda path: path.write_text(json.dumps({"id": study.id}), encoding="utf-8"))


def _hold_beside_namesake(settings: Settings) -> FolderLock:
    """Return the lease of a folder that a namesake may be searched in.

    Raises:
        HarnessError: If it is.
    """
    lease = FolderLock(settings.study_dir)
    if not lease.acquire():
        raise HarnessError(
            f"another study of the name {settings.study!r}, in another storage, is being searched in "
            f"{settings.study_dir}; use --study or --runs-dir to keep them apart."
        )
    return lease


def _aside(folder: Path, study_id: str) -> Path:
    return folder.with_name(f"{folder.name}.{study_id[:8]}")


def _direction(objective: str, space: SearchSpace) -> str:
    if objective == space.task.metric_name:
        return space.task.metric_direction
    if objective not in METRICS:
        known = (space.task.metric_name, *METRICS)
        near = did_you_mean(objective, known, otherwise=".")
        raise HarnessError(f"--objectives must name some of {', '.join(known)}, but got {objective!r}{near}")
    return METRICS[objective].direction


def _compare(study: Study, stored: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    check_format(study.settings.study, stored)
    for key, value in asked.items():
        if key not in _ADJUSTABLE and stored.get(key) != value:
            was, now = _shown(stored.get(key)), _shown(value)
            if key == "space":  # a name that is derived from a file's finds no file
                was = space_argument(was, Path(study.sources.get("space_file", was)))
                now = space_argument(now, study.settings.space_file or Path(now))
            raise HarnessError(
                f"study {study.settings.study!r} was created with {_FLAGS.get(key, key)} {was} and cannot be resumed "
                f"with {now}; use --study to name a new one."
            )


def _check_ranges(study: Study, space: SearchSpace) -> None:
    """Check that Optuna can store further trials beside those that the study holds."""
    distributions = space.fixed(study.settings.fixed).distributions
    stored = {(name, known) for trial in study.trials() for name, known in trial.distributions.items()}
    for name, known in stored:
        if name in distributions:
            try:
                check_distribution_compatibility(known, distributions[name])
            except ValueError as error:
                raise study.mixed_ranges(error) from error


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        named = (f"{name}: {_range(v)}" if isinstance(v, dict) else f"{name}={v}" for name, v in value.items())
        return ", ".join(named) or "none"
    return ",".join(value) if isinstance(value, list) else str(value)


def _range(distribution: Mapping[str, Any]) -> str:
    attributes = distribution["attributes"]
    if "choices" in attributes:
        return f"one of {list(attributes['choices'])}"
    return f"{attributes['low']:g}-{attributes['high']:g}{' log' if attributes['log'] else ''}"
