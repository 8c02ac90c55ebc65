"""How a worker comes by its next trial: one that was cut, a new one, or one that was put aside.

One worker at a time, as briefly as it can.

What a model proposes takes longer than to store it. So a worker thinks ahead: it reads the study and chooses before it
keeps the others out, and then only sees that nobody has begun a trial meanwhile. Where it had to wait for its turn the
last time, others would outrun it; then it thinks when it is its turn.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from harness.aside import ASIDE, is_aside
from harness.claim import Claim
from harness.claims import Check, Hold
from harness.content import derived_seed
from harness.errors import HarnessError
from harness.lean_storage import Outrun, lean
from harness.proposal import Next, Proposal, Proposer
from harness.study import Study


@dataclass(frozen=True)
class _Thought:
    """The study as it was read, and what was chosen then, if anything was."""

    trials: list[FrozenTrial]
    next: Next | None


@dataclass(frozen=True)
class _Taken:
    """A trial in hand, and how it was come by."""

    trial: FrozenTrial
    hold: Hold
    resumed: bool = False
    was_aside: bool = False


class Claimant:
    """Takes up one trial after the other.

    Workers exclude one another, so that together they finish exactly the trials that were asked for.

    Args:
        study: The study.
        proposer: Where a new trial's configuration comes from.
    """

    def __init__(self, study: Study, proposer: Proposer) -> None:
        self._study = study
        self._proposer = proposer
        self._crowded = False

    def claim(self) -> Claim | None:
        """Take up a trial that was cut or put aside, or begin a new one; ``None`` if there is none."""
        while True:
            with contextlib.suppress(Outrun):
                found = self._study.patience.ask(self._taken)
                return None if found is None else self._claim(found)

    def _taken(self) -> _Taken | None:
        study = self._study
        thought = None if self._crowded else self._think()
        self._crowded = False
        with study.claims.exclusive("claim", on_wait=self._wait, briefly=True) as check:
            if thought is None or not self._is_level(thought.trials):
                thought = _Thought(study.trials(), None)
            trials = thought.trials
            cut = [trial.number for trial in trials if _runs(trial) and not is_aside(trial)]
            if (taken := self._taken_up(cut, aside=False, check=check)) is not None:
                return taken
            waiting = _waiting(trials)
            may_begin = len(trials) - waiting < study.settings.trials
            # Someone may have enqueued a trial with Optuna's own means; no budget holds back what is asked for by name.
            if waiting and may_begin:
                check()
                trial = self._completed(study.optuna._storage.get_trial(study.optuna.ask()._trial_id))
            else:
                following = thought.next or self._proposer.choose(trials, may_begin=may_begin)
                if (taken := self._taken_up(following.aside, aside=True, check=check)) is not None:
                    return taken
                if following.proposal is None:
                    if may_begin and not following.aside:
                        study.keep_exhausted()
                    return None
                check()  # or another worker may begin the last one too
                trial = self._begun(following.proposal, number=len(trials))
            begun = study.claims.take([str(trial.number)])
            return None if begun is None else _Taken(trial, begun[1])

    def _wait(self) -> None:
        self._crowded = True

    def _think(self) -> _Thought:
        trials, following = self._study.trials(), None
        if not _waiting(trials):
            may_begin = len(trials) < self._study.settings.trials
            with contextlib.suppress(HarnessError):  # raised again when it is its turn, if nothing was cut
                following = self._proposer.choose(trials, may_begin=may_begin)
        return _Thought(trials, following)

    def _is_level(self, trials: list[FrozenTrial]) -> bool:
        """Whether no trial was begun, or enqueued, since the study was read, and it was read whole."""
        begun = (trial for trial in trials if trial.state == TrialState.RUNNING)
        if any(self._proposer.space.branch_of(trial.params) is None for trial in begun):
            return False  # enqueued, and being completed
        tally = self._study.tally()
        return tally.total() == len(trials) and tally[TrialState.WAITING] == _waiting(trials)

    def _taken_up(self, numbers: Sequence[int], *, aside: bool, check: Check) -> _Taken | None:
        """The first of some running trials that no living worker has, and that was put aside, or was not."""
        pieces = [str(number) for number in numbers]
        while pieces and (found := self._study.claims.take(pieces)) is not None:
            piece, hold = found
            with contextlib.ExitStack() as given_back:
                given_back.callback(hold.release)
                trial = self._study.trials()[int(piece)]
                # Read with the trial in hand: whoever ends one, or puts it aside, gives it back afterwards.
                if _runs(trial) and is_aside(trial) == aside:
                    whole = self._completed(trial)
                    if aside:
                        check()
                        self._study.optuna._storage.set_trial_user_attr(trial._trial_id, ASIDE, False)
                    given_back.pop_all()
                    return _Taken(whole, hold, resumed=True, was_aside=aside)
            pieces.remove(piece)
        return None

    def _completed(self, trial: FrozenTrial) -> FrozenTrial:
        """A trial with all its parameters, or others could choose the same: what someone enqueued names some, or none.

        Nobody else begins a trial meanwhile.
        """
        study, space = self._study, self._proposer.space
        if space.branch_of(trial.params) is not None:
            return trial
        # Configurations come from a proposer; this sampler only completes.
        study.optuna.sampler = RandomSampler(derived_seed(study.settings.seed, "enqueued", trial.number))
        space.suggest(Trial(study.optuna, trial._trial_id))
        return study.optuna._storage.get_trial(trial._trial_id)

    def _begun(self, proposal: Proposal, *, number: int) -> FrozenTrial:
        """A new trial, stored whole: a cut leaves all of it, or nothing."""
        whole = create_trial(
            state=TrialState.RUNNING,
            params=proposal.params,
            distributions=proposal.distributions,
            user_attrs={} if proposal.recipe is None else {"recipe": proposal.recipe},
            system_attrs=proposal.notes,
        )
        storage, study_id = self._study.optuna._storage, self._study.optuna._study_id
        database = lean(storage)
        if database is not None:
            return database.begin(study_id, whole, number=number)
        return storage.get_trial(storage.create_new_trial(study_id, whole))

    def _claim(self, taken: _Taken) -> Claim:
        trial = taken.trial
        return Claim(
            study=self._study,
            trial=trial,
            configuration=self._proposer.space.configuration(trial.params),
            folder=self._study.trial_folder(trial.number),
            hold=taken.hold,
            resumed=taken.resumed,
            was_aside=taken.was_aside,
            recipe=trial.user_attrs.get("recipe"),
        )


def _runs(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.RUNNING


def _waiting(trials: list[FrozenTrial]) -> int:
    return sum(trial.state == TrialState.WAITING for trial in trials)
