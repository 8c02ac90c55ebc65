"""Move a study to another storage: from a file to a server, or back. Its runs folder stays.

No process works on it meanwhile: a move is refused while workers are alive, and those that come wait, on any machine,
and are told where the study is. Cut at any moment, one of the two studies can be resumed, or the same command ends it:

1. the copy is made with a mark: no process opens it, and a cut leaves the source as it was;
2. the new address is stored in the source: no process opens it any more;
3. the copy loses its mark.
"""

from __future__ import annotations

import contextlib
import shlex
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import optuna

from harness.core.addresses import has_password, place_of, redact
from harness.core.argv import VARIABLES
from harness.core.errors import HarnessError
from harness.settings import DEFAULT_STORAGE, StudyPlaces
from harness.storage.access import Storage, open_storage, storage_in_reach
from harness.storage.database_locks import distributed_lock
from harness.storage.leases import GRACE_S, VerifyLock, Worker
from harness.storage.location import MOVED_ATTR, MOVING_ATTR, check_not_moved
from harness.storage.study_lock import ExclusiveStudyLock
from harness.studies.opening import check_owns_folder, load_stored
from harness.studies.study import Study

if TYPE_CHECKING:
    from harness.screen.terminal import Terminal

_SHUTDOWN_S = 2.0  # for workers of a killed search to notice it, and for its mirror to set its runs to waiting


def move(settings: StudyPlaces, to: str, terminal: Terminal) -> None:
    """Move a study with all trials, attributes and times.

    Trial numbers, the study's id and its runs folder stay, so a trial that was cut is resumed from its checkpoint, in
    the same MLflow run.

    Args:
        settings: Name the study, its storage and the runs folder.
        to: Address of the other storage.
        terminal: Shows progress.

    Raises:
        HarnessError: If there is no such study, its folder is elsewhere, a process works on it, a study of its name is
            in the other storage, or one of the two storages can't be used. The source is unchanged then.
    """
    there = replace(settings, storage=to)
    if place_of(settings.storage) == place_of(to):
        raise HarnessError(f"--to must be another storage than --storage, but both are {redact(to)}.")
    source = load_stored(settings)
    check_owns_folder(source, "move it from there")
    target = open_storage(there, flag="--to")
    with storage_in_reach(settings, to):
        if not _is_nearly_done(source, target, there):
            check_not_moved(source.attrs, settings)
        _check_two_storages(source, target, there)  # or a move would wait for itself
        with _exclude_workers(source, target, terminal) as verify_locks:
            if not _is_nearly_done(source, target, there):
                check_not_moved(source.attrs, settings)
                _make_room(source, target, there)
                _copy(source, target, terminal)
                verify_locks()
                source.optuna.set_user_attr(MOVED_ATTR, place_of(to))
            optuna.load_study(study_name=settings.study, storage=target.optuna).set_user_attr(MOVING_ATTR, None)
    terminal.say(
        f"study {settings.study!r} is in {redact(to)} now, with {len(source.trials())} trials; go on with it "
        f"there: the same flags, {_how_to_reach(to)}."
    )


def _how_to_reach(address: str) -> str:
    """Tell how a command is given this storage."""
    if has_password(address):
        return f"with the address in ${VARIABLES['--storage']}"
    if address == DEFAULT_STORAGE:
        return f"without --storage and ${VARIABLES['--storage']}, for that is where studies are by default"
    return f"with --storage {shlex.quote(address)}, or that address in ${VARIABLES['--storage']}"


