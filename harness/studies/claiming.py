"""Claim a worker's next trial, one that was cut or a new one, under optimistic concurrency control.

Workers claim one at a time, for the budget is exact, but a model takes longer to propose a trial than the storage to
store it. So a worker prefetches: it reads the study and chooses before it keeps the others out, and then checks only
that no trial was begun meanwhile. A worker that had to wait for the lock last time is likely to be outrun again: it
reads and chooses within the lock.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import NoReturn

from optuna.exceptions import UpdateFinishedTrialError
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from harness.core.content import derived_seed
from harness.core.errors import HarnessError
from harness.sampling.proposal import Proposal, Proposer
from harness.storage.leases import Lease, VerifyLock
from harness.studies.claim import Claim
from harness.studies.study import Study


class ConflictError(Exception):
    """Optimistic concurrency control failed: another worker began or ended a trial since the study was read."""


@dataclass(frozen=True)
class _Prefetched:
    """The trials as they were read, and the proposal for them, if there is one."""

    trials: list[FrozenTrial]
    proposal: Proposal | None


class TrialClaimer:
    """Claims one trial after the other; workers together finish exactly the trials that were asked for.

    Args:
        study: The study.
        proposer: Proposes the configurations of new trials.
    """

    def __init__(self, study: Study, proposer: Proposer) -> None:
        self._study = study
        self._proposer = proposer
        self._contended = False

    def claim(self) -> Claim | None:
        """Resume a trial that was cut, or begin a new one; return ``None`` when there is no more to begin."""
        while True:
            with contextlib.suppress(ConflictError):
                return self._study.retry.call(self._try_claim)

    def _try_claim(self) -> Claim | None:
        """Claim a trial under the lock.

        Raises:
            ConflictError: If another worker was faster.
        """
        study = self._study
        prefetched = None if self._contended else self._prefetch()
        self._contended = False
        with study.leases.exclusive("claim", on_wait=self._note_contention, briefly=True) as verify_lock:
            if prefetched is None or not self._is_current(prefetched.trials):
                prefetched = _Prefetched(study.trials(), None)
            trials = prefetched.trials
            if (resumed := self._resume(trials)) is not None:
                return resumed
            waiting = _count_waiting(trials)
            if len(trials) - waiting >= study.settings.trials:
                return None
            # Someone may have enqueued a trial with Optuna's own means; no budget holds back what is asked for by name.
            if waiting:
                verify_lock()
                trial = self._complete_params(self._begin_enqueued(trials))
            else:
                proposal = prefetched.proposal or self._proposer.propose(trials)
                if proposal is None:
                    study.is_exhausted = True
                    return None
                # Without verifying the lock before the commit, another worker may begin the last one too.
                trial = self._begin(proposal, verify_lock, number=len(trials))
            lease = study.leases.acquire([str(trial.number)])
            return None if lease is None else self._claimed(trial, lease, resumed=False)

    def _note_contention(self) -> None:
        self._contended = True

    def _prefetch(self) -> _Prefetched:
        trials, proposal = self._study.trials(), None
        if not _count_waiting(trials) and len(trials) < self._study.settings.trials:
            with contextlib.suppress(HarnessError):  # raised again under the lock, if nothing was cut
                proposal = self._proposer.propose(trials)
        return _Prefetched(trials, proposal)

    def _is_current(self, trials: list[FrozenTrial]) -> bool:
        """Return whether trials that were read are complete, and none was begun or enqueued since."""
        begun = (trial for trial in trials if trial.state == TrialState.RUNNING)
        if any(self._proposer.space.branch_of(trial.params) is None for trial in begun):
            return False  # enqueued, and being completed
        now = self._study.trials()
        return len(now) == len(trials) and _count_waiting(now) == _count_waiting(trials)

    def _resume(self, trials: list[FrozenTrial]) -> Claim | None:
        """Claim a running trial that no living worker has, as long as so many trials are still asked for."""
        finished = sum(trial.state.is_finished() for trial in trials)
        begun = [str(trial.number) for trial in trials if trial.state == TrialState.RUNNING]
        running = begun[: max(0, self._study.settings.trials - finished)]
        while (lease := self._study.leases.acquire(running)) is not None:
            with contextlib.ExitStack() as given_back:
                given_back.callback(lease.release)
                trial = self._study.trials()[int(lease.item)]
                # Read again under the lease: a worker ends its trial before it releases the lease.
                if trial.state == TrialState.RUNNING:
                    claim = self._claimed(self._complete_params(trial), lease, resumed=True)
                    given_back.pop_all()
                    return claim
            running.remove(lease.item)
        return None

    def _complete_params(self, trial: FrozenTrial) -> FrozenTrial:
        """Draw the parameters that an enqueued trial lacks, under the lock, or others could choose the same.

        Raises:
            ConflictError: If its given parameters are not in the space: it has failed.
        """
        study, space = self._study, self._proposer.space
        if space.branch_of(trial.params) is not None:
            return trial
        asked = {**trial.system_attrs.get("fixed_params", {}), **trial.params}  # where Optuna has what was enqueued
        if fault := space.fault(asked):
            self._fail(trial, fault)
        # Configurations come from a proposer; this sampler only completes.
        study.optuna.sampler = RandomSampler(derived_seed(study.settings.seed, "enqueued", trial.number))
        trial_id = study.trial_id(trial.number)
        space.suggest(Trial(study.optuna, trial_id))
        return study.storage.optuna.get_trial(trial_id)

    def _fail(self, trial: FrozenTrial, reason: str) -> NoReturn:
        """Store that a trial can't be trained, and let another one be claimed."""
        storage, trial_id = self._study.storage.optuna, self._study.trial_id(trial.number)
        storage.set_trial_user_attr(trial_id, "reason", reason)
        storage.set_trial_state_values(trial_id, TrialState.FAIL)
        raise ConflictError(reason)

    def _begin_enqueued(self, trials: list[FrozenTrial]) -> FrozenTrial:
        """Begin the first waiting trial. Optuna's ask() would begin a new one if none waited any more."""
        storage = self._study.storage.optuna
        trial_id = self._study.trial_id(next(trial.number for trial in trials if trial.state == TrialState.WAITING))
        try:
            begun = storage.set_trial_state_values(trial_id, state=TrialState.RUNNING)
        except UpdateFinishedTrialError:
            begun = False
        if not begun:
            raise ConflictError(f"trial {trial_id} does not wait any more")
        return storage.get_trial(trial_id)

    def _begin(self, proposal: Proposal, verify_lock: VerifyLock, *, number: int) -> FrozenTrial:
        """Store a new trial.

        Raises:
            ConflictError: If others began one meanwhile, for this worker has lost the lock and not known it. The new
                trial is left as one that was cut: it is resumed if it is still asked for.
        """
        trial = create_trial(
            state=TrialState.RUNNING,
            params=proposal.params,
            distributions=proposal.distributions,
            user_attrs={} if proposal.recipe is None else {"recipe": proposal.recipe},
            system_attrs=proposal.notes,
        )
        begun = self._study.add_trial(trial, before_commit=verify_lock)
        if begun.number != number:
            raise ConflictError(f"trial {begun.number} was to be trial {number}")
        return begun

    def _claimed(self, trial: FrozenTrial, lease: Lease, *, resumed: bool) -> Claim:
        return Claim(
            study=self._study,
            trial=trial,
            configuration=self._proposer.space.configuration(trial.params),
            folder=self._study.trial_folder(trial.number),
            lease=lease,
            resumed=resumed,
            recipe=trial.user_attrs.get("recipe"),
        )


def _count_waiting(trials: list[FrozenTrial]) -> int:
    return sum(trial.state == TrialState.WAITING for trial in trials)
