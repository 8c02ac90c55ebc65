"""Open a study: create it, resume it if it is the same one, or find it; and take its folder."""

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

from harness.core.addresses import is_server, redact, sqlite_path
from harness.core.content import FolderLock, write_atomically
from harness.core.errors import HarnessError, did_you_mean
from harness.metrics import DEFAULT_OBJECTIVES, METRICS
from harness.options.spaces import space_argument, space_file, space_names
from harness.settings import ConfirmSettings, Places, Settings, StudyPlaces
from harness.space import SearchSpace, load_space
from harness.storage.access import Storage, open_storage
from harness.storage.database_locks import distributed_lock
from harness.storage.location import MOVING_ATTR, ORIGIN_ATTR, check_not_moved, is_first_start, origin
from harness.storage.retry import RetryPolicy
from harness.studies.changes import FORMAT, check_code, check_format
from harness.studies.study import OWNER_FILE, Study
from harness.task import declared_metrics, primary_metric

_MAKING_ATTR = "kd.making"
_FLAGS = {name: f"--{name}" for name in ("space", "objectives", "epochs", "seed", "max")} | {"fixed": "--fix"}
_ADJUSTABLE = ("region",)
"""What of a study's identity may change when it is resumed (``StudyAttributes.bound`` is the latest)."""


def open_study(settings: Settings, space: SearchSpace, storage: Storage) -> Study:
    """Create the study, or resume it if it is the same one.

    Args:
        settings: Name the study.
        space: The whole space, no parameter held fixed.
        storage: The study's storage.

    Raises:
        HarnessError: If the stored study is of another space, other objectives, another number of epochs or another
            seed, was begun with other code that is not accepted, was made by another version of this program, or was
            moved, or an objective is unknown.
    """
    objectives = settings.objectives or (primary_metric(space.task).name, *DEFAULT_OBJECTIVES)
    directions = [_direction(name, space) for name in objectives]
    identity = {
        "space": settings.space_name,
        "parameters": space.declaration(),
        "objectives": list(objectives),
        "epochs": space.epochs,
        "seed": settings.seed,
        "fixed": dict(settings.fixed),
        "max": dict(settings.budgets),
        "region": settings.bound and str(settings.bound),
        "format": FORMAT,
    }
    file = settings.study_dir.with_name(f".{settings.study}.lock")
    with distributed_lock([storage.server], f"open {settings.study}", file):
        stored = storage.load_study(settings.study)
        if stored is not None and _can_be_resumed(stored, settings, space, identity):
            study = Study(storage, stored, settings)
            _check_identity(study, identity)
            check_code(study, space.code, accept=settings.accept_changes)
            _check_ranges(study, space)
        else:
            if stored is not None:
                optuna.delete_study(study_name=settings.study, storage=storage.optuna)
            elif (settings.study_dir / OWNER_FILE).exists():
                _lock_namesake(settings).release()  # refused here, before there is a study
            study = _create(settings, space, storage, identity, directions)
        study.note_code()
        _take_folder(study)
        if not study.sources:  # else once all is prepared: a start that is refused must not change them
            study.store_sources()
    return study


def _can_be_resumed(stored: optuna.Study, settings: Settings, space: SearchSpace, identity: Mapping[str, Any]) -> bool:
    """Return whether a stored study is to be resumed; else nothing is lost if it is deleted and created again.

    Raises:
        HarnessError: If the study was moved or made by another program.
    """
    attrs, has_trials = stored.user_attrs, bool(stored.get_trials(deepcopy=False))
    check_not_moved(attrs, settings)
    if "kd.identity" not in attrs:  # cut while it was created
        if _MAKING_ATTR not in attrs and (attrs or has_trials):
            raise HarnessError(
                f"study {settings.study!r} in {redact(settings.storage)} was not made by this program; "
                "use --study to name a new one."
            )
        return False
    if has_trials or (attrs["kd.identity"] == identity and not space.code.differences(attrs["kd.code"])):
        return True
    # Its first start failed over what was changed since, and no process works on it.
    return not (is_first_start(stored, settings) and _is_idle(settings.study_dir))


