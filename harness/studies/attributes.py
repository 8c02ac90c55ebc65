"""User attributes of a study in its storage: its identity, what it was prepared with, and results beside its trials."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Generic, TypeVar

import optuna

from harness.core.errors import HarnessError
from harness.region import Region
from harness.settings import Bound, Settings, bound_in
from harness.storage.access import Storage
from harness.studies.start import Start

_BOUND_ATTR = "kd.bound"
_COSTS_ATTR = "kd.costs"
_REGION_ATTR = "kd.region"
_RETRAINED = "kd.retrained."
_NEW_DATA = "kd.new_data."
PREPARED_ATTR = "kd.prepared"

_Value = TypeVar("_Value")


def _as_is(value: Any) -> Any:
    return value


class Stored(Generic[_Value]):
    """Descriptor of a user attribute: reads it from the storage at each access, and stores an assigned value.

    Args:
        key: Its name in the storage.
        read: Converts what is stored, which is JSON.
        default: What is converted where nothing is stored.
    """

    def __init__(self, key: str, read: Callable[[Any], _Value] = _as_is, default: Any = None) -> None:
        self._key, self._read, self._default = key, read, default

    def __get__(self, study: StudyAttributes, owner: type[StudyAttributes]) -> _Value:
        return self._read(study.attrs.get(self._key, self._default))

    def __set__(self, study: StudyAttributes, value: _Value) -> None:
        if value != self.__get__(study, type(study)):
            study.store(self._key, value)


class StudyAttributes:
    """The user attributes of a study. Those that never change are read from the storage once.

    Args:
        storage: Where the study is.
        optuna_study: The study.
        settings: How it is searched.
    """

    is_exhausted = Stored("kd.exhausted", bool)
    """Whether every configuration within the space and the budgets has been begun."""
    code = Stored[dict[str, Any]]("kd.code", dict, ())
    """The code that the study was begun with, or accepted, as ``harness.core.sources.Code.to_json`` returned it."""
    changes = Stored[tuple[str, ...]]("kd.changes", tuple, ())
    """Changes under the study that were accepted (``--accept-changes``), a sentence each."""
    sources = Stored[dict[str, Any]]("kd.sources", dict, ())
    """Where the space, the data and the teachers were when the study was last searched."""
    tested_teacher = Stored[dict[str, float] | None]("kd.teacher_on_test")
    """The teacher's scores on the test split; ``None`` before anything was confirmed."""
    primary_bounds = Stored[tuple[float | None, float | None]](
        "kd.primary_bounds", lambda ends: (ends[0], ends[1]), (None, None)
    )
    """The least and the greatest possible value of the primary metric; ``None`` for one that is not known."""
    no_control = Stored[str | None]("kd.no_control")
    """Why no training on labels alone is a fair control; empty where one is, ``None`` before that is known."""
    unlabelled = Stored("kd.unlabelled", int, 0)
    """Number of training samples without a label, which the teacher alone teaches."""
    sanity_warnings = Stored[tuple[str, ...]]("kd.misgivings", tuple, ())
    """Sanity warnings about its teachers and students, a sentence each."""
    costs_are_outdated = Stored("kd.costs_outdated", bool)
    """Whether the cost table was measured on networks that have changed since, and must be measured again."""
    class_names = Stored[tuple[str, ...]]("kd.class_names", tuple, ())
    """Names of the classes; empty where they have numbers only."""
    teacher = Stored[dict[str, float] | None]("kd.teacher")
    """The teacher's metrics; ``None`` before the study was prepared."""

    def __init__(self, storage: Storage, optuna_study: optuna.Study, settings: Settings) -> None:
        self.storage = storage
        self.optuna = optuna_study
        self.settings = settings
        self.retry = storage.retry_policy()

    @cached_property
    def id(self) -> str:
        """Return a unique id, whatever the study is called.

        Raises:
            HarnessError: If the storage holds an invalid one: a folder is named after it.
        """
        found = str(self.attrs["kd.id"])
        if not found.isalnum():
            raise HarnessError(f"study {self.settings.study!r} must have a plain word as its id, but has {found!r}.")
        return found

    @property
    def attrs(self) -> dict[str, Any]:
        """Return all user attributes."""
        return self.retry.call(lambda: self.optuna.user_attrs)

    def store(self, name: str, value: Any) -> None:
        """Store a user attribute."""
        self.retry.call(lambda: self.optuna.set_user_attr(name, value))

    @cached_property
    def space_name(self) -> str:
        """Return the name of the space that is searched."""
        return _file_name(str(self.attrs["kd.identity"]["space"]), "the name of a space")

    @cached_property
    def primary(self) -> str:
        """Return the name of the primary metric."""
        return str(self.attrs["kd.primary"])

    @cached_property
    def primary_direction(self) -> str:
        """Return ``"maximize"`` or ``"minimize"``."""
        return str(self.attrs["kd.primary_direction"])

    @property
    def primary_sign(self) -> int:
        """Return 1 where more of the primary metric is better, -1 where less is."""
        return 1 if self.primary_direction == "maximize" else -1

    @cached_property
    def objectives(self) -> tuple[str, ...]:
        """Return names of the metrics that span the front, the primary metric among them or not."""
        return tuple(self.attrs["kd.identity"]["objectives"])

    @cached_property
    def directions(self) -> tuple[str, ...]:
        """Return ``"maximize"`` or ``"minimize"`` for each objective."""
        return tuple(direction.name.lower() for direction in self.optuna.directions)

    @cached_property
    def groups(self) -> dict[str, list[str]]:
        """Return names of the parameters of a student (``student``) and of its training (``training``)."""
        return dict(self.attrs["kd.groups"])

    @property
    def tuned_parameters(self) -> list[str]:
        """Return names of the training parameters that vary, which a control can be tuned by."""
        return self.groups["tuned"]

    def retrained(self) -> dict[str, dict[str, Any]]:
        """Return the result of each student that was retrained (``harness.trials.retraining``), by name.

        Raises:
            HarnessError: If the storage holds a name that leads out of the study's folder.
        """
        found = {key.removeprefix(_RETRAINED): value for key, value in self.attrs.items() if key.startswith(_RETRAINED)}
        for name in found:
            for part in name.split("/"):
                _file_name(part, "the name of a retrained student")
        return found

    def store_retrained(self, name: str, result: Mapping[str, Any]) -> None:
        """Store the result of a student that was retrained: each in an attribute of its own, for several workers."""
        self.store(f"{_RETRAINED}{name}", dict(result))

    def new_data_scores(self) -> dict[str, dict[str, Any]]:
        """Return scores of confirmed students on new data, by its fingerprint (``harness.trials.new_data_scores``)."""
        found = {key.removeprefix(_NEW_DATA): value for key, value in self.attrs.items() if key.startswith(_NEW_DATA)}
        return dict(sorted(found.items(), key=lambda item: item[1]["place"]))

    def store_new_data_scores(self, fingerprint: str, result: Mapping[str, Any]) -> None:
        """Store what confirmed students scored on new data, in an attribute of its own."""
        known = self.new_data_scores()
        place = known[fingerprint]["place"] if fingerprint in known else len(known)
        self.store(f"{_NEW_DATA}{fingerprint}", {**result, "place": place})

    def starts(self) -> dict[str, Start]:
        """Return the start weights that networks are pinned to, by the networks' names."""
        kept: dict[str, Any] = self.attrs.get("kd.starts", {})
        return {name: Start(exact, tuple(numbers), digest) for name, (exact, numbers, digest) in kept.items()}

    def store_starts(self, starts: Mapping[str, Start]) -> None:
        """Pin networks to start weights, beside those pinned before. To be called in ``exclusive("bind")``."""
        known = self.starts()
        if (merged := {**known, **starts}) != known:
            self.store("kd.starts", {name: [one.exact, one.numbers, one.digest] for name, one in merged.items()})

    def note_changes(self, changes: Sequence[str]) -> None:
        """Note changes, and from which trial on they apply."""
        begun = self.retry.call(lambda: len(self.optuna.get_trials(deepcopy=False)))
        self.changes = (*self.changes, *(f"before trial {begun}: {change}" for change in changes))

    def store_sources(self) -> None:
        """Store where the settings have the space, the data and the teachers, for commands that reopen the study."""
        settings = self.settings
        self.sources = {
            "space_file": "" if settings.space_file is None else str(settings.space_file.resolve()),
            "data_dir": None if settings.data_dir is None else str(settings.data_dir.resolve()),
            "teachers": [str(file.resolve()) for file in settings.teachers],
            "trained_teachers": settings.trained_teachers,
            "average": settings.average,
            "trials": settings.trials,
        }

    @property
    def region(self) -> Region:
        """Return the region of interest; before the study is prepared, all students are in it."""
        return Region(self.primary, self.primary_sign, **self.attrs.get(_REGION_ATTR, {}))

    @region.setter
    def region(self, region: Region) -> None:
        if region != self.region:
            self.store(_REGION_ATTR, {"floor": region.floor, "why": region.why})

    @property
    def bound(self) -> Bound | None:
        """Return the bound of the region that was asked for last; ``None`` takes the default."""
        attrs = self.attrs
        return bound_in(attrs.get(_BOUND_ATTR, attrs["kd.identity"]["region"]))

    @bound.setter
    def bound(self, bound: Bound | None) -> None:
        if bound != self.bound:
            self.store(_BOUND_ATTR, bound and str(bound))

    @property
    def costs(self) -> str | None:
        """Return the study's cost table, as text."""
        return self.attrs.get(_COSTS_ATTR)

    @costs.setter
    def costs(self, table: str) -> None:
        self.store(_COSTS_ATTR, table)
        self.costs_are_outdated = False

    def outdate_costs(self) -> None:
        """Let the next preparation measure the costs again; until then the table describes the existing trials."""
        if self.costs is not None:
            self.costs_are_outdated = True

    @property
    def how_teachers_are_asked(self) -> str | None:
        """Return ``"stored"`` or ``"live"``, as it was so far; ``None`` if no teacher was asked yet."""
        way: str | None = self.attrs.get(PREPARED_ATTR, {}).get("teacher_outputs")
        return way

    @property
    def ensemble(self) -> str:
        """Return the kind of average and the digests of an ensemble of teachers; empty for one teacher."""
        teacher = self.attrs.get(PREPARED_ATTR, {}).get("teacher", "")
        return teacher if ", " in teacher else ""


def _file_name(name: str, what: str) -> str:
    """Return a name from the storage, checked to be the name of a file."""
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise HarnessError(f"{what} must be able to name a file, but the storage has {name!r}; somebody changed it.")
    return name