@contextlib.contextmanager
def _exclude_workers(source: Study, target: Storage, terminal: Terminal) -> Iterator[VerifyLock]:
    """Keep all processes out of a study and of its copy; yield what raises an error if a lock was lost.

    Raises:
        HarnessError: If a process works on the study.
    """
    name = source.settings.study

    def say(worker: Worker) -> None:
        terminal.say(f"waiting   up to {GRACE_S:.0f} s for a sign of life of {worker}")

    lock = ExclusiveStudyLock(source.settings)
    try:
        ends_at = time.monotonic() + _SHUTDOWN_S
        while not (locked := lock.acquire()) and time.monotonic() < ends_at:
            time.sleep(0.1)
        if not locked:
            named = [str(worker) for worker in source.leases.workers() if not worker.is_silent]
            _refuse(name, named or ["a process of this machine"])
        file = source.folder.with_name(f".{name}.lock")
        servers = [source.storage.server, target.server]
        with (
            distributed_lock(servers, f"open {name}", file) as verify_open_lock,
            source.leases.exclusive("claim") as verify_claim_lock,
        ):
            _refuse(name, [str(worker) for worker in source.leases.live_workers(on_wait=say)])

            def verify() -> None:
                verify_open_lock()
                verify_claim_lock()

            yield verify
    finally:
        lock.release()


def _refuse(name: str, workers: Sequence[str]) -> None:
    if workers:
        raise HarnessError(f"study {name!r} is being worked on by {', '.join(workers)}; stop that, and move it then.")


def _check_two_storages(source: Study, target: Storage, there: StudyPlaces) -> None:
    """Check that two addresses are not two names of one storage.

    Raises:
        HarnessError: If they are.
    """
    copy = target.load_study(there.study)
    if copy is None or copy.user_attrs.get("kd.id") != source.id:
        return
    marked = {MOVED_ATTR, MOVING_ATTR} & {name for name, value in copy.user_attrs.items() if value is not None}
    if not marked:
        raise HarnessError(
            f"--to must be another storage than --storage, but {redact(there.storage)} is the same by another name."
        )


def _is_nearly_done(source: Study, target: Storage, there: StudyPlaces) -> bool:
    """Return whether a move was cut before its last step: the copy is whole, and the source has its address."""
    copy = target.load_study(there.study)
    return (
        source.attrs.get(MOVED_ATTR) == place_of(there.storage)
        and copy is not None
        and copy.user_attrs.get(MOVING_ATTR) == source.id
    )


def _make_room(source: Study, target: Storage, there: StudyPlaces) -> None:
    """Delete what earlier moves of this study left in the other storage: half a copy, or the study before it moved.

    Raises:
        HarnessError: If there is another study of its name.
    """
    found = target.load_study(there.study)
    if found is None:
        return
    attrs = found.user_attrs
    empty = not attrs and not found.get_trials(deepcopy=False)  # cut right after it was created
    left_behind = attrs.get(MOVED_ATTR) is not None and attrs.get("kd.id") == source.id
    if not (empty or left_behind or attrs.get(MOVING_ATTR) == source.id):
        raise HarnessError(
            f"{redact(there.storage)} must hold no study {there.study!r} yet, but holds one; nothing was moved."
        )
    optuna.delete_study(study_name=there.study, storage=target.optuna)


def _copy(source: Study, target: Storage, terminal: Terminal) -> None:
    """Copy a study, with the mark of a copy first. After ``optuna.copy_study`` the mark would come too late."""
    name = source.optuna.study_name
    made = optuna.create_study(study_name=name, storage=target.optuna, directions=source.optuna.directions)
    made.set_user_attr(MOVING_ATTR, source.id)
    for attr, value in source.attrs.items():
        if attr not in (MOVED_ATTR, MOVING_ATTR):
            made.set_user_attr(attr, value)
    study_id = target.optuna.get_study_id_from_name(name)
    trials = source.optuna.get_trials(deepcopy=False)
    bar = terminal.progress_bar("move", len(trials), "trials") if trials else None
    try:
        for trial in trials:  # in the order of their numbers, which the storage assigns again
            copy = target.create_trial(study_id, trial)
            if copy.number != trial.number:
                raise HarnessError(
                    f"study {name!r} must have the same trials after a move, but trial {trial.number} was stored as "
                    f"{copy.number}; nothing was moved, and the same command tries again."
                )
            if bar is not None:
                bar.advance()
    finally:
        if bar is not None:
            bar.close()