def _is_idle(folder: Path) -> bool:
    """Return whether no process of this machine works in a study's folder, which is made where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    return FolderLock(folder).is_free()


def _create(
    settings: Settings, space: SearchSpace, storage: Storage, identity: Mapping[str, Any], directions: list[str]
) -> Study:
    """Create a study; cut before its identity is stored, it is created again."""
    created = optuna.create_study(study_name=settings.study, storage=storage.optuna, directions=directions)  # type: ignore[arg-type]
    attrs = {
        _MAKING_ATTR: True,
        ORIGIN_ATTR: origin(settings),
        "kd.primary": primary_metric(space.task).name,
        "kd.primary_direction": primary_metric(space.task).direction,
        "kd.groups": space.fixed(settings.fixed).groups,
        "kd.id": uuid.uuid4().hex,
        "kd.code": space.code.to_json(),
        "kd.identity": identity,
    }
    for name, value in attrs.items():
        created.set_user_attr(name, value)
    return Study(storage, created, settings)


def find_study(settings: StudyPlaces, *, on_outage: Callable[[str], None] | None = None) -> Study:
    """Open a study that exists.

    Args:
        settings: Name the study and its storage.
        on_outage: If given, it is called with a message while a server is away, which is waited for.

    Raises:
        HarnessError: If the storage can't be used or has no such study of this program, or it was moved.
    """
    if on_outage is not None and is_server(settings.storage):
        return RetryPolicy(on_outage).call(lambda: find_study(settings))
    study = load_stored(settings)
    check_not_moved(study.attrs, settings)
    return study


def check_storage_exists(settings: Places) -> None:
    """Check that a storage's file exists: opening it would make an empty one.

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
    """Open a study as it is stored, whether it was moved or not.

    Raises:
        HarnessError: If the storage can't be used or has no such study of this program.
    """
    name = settings.study
    check_storage_exists(settings)
    storage = open_storage(settings)
    stored = storage.load_study(name)
    if stored is None:
        names = optuna.get_all_study_names(storage.optuna)
        known, near = ", ".join(sorted(names)) or "none", did_you_mean(name, names, otherwise=".")
        raise HarnessError(f"{redact(settings.storage)} must hold study {name!r}, but holds {known}{near}")
    if stored.user_attrs.keys().isdisjoint(("kd.identity", MOVING_ATTR)):
        raise HarnessError(f"study {name!r} was not made by this program.")
    if (identity := stored.user_attrs.get("kd.identity")) is not None:
        check_format(name, identity)
    if not isinstance(settings, Settings):
        settings = Settings(**vars(settings), space_name=(identity or {}).get("space", ""))
    return Study(storage, stored, settings)


def check_owns_folder(study: Study, remedy: str) -> None:
    """Check that the study's folder is the one that it was searched in.

    Raises:
        HarnessError: If it is not.
    """
    if not study.owns_folder():
        raise HarnessError(
            f"study {study.settings.study!r} was searched with another --runs-dir or in another folder than "
            f"{study.folder.resolve()}; {remedy}."
        )


def reopen_study(asked: ConfirmSettings) -> tuple[Study, SearchSpace]:
    """Open a study that was searched, to work on its results; return it with its space, narrowed to what it searched.

    A space file is code. The storage says where it was, but whoever can write there must not choose what runs here.

    Args:
        asked: Name the study and its storage; a space file, unless the space is an embedded one; data and teachers
            where they have moved.

    Raises:
        HarnessError: If the storage has no such study, its folder is elsewhere, its space is missing, or its code has
            changed.
    """
    study = find_study(asked.places)
    check_owns_folder(study, "go on there")
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


