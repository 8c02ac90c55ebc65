"""A study in Optuna's storage, opened: its trials, its locks, and the inputs that it is pinned to."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import socket
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from harness.core.content import FolderLock
from harness.core.errors import HarnessError, one_line
from harness.core.pareto import pareto_front
from harness.settings import Settings
from harness.storage.access import STORAGE_ERRORS, Storage
from harness.storage.database_leases import leases_of
from harness.storage.leases import Lease, Leases
from harness.storage.location import check_not_moved, is_first_start, was_moved_here
from harness.storage.study_lock import SharedStudyLock
from harness.studies.attributes import PREPARED_ATTR, StudyAttributes
from harness.studies.start import Start

optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)

OWNER_FILE = "study.json"
"""Has the id of the study that a folder belongs to."""
_ACCEPTED = ("students", "teacher")
"""Inputs that may change with ``--accept-changes``."""
_HINTS = {"dataset": " If nothing was changed, data() gives others each time: a split that is drawn wants a seed."}
_NO_METRICS = "it was not trained here: another program added it to the study, without its metrics"


class Study(StudyAttributes):
    """A study in its storage, opened for one space; arguments as of ``StudyAttributes``."""

    def __init__(self, storage: Storage, optuna_study: optuna.Study, settings: Settings) -> None:
        super().__init__(storage, optuna_study, settings)
        self.folder = settings.study_dir
        self.lock = SharedStudyLock(settings)
        """Held by every process that works on the study."""
        self._work_lock = FolderLock(self.folder, shared=True, name="work.lease")  # once a process has prepared
        self._prepared_with: dict[str, Any] = {}  # code, hashes and start weights that this process has seen

    @cached_property
    def leases(self) -> Leases:
        """Return the leases of its trials and retrained students."""
        return leases_of(self.storage.server, self.id, self.folder, self._check_not_moved)

    def _check_not_moved(self) -> None:
        check_not_moved(self.attrs, self.settings)

    @cached_property
    def is_shared(self) -> bool:
        """Return whether its workers, and its trials' folders, may be on several machines."""
        return self.storage.server is not None

    @property
    def may_be_elsewhere(self) -> bool:
        """Return whether trials may have folders on other machines: it is shared, or was moved from a server."""
        return self.is_shared or was_moved_here(self.attrs)

    @contextlib.contextmanager
    def exclusive(self, what: str, *, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Keep all other workers of the study out meanwhile.

        Args:
            what: Names the lock.
            on_wait: Called if another worker must be waited for.
        """
        with contextlib.ExitStack() as held:
            self.retry.call(lambda: held.enter_context(self.leases.exclusive(what, on_wait=on_wait)))
            yield

    def join(self) -> None:
        """Take the study's lock as one of the processes that work on it.

        Raises:
            HarnessError: If the study was made anew since it was opened, by a start with other settings, or moved, or
                is worked on in another runs folder.
        """
        while not self.lock.acquire():  # another process tries for a moment whether any is at work
            time.sleep(0.01)
        known = self.id
        try:
            same = self.attrs.get("kd.id") == known
        except KeyError:
            same = False
        if not same:
            raise HarnessError(
                f"study {self.settings.study!r} was made anew by another start at the same time; start this one again."
            )
        self._check_not_moved()

    def pin_inputs(self, **hashes: str) -> None:
        """Pin the study to the inputs that it was prepared with, or check that it is pinned to the same.

        Args:
            hashes: Content hashes by name: ``dataset``, ``students``, ``teacher``.

        Raises:
            HarnessError: If the study is pinned to others, and that is not accepted.
        """
        with self.exclusive("bind"):
            self.pin_inputs_locked(**hashes)

    def pin_inputs_locked(self, **hashes: str) -> None:
        """Do what ``pin_inputs`` does, within ``exclusive("bind")``."""
        stored = self.attrs.get(PREPARED_ATTR, {})
        for name, value in hashes.items():
            if stored.get(name, value) == value:
                continue
            if not self.is_unused():
                can_be_accepted = name in _ACCEPTED
                if not (can_be_accepted and self.settings.accept_changes):
                    ways = "use --accept-changes to go on, or use --study" if can_be_accepted else "use --study"
                    raise HarnessError(
                        f"study {self.settings.study!r} was begun with other {name} ({stored[name]}) than what is "
                        f"there now ({value}); {ways} to name a new one.{_HINTS.get(name, '')}"
                    )
                self.accept_changes([f"other {name}, {value} where {stored[name]} stood"])
            self.outdate_costs()
        if stored | hashes != stored:
            self.store(PREPARED_ATTR, stored | hashes)
        self._prepared_with |= hashes

    def note_starts(self, starts: Mapping[str, Start]) -> None:
        """Note, for ``begin_work``, the start weights that this process prepares with."""
        self._prepared_with |= _labelled(starts)

    def note_code(self) -> None:
        """Note, for ``begin_work``, the study's code, which is this process's."""
        self._prepared_with["code"] = self.code

    def begin_work(self) -> None:
        """Take the work lock: the code, inputs and start weights that this process prepared with stay meanwhile.

        Raises:
            HarnessError: If another start has pinned the study to others meanwhile.
        """
        with self.exclusive("bind"):
            pinned = {"code": self.code, **self.attrs.get(PREPARED_ATTR, {}), **_labelled(self.starts())}
            others = [name for name, value in self._prepared_with.items() if pinned.get(name) != value]
            if others:
                raise HarnessError(
                    f"another start changed the {others[0]} of study {self.settings.study!r} while this one prepared; "
                    "start this one again."
                )
            self._work_lock.acquire()

    def leave(self) -> None:
        """Give the study's locks back."""
        self._work_lock.release()
        self.lock.release()

    def is_unused(self) -> bool:
        """Return whether its inputs may still change: its first start failed, and no other process works on it."""
        return is_first_start(self.optuna, self.settings) and self._is_idle(self.lock)

    def accept_changes(self, changes: Sequence[str]) -> None:
        """Note changes that were accepted.

        A process that prepares, and has not begun to work, has seen them, or learns of them in ``begin_work``.

        Raises:
            HarnessError: If others work with what was there before.
        """
        if not self._is_idle(self._work_lock if self.lock.is_held else self.lock):
            raise HarnessError(
                f"study {self.settings.study!r} is being worked on in its previous state; stop that first, then use "
                "--accept-changes."
            )
        self.note_changes(changes)

    def _is_idle(self, own: FolderLock) -> bool:
        """Return whether no other process is known to work on it, by a lock beside this one's and by heartbeats."""
        if own.is_held:
            free = own.is_sole()
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            free = FolderLock(self.folder, name=own.name).is_free()
        mine = (socket.gethostname(), os.getpid())
        return free and all(one.is_silent or (one.host, one.pid) == mine for one in self.leases.workers())

    def owns_folder(self) -> bool:
        """Return whether the study's folder belongs to this study, not to a namesake in another storage."""
        try:
            return bool(json.loads((self.folder / OWNER_FILE).read_text(encoding="utf-8"))["id"] == self.id)
        except FileNotFoundError:
            return False

    def trials(self) -> list[FrozenTrial]:
        """Return all trials, not to be changed; one that another program added, without metrics, as failed."""
        stored = self.retry.call(lambda: self.optuna.get_trials(deepcopy=False))
        return [_as_failed(trial) if _is_foreign(trial) else trial for trial in stored]

    def trial_id(self, number: int) -> int:
        """Return the storage's id of a trial."""
        return self.storage.optuna.get_trial_id_from_study_id_trial_number(self._study_id, number)

    @cached_property
    def _study_id(self) -> int:
        return self.storage.optuna.get_study_id_from_name(self.optuna.study_name)

    def add_trial(self, trial: FrozenTrial, before_commit: Callable[[], None] = lambda: None) -> FrozenTrial:
        """Store a trial in one transaction, and return it as it is stored, with its number.

        Args:
            trial: The trial.
            before_commit: Raises an error if the trial must not be stored any more (``Storage.create_trial``).

        Raises:
            HarnessError: If the study has a trial with another kind of range, which Optuna does not mix.
        """
        try:
            return self.storage.create_trial(self._study_id, trial, before_commit)
        except ValueError as error:
            raise self.mixed_ranges(error) from error

    def mixed_ranges(self, error: ValueError) -> HarnessError:
        """Return the error of a study into which another program has put trials of other ranges."""
        return HarnessError(
            f"study {self.settings.study!r} must hold trials of its own space only, but another program has put one "
            f"there with another kind of range ({one_line(error)}); use --study to name a new one."
        )

    def finished(self) -> int:
        """Return how many trials are over: complete, pruned or failed."""
        return sum(trial.state.is_finished() for trial in self.trials())

    def running(self) -> int:
        """Return how many trials run, or were cut."""
        return sum(trial.state == TrialState.RUNNING for trial in self.trials())

    @property
    def is_over(self) -> bool:
        """Return whether no trial is left to begin or to resume."""
        trials = self.trials()
        finished = sum(trial.state.is_finished() for trial in trials)
        return finished >= self.settings.trials or (self.is_exhausted and finished == len(trials))

    def finished_at_once(self) -> int | None:
        """Return ``finished`` without retries; ``None`` if the storage is away."""
        try:
            return self.retry.try_once(self.finished)
        except STORAGE_ERRORS:
            return None

    def front(self) -> list[int]:
        """Return numbers of the complete trials within the region that no other one dominates, ascending."""
        region = self.region
        complete = [
            trial
            for trial in self.trials()
            if trial.state == TrialState.COMPLETE and region.holds(trial.user_attrs["metrics"][self.primary])
        ]
        if not complete:
            return []
        values = np.array([trial.values for trial in complete], dtype=float)
        return [complete[place].number for place in pareto_front(values, self.directions)]

    def trial_folder(self, number: int) -> Path:
        """Return where a trial keeps its spool and checkpoint."""
        return self.folder / str(number)

    def acquire_lease(self, names: Sequence[str]) -> Lease | None:
        """Acquire a lease on the first of some trainings that no living worker has; ``None`` if there is none."""

        def acquire() -> Lease | None:
            with self.leases.exclusive("claim", briefly=True):
                return self.leases.acquire(names)

        return self.retry.call(acquire)


def _labelled(starts: Mapping[str, Start]) -> dict[str, Start]:
    return {f"start weights of {name}": start for name, start in starts.items()}


def _is_foreign(trial: FrozenTrial) -> bool:
    """Return whether a trial was added as complete with Optuna's own means: it has values, but no metrics."""
    return trial.state == TrialState.COMPLETE and "metrics" not in trial.user_attrs


def _as_failed(trial: FrozenTrial) -> FrozenTrial:
    found = copy.copy(trial)
    found.state, found.values = TrialState.FAIL, None
    found.user_attrs = {**trial.user_attrs, "reason": _NO_METRICS}
    return found
