"""Optuna's storage in a database, asked in fewer statements where a worker's time goes: between two trainings."""

from __future__ import annotations

import copy
import datetime
import json
from collections import Counter, defaultdict
from collections.abc import Container, Mapping, Sequence
from functools import lru_cache
from typing import Any

import sqlalchemy as sql
from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages._rdb import models
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.orm import Session

# Built once: SQLAlchemy takes longer to build a statement than the database to answer it.
_trials: Any = models.TrialModel
_WANTED = sql.and_(
    _trials.study_id == sql.bindparam("study"),
    _trials.trial_id >= sql.bindparam("oldest"),  # or SQLite would walk through all of the study
    sql.or_(_trials.trial_id > sql.bindparam("newest"), _trials.trial_id.in_(sql.bindparam("older", expanding=True))),
)
_TRIALS = sql.select(_trials).where(_WANTED).order_by(_trials.trial_id)


def _of_trials(model: Any, *columns: str, order: str) -> sql.Select[Any]:
    """Some columns of the rows that belong to the trials that are read, each after its trial's id."""
    table = model.__table__.c
    of_them = table.trial_id.in_(sql.select(_trials.trial_id).where(_WANTED))
    return sql.select(table.trial_id, *(table[name] for name in columns)).where(of_them).order_by(table[order])


_PARAMS = _of_trials(models.TrialParamModel, "param_name", "param_value", "distribution_json", order="param_id")
_VALUES = _of_trials(models.TrialValueModel, "value", "value_type", order="objective")
_MARKS = _of_trials(
    models.TrialIntermediateValueModel, "step", "intermediate_value", "intermediate_value_type", order="step"
)
_USER = _of_trials(models.TrialUserAttributeModel, "key", "value_json", order="trial_user_attribute_id")
_SYSTEM = _of_trials(models.TrialSystemAttributeModel, "key", "value_json", order="trial_system_attribute_id")


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

    def end(
        self,
        trial_id: int,
        state: TrialState,
        *,
        values: Sequence[float] | None,
        user_attrs: Mapping[str, Any],
        marks: Mapping[int, float],
    ) -> None:
        """Store how a trial ended in one transaction: all of it, or nothing.

        Args:
            trial_id: The trial's, which runs.
            state: How it ended.
            values: One for each of the study's objectives; ``None`` if it has none.
            user_attrs: What else there is to say of it.
            marks: Values on its way, by step, that are not stored yet.

        Raises:
            UpdateFinishedTrialError: If it is over already.
        """
        one: Any = models.TrialModel
        running = sql.and_(one.trial_id == trial_id, one.state == TrialState.RUNNING)
        with _create_scoped_session(self.scoped_session) as session:
            # A write at once: it locks the trial's row, and in SQLite, where reading locks nothing, all.
            locked: Any = session.execute(sql.update(one).where(running).values(state=TrialState.RUNNING))
            if not locked.rowcount:
                raise UpdateFinishedTrialError(f"trial {trial_id} does not run any more")
            for step, mark in marks.items():
                self._set_trial_intermediate_value_without_commit(session, trial_id, step, mark)
            for key, value in user_attrs.items():
                self._set_trial_attr_without_commit(session, models.TrialUserAttributeModel, trial_id, key, value)
            for objective, number in enumerate(values or ()):  # it runs: it has none yet
                stored, kind = models.TrialValueModel.value_to_stored_repr(number)
                session.add(
                    models.TrialValueModel(trial_id=trial_id, objective=objective, value=stored, value_type=kind)
                )
            trial = models.TrialModel.find_or_raise_by_id(trial_id, session)
            trial.state, trial.datetime_complete = state, datetime.datetime.now()

    def tally(self, study_id: int) -> Counter[TrialState]:
        """How many trials of a study are in each state: one statement, where reading the trials takes seven."""
        counted = (
            sql.select(models.TrialModel.state, sql.func.count())
            .where(models.TrialModel.study_id == study_id)
            .group_by(models.TrialModel.state)
        )
        with self._reading.connect() as connection:
            return Counter({state: count for state, count in connection.execute(counted)})

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        # Optuna makes an object of every row, and parses each trial's distributions anew: most of its time.
        if states is not None:
            return super()._get_trials(study_id, states, included_trial_ids, trial_id_greater_than)
        older = [trial_id for trial_id in included_trial_ids if trial_id <= trial_id_greater_than]
        oldest = min(older, default=trial_id_greater_than)
        asked = {"study": study_id, "oldest": oldest, "newest": trial_id_greater_than, "older": older}
        # Trials first: what is read of one afterwards may be newer than its state, but never older.
        with Session(self._reading) as session:
            found = session.scalars(_TRIALS, asked).all()
            if not found:
                models.StudyModel.find_or_raise_by_id(study_id, session)
                return []
            connection = session.connection()

            def read(what: sql.Select[Any]) -> dict[int, list[Any]]:
                rows: dict[int, list[Any]] = defaultdict(list)
                for trial_id, *row in connection.execute(what, asked):
                    rows[trial_id].append(row)
                return rows

            params, values, marks, user, system = map(read, (_PARAMS, _VALUES, _MARKS, _USER, _SYSTEM))
        return [
            _frozen(trial, params[its], values[its], marks[its], user[its], system[its])
            for trial in found
            for its in [trial.trial_id]
        ]

    @property
    def _reading(self) -> sql.Engine:
        """The engine, for statements that each stand alone."""
        return self.engine.execution_options(isolation_level="AUTOCOMMIT")

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


def _frozen(
    trial: Any, params: list[Any], values: list[Any], marks: list[Any], user: list[Any], system: list[Any]
) -> FrozenTrial:
    """A trial as Optuna gives it.

    Args:
        trial: Its row.
        params: Name, value and distribution of each parameter, as they are stored.
        values: Value and kind of each objective's.
        marks: Step, value and kind of each.
        user: Key and text of its user attributes.
        system: Likewise of Optuna's own.
    """
    number, mark = models.TrialValueModel, models.TrialIntermediateValueModel
    return FrozenTrial(
        number=trial.number,
        state=trial.state,
        value=None,
        values=[number.stored_repr_to_value(*row) for row in values] or None,
        datetime_start=trial.datetime_start,
        datetime_complete=trial.datetime_complete,
        params={name: _distribution(text).to_external_repr(value) for name, value, text in params},
        distributions={name: _distribution(text) for name, _, text in params},
        user_attrs={key: json.loads(text) for key, text in user},
        system_attrs={key: json.loads(text) for key, text in system},
        intermediate_values={step: mark.stored_repr_to_intermediate_value(*row) for step, *row in marks},
        trial_id=trial.trial_id,
    )


@lru_cache(maxsize=1024)
def _distribution(text: str) -> BaseDistribution:
    """A distribution, as it is stored; the same object for all trials that were drawn from it."""
    return json_to_distribution(text)


def _only_begins(trial: FrozenTrial) -> bool:
    """Whether a trial runs, and has reached nothing yet."""
    return trial.state == TrialState.RUNNING and trial.values is None and not trial.intermediate_values


def lean(storage: BaseStorage) -> LeanStorage | None:
    """The database behind an open storage; ``None`` if it is none."""
    backend = getattr(storage, "_backend", None)
    return backend if isinstance(backend, LeanStorage) else None
