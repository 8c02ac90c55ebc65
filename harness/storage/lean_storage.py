"""Optuna's storage in a database, asked in fewer statements where a worker's time goes: between two trainings."""

from __future__ import annotations

import copy
import datetime
import json
from collections import Counter, defaultdict
from collections.abc import Container, Mapping, Sequence
from functools import lru_cache
from typing import Any, cast

import sqlalchemy as sql
from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.dialects import mysql, postgresql, sqlite

_study, _of_study, _trial, _param, _value, _mark, _user, _system = (
    cast("sql.Table", model.__table__)
    for model in (
        models.StudyModel,
        models.StudyUserAttributeModel,
        models.TrialModel,
        models.TrialParamModel,
        models.TrialValueModel,
        models.TrialIntermediateValueModel,
        models.TrialUserAttributeModel,
        models.TrialSystemAttributeModel,
    )
)

# Built once: SQLAlchemy takes longer to build a statement than the database to answer it.
_WANTED = sql.and_(
    _trial.c.study_id == sql.bindparam("study"),
    _trial.c.trial_id >= sql.bindparam("oldest"),  # or SQLite would walk through all of the study
    sql.or_(_trial.c.trial_id > sql.bindparam("newest"), _trial.c.trial_id.in_(sql.bindparam("older", expanding=True))),
)
_TRIALS = sql.select(_trial).where(_WANTED).order_by(_trial.c.trial_id)


def _of_trials(table: sql.Table, *columns: str, order: str) -> sql.Select[Any]:
    """Some columns of the rows that belong to the trials that are read, each after its trial's id."""
    of_them = table.c.trial_id.in_(sql.select(_trial.c.trial_id).where(_WANTED))
    return sql.select(table.c.trial_id, *(table.c[name] for name in columns)).where(of_them).order_by(table.c[order])


_PARAMS = _of_trials(_param, "param_name", "param_value", "distribution_json", order="param_id")
_VALUES = _of_trials(_value, "value", "value_type", order="objective")
_MARKS = _of_trials(_mark, "step", "intermediate_value", "intermediate_value_type", order="step")
_USER = _of_trials(_user, "key", "value_json", order="trial_user_attribute_id")
_SYSTEM = _of_trials(_system, "key", "value_json", order="trial_system_attribute_id")

_STUDY = sql.select(_study.c.study_id).where(_study.c.study_id == sql.bindparam("study"))
_LOCKED_STUDY = _STUDY.with_for_update()
_OF_STUDY = sql.select(_of_study.c.key, _of_study.c.value_json).where(_of_study.c.study_id == sql.bindparam("study"))
_TALLY = (
    sql.select(_trial.c.state, sql.func.count())
    .where(_trial.c.study_id == sql.bindparam("study"))
    .group_by(_trial.c.state)
)
_BEFORE = sql.select(sql.func.count()).where(
    _trial.c.study_id == sql.bindparam("study"), _trial.c.trial_id < sql.bindparam("its")
)
_HOLD = (
    sql.update(_trial)
    .where(_trial.c.trial_id == sql.bindparam("its"), _trial.c.state == TrialState.RUNNING)
    .values(state=TrialState.RUNNING)
)
_END = _HOLD.values(state=sql.bindparam("how"), datetime_complete=sql.bindparam("when"))


class Outrun(Exception):
    """Another trial was begun, or enqueued, before this one, or this one by another worker; nothing was stored."""


