"""Moving a study to another storage: begun on a file, gone on with on a server, or back. Its runs folder stays its own.

Nobody works on it meanwhile: who is at work is named, and who comes waits, on any machine, and is told where it went.
At any moment one of the two can be gone on with, or the same command can finish:

1. the copy is made, marked as being made: nobody opens it, and a cut leaves the source as it was;
2. the source says where it went: nobody opens it any more;
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
from harness.storage.database_locks import alone
from harness.storage.leases import GRACE_S, Check, Worker
from harness.storage.location import MOVED_ATTR, MOVING_ATTR, see_that_it_is_here
from harness.storage.study_lock import ExclusiveStudyLock
from harness.studies.opening import load_stored
from harness.studies.study import Study

if TYPE_CHECKING:
    from harness.screen.terminal import Terminal

_MOMENT_S = 2.0  # for workers of a search that was killed to see it, and for its mirror to let its runs wait


def move(settings: StudyPlaces, to: str, terminal: Terminal) -> None:
    """Move a study with all that its storage knows of it: trials in any state, attributes, times.

    Trial numbers, the study's id and its runs folder stay, so a trial that was cut is resumed from its checkpoint and
    MLflow's runs go on.

    Args:
        settings: Name the study, its storage and the runs folder.
        to: Address of the storage that it moves to.
        terminal: Says how far it is.

    Raises:
        HarnessError: If there is no such study, its folder is elsewhere, someone works on it, a study of its name is
            in the other storage, or one of the two storages can't be used. The source is whole then.
    """
    there = replace(settings, storage=to)
    if place_of(settings.storage) == place_of(to):
        raise HarnessError(f"--to must be another storage than --storage, but both are {redact(to)}.")
    source = load_stored(settings)
    if not source.owns_folder():
        raise HarnessError(
            f"study {settings.study!r} was searched with another --runs-dir or in another folder than "
            f"{source.folder.resolve()}; move it from there."
        )
    target = open_storage(there, flag="--to")
    with storage_in_reach(settings, to):
        if not _is_half_told(source, target, there):
            see_that_it_is_here(source.attrs, settings)
        _see_that_it_is_in_one(source, target, there)  # or a move would wait for itself
        with _nobody_at_work(source, target, terminal) as check:
            if not _is_half_told(source, target, there):
                see_that_it_is_here(source.attrs, settings)
                _make_room(source, target, there)
                _copy(source, target, terminal)
                check()
                source.optuna.set_user_attr(MOVED_ATTR, place_of(to))
            optuna.load_study(study_name=settings.study, storage=target.optuna).set_user_attr(MOVING_ATTR, None)
    terminal.say(
        f"study {settings.study!r} is in {redact(to)} now, with {len(source.trials())} trials; go on with it "
        f"there: the same flags, {_how_to_reach(to)}."
    )


def _how_to_reach(address: str) -> str:
    """Return what a person has to say for a command to take this storage."""
    if has_password(address):
        return f"with the address in ${VARIABLES['--storage']}"
    if address == DEFAULT_STORAGE:
        return f"without --storage and ${VARIABLES['--storage']}, for that is where studies are by default"
    return f"with --storage {shlex.quote(address)}, or that address in ${VARIABLES['--storage']}"


@contextlib.contextmanager
def _nobody_at_work(source: Study, target: Storage, terminal: Terminal) -> Iterator[Check]:
    """Keep everyone out of a study and of its copy; what it gives raises an error if they are kept out no more.

    Raises:
        HarnessError: If somebody is at work.
    """
    name = source.settings.study

    def say(worker: Worker) -> None:
        terminal.say(f"waiting   up to {GRACE_S:.0f} s for a sign of life of {worker}")

    absence = ExclusiveStudyLock(source.settings)
    try:
        ends_at = time.monotonic() + _MOMENT_S
        while not (absent := absence.acquire()) and time.monotonic() < ends_at:
            time.sleep(0.1)
        if not absent:
            named = [str(worker) for worker in source.leases.workers() if not worker.is_silent]
            _refuse(name, named or ["a process of this machine"])
        file = source.folder.with_name(f".{name}.lock")
        servers = [source.storage.server, target.server]
        with alone(servers, f"open {name}", file) as opens, contextlib.ExitStack() as held:
            claims = held.enter_context(source.leases.exclusive("claim"))
            _refuse(name, [str(worker) for worker in source.leases.living(on_wait=say)])

            def check() -> None:
                opens()
                claims()

            yield check
    finally:
        absence.release()


def _refuse(name: str, workers: Sequence[str]) -> None:
    if workers:
        raise HarnessError(f"study {name!r} is being worked on by {', '.join(workers)}; stop that, and move it then.")


def _see_that_it_is_in_one(source: Study, target: Storage, there: StudyPlaces) -> None:
    """Check that two addresses are not two names of one place.

    Raises:
        HarnessError: If they are.
    """
    copy = _stored(there.study, target)
    if copy is None or copy.user_attrs.get("kd.id") != source.id:
        return
    marked = {MOVED_ATTR, MOVING_ATTR} & {name for name, value in copy.user_attrs.items() if value is not None}
    if not marked:
        raise HarnessError(
            f"--to must be another storage than --storage, but {redact(there.storage)} is the same by another name."
        )


def _stored(name: str, storage: Storage) -> optuna.Study | None:
    """Return a storage's study of that name, if it has one."""
    known = name in optuna.get_all_study_names(storage.optuna)
    return optuna.load_study(study_name=name, storage=storage.optuna) if known else None


def _is_half_told(source: Study, target: Storage, there: StudyPlaces) -> bool:
    """Return whether an earlier move was cut between its last two steps: the copy is whole, and the source says so."""
    copy = _stored(there.study, target)
    return (
        source.attrs.get(MOVED_ATTR) == place_of(there.storage)
        and copy is not None
        and copy.user_attrs.get(MOVING_ATTR) == source.id
    )


def _make_room(source: Study, target: Storage, there: StudyPlaces) -> None:
    """Remove what earlier moves of this study have left in the other storage: half a copy, or what it was before.

    Raises:
        HarnessError: If there is another study of its name.
    """
    found = _stored(there.study, target)
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
    """Copy a study, marked as being copied from the first moment on. ``optuna.copy_study`` would mark it too late."""
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
        for trial in trials:  # in the order of their numbers, which are given anew
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
