"""Optuna's storage in a database, asked in fewer statements where a worker's time goes: at a trial's beginning."""

from __future__ import annotations

import copy
import json
from collections import Counter

import sqlalchemy as sql
from optuna.distributions import distribution_to_json
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages._rdb import models
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.orm import Session


class Outrun(Exception):
    """Another trial was begun, or enqueued, before this one; nothing was stored."""


class LeanStorage(RDBStorage):
    """Optuna's own tables, by Optuna's own models: whatever else reads them finds what it knows.

    Takes what ``RDBStorage`` does.
    """

    def begin(self, study_id: int, whole: FrozenTrial, *, number: int) -> FrozenTrial:
        """Store a running trial in one transaction, if it is the study's next one; as it is stored.

        Whoever asks may have lost its turn without knowing, for the server was away, or have begun the trial before and
        not been told. Optuna itself would then begin another one, and tries again by itself.

        Args:
            study_id: The study's.
            whole: The trial.
            number: Its own.

        Raises:
            Outrun: If it would have another number.
        """
        with _create_scoped_session(self.scoped_session) as session:
            models.StudyModel.find_or_raise_by_id(study_id, session, for_update=True)
            trial = self._get_prepared_new_trial(study_id, whole, session)
            if trial.number != number:
                raise Outrun(f"{number} would be {trial.number}")
            begun = copy.deepcopy(whole)
            begun.number, begun._trial_id = number, int(trial.trial_id)
        return begun

    def tally(self, study_id: int) -> Counter[TrialState]:
        """How many trials of a study are in each state: one statement, where reading the trials takes seven."""
        counted = (
            sql.select(models.TrialModel.state, sql.func.count())
            .where(models.TrialModel.study_id == study_id)
            .group_by(models.TrialModel.state)
        )
        with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            return Counter({state: count for state, count in connection.execute(counted)})

    def _get_prepared_new_trial(
        self, study_id: int, template_trial: FrozenTrial | None, session: Session
    ) -> models.TrialModel:
        # Optuna asks anew, before it writes each parameter and attribute, whether the trial is there and running, and
        # what an earlier trial drew the parameter from: twenty statements. This one is new, and its space the study's.
        if template_trial is None or not _only_begins(template_trial):
            return super()._get_prepared_new_trial(study_id, template_trial, session)
        drawn_from = template_trial.distributions
        trial = models.TrialModel(
            study_id=study_id,
            state=TrialState.RUNNING,
            datetime_start=template_trial.datetime_start,
            params=[
                models.TrialParamModel(
                    param_name=name,
                    param_value=drawn_from[name].to_internal_repr(value),
                    distribution_json=distribution_to_json(drawn_from[name]),
                )
                for name, value in template_trial.params.items()
            ],
            user_attributes=[
                models.TrialUserAttributeModel(key=key, value_json=json.dumps(value))
                for key, value in template_trial.user_attrs.items()
            ],
            system_attributes=[
                models.TrialSystemAttributeModel(key=key, value_json=json.dumps(value))
                for key, value in template_trial.system_attrs.items()
            ],
        )
        session.add(trial)
        session.flush()  # its number is that of the ids before its own
        trial.number = trial.count_past_trials(session)
        return trial


def _only_begins(trial: FrozenTrial) -> bool:
    """Whether a trial runs, and has reached nothing yet."""
    return trial.state == TrialState.RUNNING and trial.values is None and not trial.intermediate_values


def lean(storage: BaseStorage) -> LeanStorage | None:
    """The database behind an open storage; ``None`` if it is none."""
    backend = getattr(storage, "_backend", None)
    return backend if isinstance(backend, LeanStorage) else None
