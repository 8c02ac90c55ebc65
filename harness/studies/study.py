"""The study: Optuna's storage is the truth about what has been tried, and about what it is a trial of."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import socket
import time
import warnings
from collections import Counter
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
from harness.storage.location import is_first_start, see_that_it_is_here, was_moved_here
from harness.storage.study_lock import SharedStudyLock
from harness.studies.record import Record
from harness.studies.start import Start

optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)

MARK = "study.json"
"""The file that says whose a study's folder is."""


class Study(Record):
    """A study on its storage, opened for one space.

    Args:
        storage: Where the study is.
        optuna_study: The study.
        settings: How it is searched.
    """

    def __init__(self, storage: Storage, optuna_study: optuna.Study, settings: Settings) -> None:
        super().__init__(storage, optuna_study, settings)
        self.folder = settings.study_dir
        self.lease = SharedStudyLock(settings)
        """Held by whoever works on the study."""
        self._at_work = FolderLock(self.folder, shared=True, name="work.lease")  # by whoever is prepared
        self._bound: dict[str, str] = {}
        self._starts: dict[str, Start] = {}
        self._code: dict[str, Any] | None = None

    @cached_property
    def leases(self) -> Leases:
        """Return who works on what."""
        return leases_of(self.storage.server, self.id, self.folder, self._see_that_it_is_here)

    def _see_that_it_is_here(self) -> None:
        see_that_it_is_here(self.attrs, self.settings)

    @cached_property
    def is_shared(self) -> bool:
        """Return whether its workers may be on several machines, and its trials' folders too."""
        return self.storage.server is not None

    @property
    def may_be_elsewhere(self) -> bool:
        """Whether other machines may have what is known of its trials: it is shared, or was moved from where it was."""
        return self.is_shared or was_moved_here(self.attrs)

    @contextlib.contextmanager
    def alone(self, what: str, *, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Keep all other workers of the study out meanwhile.

        Args:
            what: Names what is done.
            on_wait: Called if one must be waited for.
        """
        with contextlib.ExitStack() as held:
            self.retry.call(lambda: held.enter_context(self.leases.exclusive(what, on_wait=on_wait)))
            yield

    def hold(self) -> None:
        """Take the study's lease.

        Raises:
            HarnessError: If the study was made anew since it was opened, by a start with other settings, or moved, or
                is worked on in another runs folder.
        """
        while not self.lease.acquire():  # someone looks whether anybody is at work
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
        self._see_that_it_is_here()

    def bind(self, **prepared: str) -> None:
        """Tie the study to what was prepared for it, or see that it is tied to the same.

        Args:
            prepared: Content hashes by name: ``dataset``, ``students``, ``teacher``.

        Raises:
            HarnessError: If the study stands on something else.
        """
        with self.alone("bind"):
            self.bind_alone(**prepared)

    def bind_alone(self, **prepared: str) -> None:
        """As ``bind``, within ``alone("bind")``."""
        stored = self.attrs.get("kd.prepared", {})
        for name, value in prepared.items():
            if stored.get(name, value) == value:
                continue
            if not self.is_unused():
                can_be_accepted = name in _ACCEPTED
                if not (can_be_accepted and self.settings.accept_changes):
                    ways = "--accept-changes goes on all the same, or use --study" if can_be_accepted else "use --study"
                    raise HarnessError(
                        f"study {self.settings.study!r} was begun with other {name} ({stored[name]}) than what is "
                        f"there now ({value}); {ways} to name a new one.{_HINTS.get(name, '')}"
                    )
                self.accept_changes([f"other {name}, {value} where {stored[name]} stood"])
            self.outdate_costs()
        if stored | prepared != stored:
            self._keep("kd.prepared", stored | prepared)
        self._bound |= prepared

    def note_starts(self, starts: Mapping[str, Start]) -> None:
        """Note, for ``begin_work``, from what this process was told that networks start."""
        self._starts |= starts

    def note_code(self) -> None:
        """Note, for ``begin_work``, the code that the study stands on, which is this process's."""
        self._code = self.code

    def begin_work(self) -> None:
        """Say that this process works with what the study is tied to, which stays as it is meanwhile.

        Raises:
            HarnessError: If another start has tied the study to something else meanwhile.
        """
        with self.alone("bind"):
            bound, starts = self.attrs.get("kd.prepared", {}), self.starts()
            others = [name for name, value in self._bound.items() if bound.get(name) != value]
            others += ["code"] if self._code not in (None, self.code) else []
            others += [f"start weights of {name}" for name, start in self._starts.items() if starts.get(name) != start]
            if others:
                raise HarnessError(
                    f"study {self.settings.study!r} was tied to other {others[0]} by another start, while this one was "
                    "prepared; start this one again."
                )
            self._at_work.acquire()

    def leave(self) -> None:
        """Work on the study no more: give its leases back."""
        self._at_work.release()
        self.lease.release()

    def is_unused(self) -> bool:
        """Return whether nothing stands on what is prepared: a first start failed, and nobody else is at work."""
        return is_first_start(self.optuna, self.settings) and self._is_idle(self.lease)

    def accept_changes(self, changes: Sequence[str]) -> None:
        """Note what was changed and accepted.

        Who prepares, and has not begun to work, has seen them, or is told when it begins (``begin_work``).

        Raises:
            HarnessError: If others work with what was there before.
        """
        if not self._is_idle(self._at_work if self.lease.is_held else self.lease):
            raise HarnessError(
                f"study {self.settings.study!r} is being worked on as it was before; stop that first, and "
                "--accept-changes goes on."
            )
        self.note_changes(changes)

    def _is_idle(self, own: FolderLock) -> bool:
        """Return whether nobody else works on it, as far as it is known here, by who holds a lease beside its own."""
        if own.is_held:
            free = own.is_sole()
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            lease = FolderLock(self.folder, name=own.name)
            free = lease.acquire()
            lease.release()
        mine = (socket.gethostname(), os.getpid())
        return free and all(one.is_silent or (one.host, one.pid) == mine for one in self.leases.workers())

    def owns_folder(self) -> bool:
        """Return whether the study's folder is this study's, and not that of a namesake in another storage."""
        try:
            return bool(json.loads((self.folder / MARK).read_text(encoding="utf-8"))["id"] == self.id)
        except FileNotFoundError:
            return False

    def trials(self) -> list[FrozenTrial]:
        """Return every trial, in any state; one that others have put there as complete, without metrics, as failed.

        Not to be changed.
        """
        stored = self.retry.call(lambda: self.optuna.get_trials(deepcopy=False))
        return [_as_failed(trial) if _is_foreign(trial) else trial for trial in stored]

    def tally(self) -> Counter[TrialState]:
        """Count the trials in each state."""
        return Counter(trial.state for trial in self.trials())

    def trial_id(self, number: int) -> int:
        """Return the storage's id of a trial."""
        return self.storage.optuna.get_trial_id_from_study_id_trial_number(self._study_id, number)

    @cached_property
    def _study_id(self) -> int:
        return self.storage.optuna.get_study_id_from_name(self.optuna.study_name)

    def add_trial(self, trial: FrozenTrial, before_commit: Callable[[], None] = lambda: None) -> FrozenTrial:
        """Store a trial, whole: a cut leaves all of it, or nothing. Return it as it is stored, with its number.

        Args:
            trial: The trial.
            before_commit: Raises an error where the trial must not be stored any more (``Storage.create_trial``).

        Raises:
            HarnessError: If the study has a trial with another kind of range, which Optuna does not mix.
        """
        try:
            return self.storage.create_trial(self._study_id, trial, before_commit)
        except ValueError as error:
            raise self.mixed_ranges(error) from error

    def mixed_ranges(self, error: ValueError) -> HarnessError:
        """Return what to tell where another program has put trials of other ranges into the study."""
        return HarnessError(
            f"study {self.settings.study!r} must hold trials of its own space only, but another program has put one "
            f"there with another kind of range ({one_line(error)}); use --study to name a new one."
        )

    def finished(self) -> int:
        """Return how many trials are over, well or badly."""
        return _finished(self.tally())

    def running(self) -> int:
        """Return how many trials are being run, or were cut in the middle."""
        return self.tally()[TrialState.RUNNING]

    @property
    def is_over(self) -> bool:
        """Return whether there is nothing left to do: no trial to begin, and none to go on with."""
        tally = self.tally()
        finished = _finished(tally)
        return finished >= self.settings.trials or (self.is_exhausted and finished == tally.total())

    def finished_at_once(self) -> int | None:
        """As ``finished``, for whoever can't wait for a storage that is away; ``None`` if it is."""
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

    def take(self, names: Sequence[str]) -> tuple[str, Lease] | None:
        """The first of some trainings that no living worker is at, for this worker alone; ``None`` if there is none."""

        def take() -> tuple[str, Lease] | None:
            with self.leases.exclusive("claim", briefly=True):
                return self.leases.take(names)

        return self.retry.call(take)


_ACCEPTED = ("students", "teacher")
"""What a study can go on with others of, with ``--accept-changes``."""
_HINTS = {"dataset": " If nothing was changed, data() gives others each time: a split that is drawn wants a seed."}


_NO_METRICS = "it was not trained here: somebody has put it into the study, without its metrics"


def _is_foreign(trial: FrozenTrial) -> bool:
    """Return whether a trial was added as complete with Optuna's own means: it has values, but nobody knows of what."""
    return trial.state == TrialState.COMPLETE and "metrics" not in trial.user_attrs


def _as_failed(trial: FrozenTrial) -> FrozenTrial:
    found = copy.copy(trial)
    found.state, found.values = TrialState.FAIL, None
    found.user_attrs = {**trial.user_attrs, "reason": _NO_METRICS}
    return found


def _finished(tally: Counter[TrialState]) -> int:
    return sum(count for state, count in tally.items() if state.is_finished())
