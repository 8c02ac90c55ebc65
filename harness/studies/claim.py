"""A claimed trial: reports its intermediate values and its end to the study."""

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
    """A trial that this worker has a lease on.

    Attributes:
        study: Its study.
        trial: The trial as it was stored when it was claimed, in state RUNNING.
        configuration: Its parameters.
        folder: Its own folder.
        lease: This worker's lease, until the trial is over.
        resumed: Whether another process began it.
        recipe: Name of the recipe that it tries, or ``None``.
        intermediate_values: The primary metric at rungs, by epochs done, since it was claimed.
        unreported: Epochs of the intermediate values that could not be stored yet.
    """

    study: Study
    trial: FrozenTrial
    configuration: Configuration
    folder: Path
    lease: Lease
    resumed: bool
    recipe: str | None
    intermediate_values: dict[int, float] = field(default_factory=dict)
    unreported: set[int] = field(default_factory=set)

    def report_intermediate(self, epochs: int, value: float) -> None:
        """Store the primary metric after so many epochs.

        Raises:
            StorageInternalError, SQLAlchemyError: If the storage is away; the value is stored later.
            LeaseLost: If another worker has ended the trial.
        """
        self.intermediate_values[epochs] = value
        self.unreported.add(epochs)
        try:
            self.study.retry.try_once(self._store_intermediate_values)
        except UpdateFinishedTrialError as error:
            raise self._ended_elsewhere() from error

    def complete(self, metrics: Mapping[str, float]) -> None:
        """Store that the trial was trained to the end."""
        values = [float(metrics[name]) for name in self.study.objectives]
        assert not any(map(math.isnan, values)), metrics
        self._end(TrialState.COMPLETE, {"metrics": dict(metrics)}, values)

    def prune(self, costs: Mapping[str, float], reason: str) -> None:
        """Store that the trial was stopped because it can't reach the front."""
        reached = {**self.trial.intermediate_values, **self.intermediate_values}
        # As Optuna's tell() does: with one objective, the last intermediate value is the trial's value.
        values = [reached[max(reached)]] if reached and len(self.study.objectives) == 1 else None
        self._end(TrialState.PRUNED, {"metrics": dict(costs), "reason": reason}, values)

    def fail(self, reason: str) -> None:
        """Store that the trial failed by its own fault."""
        self._end(TrialState.FAIL, {"reason": reason})

    def _end(self, state: TrialState, attrs: Mapping[str, Any], values: Sequence[float] | None = None) -> None:
        """Store that the trial is over. Optuna's tell() would read the whole trial before and after.

        Raises:
            LeaseLost: If another worker has taken over or ended the trial.
            StorageInternalError, SQLAlchemyError: If the storage is lost.
        """
        attempts = 0

        def end() -> None:
            nonlocal attempts
            self.lease.verify()
            attempts += 1
            try:
                with asking_storage():
                    self._store_end(state, attrs, values)
            except UpdateFinishedTrialError as error:
                if attempts > 1:
                    return  # an earlier attempt arrived, and only its answer was lost
                raise self._ended_elsewhere() from error

        self.study.retry.call(end)

    def _store_end(self, state: TrialState, attrs: Mapping[str, Any], values: Sequence[float] | None) -> None:
        self._store_intermediate_values()
        for name, value in attrs.items():
            self._storage.set_trial_user_attr(self._trial_id, name, value)
        self._storage.set_trial_state_values(self._trial_id, state, values)  # last: a cut before it leaves it running

    def _store_intermediate_values(self) -> None:
        for epochs in sorted(self.unreported):  # Optuna's own report() refuses trials of several objectives
            self._storage.set_trial_intermediate_value(self._trial_id, epochs, self.intermediate_values[epochs])
            self.unreported.remove(epochs)

    def _ended_elsewhere(self) -> LeaseLost:
        return LeaseLost(f"{self.trial.number} was finished by another worker meanwhile")

    @property
    def _storage(self) -> BaseStorage:
        return self.study.storage.optuna

    @property
    def _trial_id(self) -> int:
        return self.study.trial_id(self.trial.number)
