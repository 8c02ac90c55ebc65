"""How a worker comes by its next trial: one that was cut, or a new one. One worker at a time, as briefly as it can.

What a model proposes takes longer than to store it. So a worker thinks ahead: it reads the study and chooses before it
keeps the others out, and then only sees that nobody has begun a trial meanwhile. Where it had to wait for its turn the
last time, others would outrun it; then it thinks when it is its turn.
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
from harness.storage.leases import Check, Lease
from harness.studies.claim import Claim
from harness.studies.study import Study


class ConflictError(Exception):
    """Another worker began or ended a trial since the study was read: it must be read again."""


@dataclass(frozen=True)
class _Prefetched:
    """The study as it was read, and what was chosen then, if anything was."""

    trials: list[FrozenTrial]
    proposal: Proposal | None


class TrialClaimer:
    """Takes up one trial after the other.

    Workers exclude one another, so that together they finish exactly the trials that were asked for.

    Args:
        study: The study.
        proposer: Where a new trial's configuration comes from.
    """

    def __init__(self, study: Study, proposer: Proposer) -> None:
        self._study = study
        self._proposer = proposer
        self._contended = False

    def claim(self) -> Claim | None:
        """Take up a trial that was cut, or begin a new one; ``None`` when there is no more to begin."""
        while True:
            with contextlib.suppress(ConflictError):
                found = self._study.retry.call(self._taken)
                return None if found is None else self._claim(*found)

    def _taken(self) -> tuple[FrozenTrial, Lease, bool] | None:
        """Return a trial, the hold on it, and whether another process began it."""
        study = self._study
        thought = None if self._contended else self._prefetch()
        self._contended = False
        with study.leases.exclusive("claim", on_wait=self._wait, briefly=True) as check:
            if thought is None or not self._is_current(thought.trials):
                thought = _Prefetched(study.trials(), None)
            cut = self._cut(thought.trials)
            if cut is not None:
                return (*cut, True)
            waiting = _waiting(thought.trials)
            if len(thought.trials) - waiting >= study.settings.trials:
                return None
            # Someone may have enqueued a trial with Optuna's own means; no budget holds back what is asked for by name.
            if waiting:
                check()
                trial = self._completed(self._enqueued(thought.trials))
            else:
                proposal = thought.proposal or self._proposer.propose(thought.trials)
                if proposal is None:
                    study.keep_exhausted()
                    return None
                # Without the check before the commit, another worker may begin the last one too.
                trial = self._begun(proposal, check, number=len(thought.trials))
            taken = study.leases.take([str(trial.number)])
            return None if taken is None else (trial, taken[1], False)

    def _wait(self) -> None:
        self._contended = True

    def _prefetch(self) -> _Prefetched:
        trials, proposal = self._study.trials(), None
        waiting = _waiting(trials)
        if not waiting and len(trials) < self._study.settings.trials:
            with contextlib.suppress(HarnessError):  # raised again when it is its turn, if nothing was cut
                proposal = self._proposer.propose(trials)
        return _Prefetched(trials, proposal)

    def _is_current(self, trials: list[FrozenTrial]) -> bool:
        """Return whether no trial was begun, or enqueued, since the study was read, and it was read whole."""
        begun = (trial for trial in trials if trial.state == TrialState.RUNNING)
        if any(self._proposer.space.branch_of(trial.params) is None for trial in begun):
            return False  # enqueued, and being completed
        tally = self._study.tally()
        return tally.total() == len(trials) and tally[TrialState.WAITING] == _waiting(trials)

    def _cut(self, trials: list[FrozenTrial]) -> tuple[FrozenTrial, Lease] | None:
        """Return a running trial that no living worker has; as many of them go on as are still asked for."""
        finished = sum(trial.state.is_finished() for trial in trials)
        begun = [str(trial.number) for trial in trials if trial.state == TrialState.RUNNING]
        running = begun[: max(0, self._study.settings.trials - finished)]
        while (found := self._study.leases.take(running)) is not None:
            piece, hold = found
            with contextlib.ExitStack() as given_back:
                given_back.callback(hold.release)
                trial = self._study.trials()[int(piece)]
                # Read with the trial in hand: whoever ends one gives it back afterwards.
                if trial.state == TrialState.RUNNING:
                    whole = self._completed(trial)
                    given_back.pop_all()
                    return whole, hold
            running.remove(piece)
        return None

    def _completed(self, trial: FrozenTrial) -> FrozenTrial:
        """A trial with all its parameters, or others could choose the same: what someone enqueued names some, or none.

        Nobody else begins a trial meanwhile.
        """
        study, space = self._study, self._proposer.space
        if space.branch_of(trial.params) is not None:
            return trial
        asked = {**trial.system_attrs.get("fixed_params", {}), **trial.params}  # Optuna's name of what was enqueued
        if fault := space.fault(asked):
            self._fail(trial, fault)
        # Configurations come from a proposer; this sampler only completes.
        study.optuna.sampler = RandomSampler(derived_seed(study.settings.seed, "enqueued", trial.number))
        trial_id = study.trial_id(trial.number)
        space.suggest(Trial(study.optuna, trial_id))
        return study.storage.optuna.get_trial(trial_id)

    def _fail(self, trial: FrozenTrial, reason: str) -> NoReturn:
        """Tell a trial that can't be trained, and look for another one."""
        storage, trial_id = self._study.storage.optuna, self._study.trial_id(trial.number)
        storage.set_trial_user_attr(trial_id, "reason", reason)
        storage.set_trial_state_values(trial_id, TrialState.FAIL)
        raise ConflictError(reason)

    def _enqueued(self, trials: list[FrozenTrial]) -> FrozenTrial:
        """The first trial that waits, begun. Optuna's ask() would begin another one if nobody waited any more."""
        storage = self._study.storage.optuna
        trial_id = self._study.trial_id(next(trial.number for trial in trials if trial.state == TrialState.WAITING))
        try:
            begun = storage.set_trial_state_values(trial_id, state=TrialState.RUNNING)
        except UpdateFinishedTrialError:
            begun = False
        if not begun:
            raise ConflictError(f"trial {trial_id} does not wait any more")
        return storage.get_trial(trial_id)

    def _begun(self, proposal: Proposal, check: Check, *, number: int) -> FrozenTrial:
        """Begin a new trial.

        Raises:
            ConflictError: If others began one meanwhile, for this worker has lost its turn and not known it. The new
                trial is left as one that was cut: it goes on if it is still asked for.
        """
        whole = create_trial(
            state=TrialState.RUNNING,
            params=proposal.params,
            distributions=proposal.distributions,
            user_attrs={} if proposal.recipe is None else {"recipe": proposal.recipe},
            system_attrs=proposal.notes,
        )
        begun = self._study.add_trial(whole, before_commit=check)
        if begun.number != number:
            raise ConflictError(f"trial {begun.number} was to be trial {number}")
        return begun

    def _claim(self, trial: FrozenTrial, hold: Lease, resumed: bool) -> Claim:
        return Claim(
            study=self._study,
            trial=trial,
            configuration=self._proposer.space.configuration(trial.params),
            folder=self._study.trial_folder(trial.number),
            hold=hold,
            resumed=resumed,
            recipe=trial.user_attrs.get("recipe"),
        )


def _waiting(trials: list[FrozenTrial]) -> int:
    return sum(trial.state == TrialState.WAITING for trial in trials)