def _take_folder(study: Study) -> None:
    """Make the study's folder its own.

    A namesake's folder, of a study in another storage, is renamed after its id, and renamed back when that study is
    opened again.
    """
    if study.owns_folder():
        return
    owner_file, kept = study.folder / OWNER_FILE, _aside(study.folder, study.id)
    # Workers of a shared study may be anywhere, and their folders too.
    if not study.is_shared and not kept.exists() and study.running():
        # Its lock, if its worker is alive, and its checkpoint are in the folder that it was begun in.
        raise HarnessError(
            f"study {study.settings.study!r} has a trial that was begun with another --runs-dir or in another folder "
            f"than {study.folder.resolve()}; go on there."
        )
    if owner_file.exists():
        lock = _lock_namesake(study.settings)
        study.folder.rename(_aside(study.folder, json.loads(owner_file.read_text(encoding="utf-8"))["id"]))
        lock.release()
    if kept.exists():
        shutil.rmtree(study.folder, ignore_errors=True)  # an empty folder at most
        kept.rename(study.folder)
    write_atomically(owner_file, lambda path: path.write_text(json.dumps({"id": study.id}), encoding="utf-8"))


def _lock_namesake(settings: Settings) -> FolderLock:
    """Return the lock, held, of a folder that a namesake of the study was searched in.

    Raises:
        HarnessError: If a process searches it.
    """
    lock = FolderLock(settings.study_dir)
    if not lock.acquire():
        raise HarnessError(
            f"another study of the name {settings.study!r}, in another storage, is being searched in "
            f"{settings.study_dir}; use --study or --runs-dir to keep them apart."
        )
    return lock


def _aside(folder: Path, study_id: str) -> Path:
    return folder.with_name(f"{folder.name}.{study_id[:8]}")


def _direction(objective: str, space: SearchSpace) -> str:
    own = {metric.name: metric.direction for metric in declared_metrics(space.task)}
    if objective in own:
        return own[objective]
    if objective not in METRICS:
        known = (*own, *METRICS)
        near = did_you_mean(objective, known, otherwise=".")
        raise HarnessError(f"--objectives must name some of {', '.join(known)}, but got {objective!r}{near}")
    return METRICS[objective].direction


def _check_identity(study: Study, asked: Mapping[str, Any]) -> None:
    """Check that a study is resumed with the identity that it was created with.

    Raises:
        HarnessError: If something of it differs, or another version of this program made the study.
    """
    stored = study.attrs["kd.identity"]
    check_format(study.settings.study, stored)
    for key, value in asked.items():
        if key not in _ADJUSTABLE and stored.get(key) != value:
            was, now = _shown(stored.get(key)), _shown(value)
            if key == "space":  # the name of a space file is no path to it
                was = space_argument(was, Path(study.sources.get("space_file", was)))
                now = space_argument(now, study.settings.space_file or Path(now))
            raise HarnessError(
                f"study {study.settings.study!r} was created with {_FLAGS.get(key, key)} {was} and cannot be resumed "
                f"with {now}; use --study to name a new one."
            )


def _check_ranges(study: Study, space: SearchSpace) -> None:
    """Check that Optuna can store trials of this space beside those that the study has."""
    distributions = space.fixed(study.settings.fixed).distributions
    stored = {(name, known) for trial in study.trials() for name, known in trial.distributions.items()}
    for name, known in stored:
        if name in distributions:
            try:
                check_distribution_compatibility(known, distributions[name])
            except ValueError as error:
                raise study.mixed_ranges(error) from error


def _shown(value: Any) -> str:
    """Format a value of a study's identity for a message."""
    if isinstance(value, dict):
        named = (f"{name}: {_range(v)}" if isinstance(v, dict) else f"{name}={v}" for name, v in value.items())
        return ", ".join(named) or "none"
    return ",".join(value) if isinstance(value, list) else str(value)


def _range(distribution: Mapping[str, Any]) -> str:
    attributes = distribution["attributes"]
    if "choices" in attributes:
        return f"one of {list(attributes['choices'])}"
    return f"{attributes['low']:g}-{attributes['high']:g}{' log' if attributes['log'] else ''}"