class LeanStorage(RDBStorage):
    """Optuna's own tables, as Optuna fills them: whatever else reads them finds what it knows.

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
        with self.engine.begin() as connection:
            _see_that_it_is_there(connection, _LOCKED_STUDY, study_id)
            begun_at = _utc(whole.datetime_start)
            row = {"study_id": study_id, "number": number, "state": whole.state, "datetime_start": begun_at}
            trial_id = cast("sql.Row[Any]", connection.execute(sql.insert(_trial), row).inserted_primary_key)[0]
            before = connection.execute(_BEFORE, {"study": study_id, "its": trial_id}).scalar_one()
            if before != number:
                raise Outrun(f"{number} would be {before}")
            for table, rows in _rows_of(trial_id, whole).items():
                if rows:
                    connection.execute(sql.insert(table), rows)
        begun = copy.deepcopy(whole)
        begun.number, begun._trial_id = number, int(trial_id)
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
        with self.engine.begin() as connection:
            # A write at once: it locks the trial's row, and in SQLite, where reading locks nothing, all.
            now = {"its": trial_id, "how": state, "when": _utc(datetime.datetime.now())}
            _see_that_it_runs(trial_id, connection.execute(_END, now))
            _store_marks(connection, trial_id, marks)
            for key, value in user_attrs.items():
                _store(connection, _user, {"trial_id": trial_id, "key": key}, {"value_json": json.dumps(value)})
            if values:  # it ran: it has none yet
                stored = map(models.TrialValueModel.value_to_stored_repr, values)
                rows = [
                    {"trial_id": trial_id, "objective": objective, "value": value, "value_type": kind}
                    for objective, (value, kind) in enumerate(stored)
                ]
                connection.execute(sql.insert(_value), rows)

    def mark(self, trial_id: int, marks: Mapping[int, float]) -> None:
        """Store where a trial stands, in one transaction.

        Args:
            trial_id: The trial's, which runs.
            marks: Values on its way, by step.

        Raises:
            UpdateFinishedTrialError: If it is over already.
        """
        with self.engine.begin() as connection:
            _see_that_it_runs(trial_id, connection.execute(_HOLD, {"its": trial_id}))
            _store_marks(connection, trial_id, marks)

    def tally(self, study_id: int) -> Counter[TrialState]:
        """How many trials of a study are in each state: one statement, where reading the trials takes seven."""
        with self._reading.connect() as connection:
            return Counter({state: count for state, count in connection.execute(_TALLY, {"study": study_id})})

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
        with self._reading.connect() as connection:
            found = connection.execute(_TRIALS, asked).all()
            if not found:
                _see_that_it_is_there(connection, _STUDY, study_id)
                return []

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

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        with self._reading.connect() as connection:
            attrs = {key: json.loads(text) for key, text in connection.execute(_OF_STUDY, {"study": study_id})}
            if not attrs:
                _see_that_it_is_there(connection, _STUDY, study_id)
        return attrs

    @property
    def _reading(self) -> sql.Engine:
        """The engine, for statements that each stand alone."""
        return self.engine.execution_options(isolation_level="AUTOCOMMIT")


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
        datetime_start=_local(trial.datetime_start),
        datetime_complete=_local(trial.datetime_complete),
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


def _rows_of(trial_id: int, whole: FrozenTrial) -> dict[Any, list[dict[str, Any]]]:
    """What belongs to a new trial, by the table that it is kept in."""
    its = {"trial_id": trial_id}
    params = [
        {
            "param_name": name,
            "param_value": whole.distributions[name].to_internal_repr(value),
            "distribution_json": distribution_to_json(whole.distributions[name]),
        }
        for name, value in whole.params.items()
    ]
    user, system = (
        [{"key": key, "value_json": json.dumps(value)} for key, value in attrs.items()]
        for attrs in (whole.user_attrs, whole.system_attrs)
    )
    return {table: [its | row for row in rows] for table, rows in ((_param, params), (_user, user), (_system, system))}


def _see_that_it_is_there(connection: sql.Connection, asked: sql.Select[Any], study_id: int) -> None:
    if connection.execute(asked, {"study": study_id}).first() is None:
        raise KeyError(models.NOT_FOUND_MSG)


def _see_that_it_runs(trial_id: int, written: sql.CursorResult[Any]) -> None:
    if not written.rowcount:
        raise UpdateFinishedTrialError(f"trial {trial_id} does not run any more")


def _store_marks(connection: sql.Connection, trial_id: int, marks: Mapping[int, float]) -> None:
    for step, number in marks.items():
        value, kind = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr(number)
        row = {"intermediate_value": value, "intermediate_value_type": kind}
        _store(connection, _mark, {"trial_id": trial_id, "step": step}, row)


def _store(connection: sql.Connection, table: sql.Table, which: Mapping[str, Any], row: dict[str, Any]) -> None:
    """Insert a row of a trial whose own row is locked, or write over it.

    In one statement: one that updates nothing, and inserts then, locks the gaps between the trials on MySQL, and two
    workers wait for each other.
    """
    match connection.dialect.name:
        case "mysql" | "mariadb":
            connection.execute(mysql.insert(table).values(**which, **row).on_duplicate_key_update(row))
        case "sqlite" | "postgresql" as name:
            inserted = (sqlite if name == "sqlite" else postgresql).insert(table).values(**which, **row)
            connection.execute(inserted.on_conflict_do_update(index_elements=list(which), set_=row))
        case _:
            stored = sql.update(table).where(*(table.c[name] == value for name, value in which.items())).values(row)
            if not connection.execute(stored).rowcount:
                connection.execute(sql.insert(table), {**which, **row})


def _utc(local: datetime.datetime | None) -> datetime.datetime | None:
    """A local time as Optuna stores it."""
    return None if local is None else local.astimezone(datetime.UTC).replace(tzinfo=None)


def _local(utc: datetime.datetime | None) -> datetime.datetime | None:
    """What ``_utc`` was given."""
    return None if utc is None else utc.replace(tzinfo=datetime.UTC).astimezone().replace(tzinfo=None)


def lean(storage: BaseStorage) -> LeanStorage | None:
    """The database behind an open storage; ``None`` if it is none."""
    backend = getattr(storage, "_backend", None)
    return backend if isinstance(backend, LeanStorage) else None
