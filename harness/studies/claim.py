"""A trial in a worker's hand: where it stands, and how it ended, as its study is told."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from harness.core.errors import LeaseLost
from harness.space import Configuration
from harness.storage.access import asking_storage
from harness.storage.leases import Lease
from harness.studies.study import Study


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A trial that this process alone may run.

    Attributes:
        study: Its study.
        trial: What was stored of it when it was claimed: it runs.
        configuration: Its parameters.
        folder: Its own folder.
        hold: This worker's until the trial is over.
        resumed: Whether another process began it.
        recipe: Name of the recipe that it tries, or ``None``.
        marks: Where it stood at rungs, by epochs done, since it was claimed.
        unmarked: Those of them that could not be stored yet.
    """

    study: Study
    trial: FrozenTrial
    configuration: Configuration
    folder: Path
    hold: Lease
    resumed: bool
    recipe: str | None
    marks: dict[int, float] = field(default_factory=dict)
    unmarked: set[int] = field(default_factory=set)

    def mark(self, epochs: int, value: float) -> None:
        """Record where the trial stands after so many epochs, for all processes to see.

        Raises:
            StorageInternalError, SQLAlchemyError: If the storage is away; it is recorded later.
            LeaseLost: If it is another worker's by now.
        """
        self.marks[epochs] = value
        self.unmarked.add(epochs)
        try:
            self.study.retry.try_once(self._store_marks)
        except UpdateFinishedTrialError as error:
            raise self._is_another_s() from error

    def complete(self, metrics: Mapping[str, float]) -> None:
        """Record that it was trained to the end."""
        values = [float(metrics[name]) for name in self.study.objectives]
        assert not any(map(math.isnan, values)), metrics
        self._end(TrialState.COMPLETE, {"metrics": dict(metrics)}, values)

    def prune(self, costs: Mapping[str, float], reason: str) -> None:
        """Record that it was stopped because it had no chance of the front any more."""
        marks = {**self.trial.intermediate_values, **self.marks}
        # What Optuna's tell() does: of a trial with one objective, where it stood last is its value.
        values = [marks[max(marks)]] if marks and len(self.study.objectives) == 1 else None
        self._end(TrialState.PRUNED, {"metrics": dict(costs), "reason": reason}, values)

    def fail(self, reason: str) -> None:
        """Record that it failed by its own doing."""
        self._end(TrialState.FAIL, {"reason": reason})

    def _end(self, state: TrialState, attrs: Mapping[str, Any], values: Sequence[float] | None = None) -> None:
        """Record that the trial is over. Optuna's tell() would read it whole before and after.

        Raises:
            LeaseLost: If it is another worker's by now.
            StorageInternalError, SQLAlchemyError: If the storage is lost.
        """
        attempts = 0

        def end() -> None:
            nonlocal attempts
            self.hold.verify()
            attempts += 1
            try:
                with asking_storage():
                    self._store_end(state, attrs, values)
            except UpdateFinishedTrialError as error:
                if attempts > 1:
                    return  # the answer to an earlier attempt was lost, and not the attempt
                raise self._is_another_s() from error

        self.study.retry.call(end)

    def _store_end(self, state: TrialState, attrs: Mapping[str, Any], values: Sequence[float] | None) -> None:
        self._store_marks()
        for name, value in attrs.items():
            self._storage.set_trial_user_attr(self._trial_id, name, value)
        self._storage.set_trial_state_values(self._trial_id, state, values)  # last: a cut before it leaves it running

    def _store_marks(self) -> None:
        for epochs in sorted(self.unmarked):  # Optuna's own report() refuses where objectives are several
            self._storage.set_trial_intermediate_value(self._trial_id, epochs, self.marks[epochs])
            self.unmarked.remove(epochs)

    def _is_another_s(self) -> LeaseLost:
        return LeaseLost(f"{self.trial.number} was finished by another worker meanwhile")

    @property
    def _storage(self) -> BaseStorage:
        return self.study.storage.optuna

    @property
    def _trial_id(self) -> int:
        return self.study.trial_id(self.trial.number)
