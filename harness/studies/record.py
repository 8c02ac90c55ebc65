"""What a study says of itself in its storage: what it is of, what it stands on, what came of it beside its trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import optuna

from harness.core.errors import HarnessError
from harness.region import Region
from harness.settings import Bound, Settings, bound_in
from harness.storage.access import Storage
from harness.studies.start import Start

_BOUND_ATTR = "kd.bound"
_CHANGES_ATTR = "kd.changes"
_CODE_ATTR = "kd.code"
_COSTS_ATTR = "kd.costs"
_EXHAUSTED_ATTR = "kd.exhausted"
_SANITY_WARNINGS_ATTR = "kd.misgivings"
_OUTDATED_ATTR = "kd.costs_outdated"
_REGION_ATTR = "kd.region"
_RETRAINED = "kd.retrained."
_SOURCES_ATTR = "kd.sources"
_STARTS_ATTR = "kd.starts"
_TESTED_ATTR = "kd.teacher_on_test"
_BOUNDS_ATTR = "kd.primary_bounds"
_NO_CONTROL_ATTR = "kd.no_control"


class Record:
    """The attributes of a study. What never changes is asked of the storage once.

    Args:
        storage: Where the study is.
        optuna_study: The study.
        settings: How it is searched.
    """

    def __init__(self, storage: Storage, optuna_study: optuna.Study, settings: Settings) -> None:
        self.storage = storage
        self.optuna = optuna_study
        self.settings = settings
        self.retry = storage.retry()

    @cached_property
    def id(self) -> str:
        """Return a name that no other study has, whatever it is called.

        Raises:
            HarnessError: If the storage holds what can't be one: a folder is named after it.
        """
        found = str(self.attrs["kd.id"])
        if not found.isalnum():
            raise HarnessError(f"study {self.settings.study!r} must have a plain word as its id, but has {found!r}.")
        return found

    @property
    def attrs(self) -> dict[str, Any]:
        """Return what the study says of itself."""
        return self.retry.call(lambda: self.optuna.user_attrs)

    def _keep(self, name: str, value: Any) -> None:
        self.retry.call(lambda: self.optuna.set_user_attr(name, value))

    @cached_property
    def space_name(self) -> str:
        """Name of the space that it searches."""
        return _file_name(str(self.attrs["kd.identity"]["space"]), "the name of a space")

    @cached_property
    def primary(self) -> str:
        """Name of the primary metric."""
        return str(self.attrs["kd.primary"])

    @cached_property
    def primary_direction(self) -> str:
        """``"maximize"`` or ``"minimize"``."""
        return str(self.attrs["kd.primary_direction"])

    @property
    def primary_sign(self) -> int:
        """1 where more of the primary metric is better, -1 where less is."""
        return 1 if self.primary_direction == "maximize" else -1

    @cached_property
    def objectives(self) -> tuple[str, ...]:
        """Return names of the metrics that span the front, the primary metric among them or not."""
        return tuple(self.attrs["kd.identity"]["objectives"])

    @cached_property
    def directions(self) -> tuple[str, ...]:
        """``"maximize"`` or ``"minimize"`` for each objective."""
        return tuple(direction.name.lower() for direction in self.optuna.directions)

    @cached_property
    def groups(self) -> dict[str, list[str]]:
        """Return names of the parameters of a student (``student``) and of its training (``training``)."""
        return dict(self.attrs["kd.groups"])

    @property
    def tuned_parameters(self) -> list[str]:
        """Return names of the parameters of training that vary: what a control can be tuned by."""
        return self.groups["tuned"]

    @property
    def is_exhausted(self) -> bool:
        """Return whether every configuration within the space and the budgets has been begun."""
        return bool(self.attrs.get(_EXHAUSTED_ATTR))

    def keep_exhausted(self) -> None:
        """Store that there is no configuration left to begin."""
        self._keep(_EXHAUSTED_ATTR, True)

    def retrained(self) -> dict[str, dict[str, Any]]:
        """Return what came of each student that was trained anew (``harness.trials.retraining``), by name.

        Raises:
            HarnessError: If the storage holds a name that leads out of the study's folder.
        """
        found = {key.removeprefix(_RETRAINED): value for key, value in self.attrs.items() if key.startswith(_RETRAINED)}
        for name in found:
            for part in name.split("/"):
                _file_name(part, "the name of a student that was trained anew")
        return found

    def keep_retrained(self, name: str, result: Mapping[str, Any]) -> None:
        """Store what came of a student that was trained anew: each in its own place, for many may be at work."""
        self._keep(f"{_RETRAINED}{name}", dict(result))

    @property
    def code(self) -> dict[str, Any]:
        """Return the code that it stands on, as ``harness.core.sources.Code.to_json`` gave it."""
        return dict(self.attrs[_CODE_ATTR])

    def keep_code(self, code: Mapping[str, Any]) -> None:
        """Store the code that the study stands on."""
        self._keep(_CODE_ATTR, dict(code))

    def starts(self) -> dict[str, Start]:
        """Return what networks start from, as far as the study is tied to it, by what they are called."""
        kept: dict[str, Any] = self.attrs.get(_STARTS_ATTR, {})
        return {name: Start(exact, tuple(numbers), digest) for name, (exact, numbers, digest) in kept.items()}

    def keep_starts(self, starts: Mapping[str, Start]) -> None:
        """Store what networks start from, beside what is stored of others. Within ``alone("bind")``."""
        known = self.starts()
        if (all_starts := {**known, **starts}) != known:
            told = {name: [start.exact, start.numbers, start.digest] for name, start in all_starts.items()}
            self._keep(_STARTS_ATTR, told)

    @property
    def changes(self) -> tuple[str, ...]:
        """Return what was changed under the study and accepted (``--accept-changes``), a sentence each."""
        return tuple(self.attrs.get(_CHANGES_ATTR, ()))

    def note_changes(self, changes: Sequence[str]) -> None:
        """Note what was changed, and that the trials from now on are of the new state."""
        begun = self.retry.call(lambda: len(self.optuna.get_trials(deepcopy=False)))
        self._keep(_CHANGES_ATTR, [*self.changes, *(f"before trial {begun}: {change}" for change in changes)])

    @property
    def sources(self) -> dict[str, Any]:
        """Return where the space, the data and the teachers were when the study was last searched."""
        return dict(self.attrs.get(_SOURCES_ATTR, {}))

    def keep_sources(self) -> None:
        """Store where the settings have the space, the data and the teachers, for whoever works on the study later."""
        settings = self.settings
        sources = {
            "space_file": "" if settings.space_file is None else str(settings.space_file.resolve()),
            "data_dir": None if settings.data_dir is None else str(settings.data_dir.resolve()),
            "teachers": [str(file.resolve()) for file in settings.teachers],
            "trained_teachers": settings.trained_teachers,
            "average": settings.average,
            "trials": settings.trials,
        }
        if sources != self.sources:
            self._keep(_SOURCES_ATTR, sources)

    @property
    def trials_asked(self) -> int | None:
        """Return how many trials the study was last asked for."""
        return self.sources.get("trials")

    @property
    def tested_teacher(self) -> dict[str, float] | None:
        """Return the teacher's scores on the test split; ``None`` before anything was confirmed."""
        return self.attrs.get(_TESTED_ATTR)

    def keep_tested_teacher(self, scores: Mapping[str, float]) -> None:
        """Store the teacher's scores on the test split."""
        self._keep(_TESTED_ATTR, dict(scores))

    @property
    def primary_bounds(self) -> tuple[float | None, float | None]:
        """The least and the most that the primary metric can be; ``None`` for one that is not known, or not yet."""
        low, high = self.attrs.get(_BOUNDS_ATTR, (None, None))
        return low, high

    def keep_primary_bounds(self, low: float | None, high: float | None) -> None:
        """Store what the primary metric can be."""
        if (low, high) != self.primary_bounds:
            self._keep(_BOUNDS_ATTR, [low, high])

    @property
    def no_control(self) -> str | None:
        """Why no training on labels alone is a fair control; empty where one is, ``None`` before that is known."""
        return self.attrs.get(_NO_CONTROL_ATTR)

    def keep_no_control(self, reason: str) -> None:
        """Store why there is no fair control."""
        if reason != self.no_control:
            self._keep(_NO_CONTROL_ATTR, reason)

    @property
    def region(self) -> Region:
        """Return which students count, as far as it is known: before the study is prepared, all do."""
        return Region(self.primary, self.primary_sign, **self.attrs.get(_REGION_ATTR, {}))

    def keep_region(self, region: Region) -> None:
        """Store which students count."""
        if region != self.region:
            self._keep(_REGION_ATTR, {"floor": region.floor, "why": region.why})

    @property
    def bound(self) -> Bound | None:
        """Return what students must reach to count, as it was asked for last; ``None`` takes the default."""
        attrs = self.attrs
        return bound_in(attrs.get(_BOUND_ATTR, attrs["kd.identity"]["region"]))

    def keep_bound(self, bound: Bound | None) -> None:
        """Store what students must reach to count, once a study is resumed with another bound than it had."""
        if bound != self.bound:
            self._keep(_BOUND_ATTR, bound and str(bound))

    @property
    def sanity_warnings(self) -> tuple[str, ...]:
        """Return the sanity warnings about its teachers and students, a sentence each."""
        return tuple(self.attrs.get(_SANITY_WARNINGS_ATTR, ()))

    def keep_sanity_warnings(self, found: Sequence[str]) -> None:
        """Store what is doubtful."""
        if tuple(found) != self.sanity_warnings:
            self._keep(_SANITY_WARNINGS_ATTR, list(found))

    @property
    def costs(self) -> str | None:
        """Return the cost table that the study stands on, as text."""
        return self.attrs.get(_COSTS_ATTR)

    def keep_costs(self, table: str) -> None:
        """Store the cost table with the study."""
        self._keep(_COSTS_ATTR, table)
        if self.costs_are_outdated:
            self._keep(_OUTDATED_ATTR, False)

    @property
    def costs_are_outdated(self) -> bool:
        """Return whether the cost table is of networks that the study was begun with, and goes on with others."""
        return bool(self.attrs.get(_OUTDATED_ATTR, False))

    def outdate_costs(self) -> None:
        """Let the next preparation measure the costs anew; until then the table is of the trials that there are."""
        if self.costs is not None:
            self._keep(_OUTDATED_ATTR, True)

    @property
    def ensemble(self) -> str:
        """Return where several teach as one, what is averaged of which; else empty."""
        bound = self.attrs.get("kd.prepared", {}).get("teacher", "")
        return bound if ", " in bound else ""

    def keep_class_names(self, names: Sequence[str]) -> None:
        """Store what the classes are called."""
        self._keep("kd.class_names", list(names))

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return what the classes are called; empty where they go by their numbers."""
        return tuple(self.attrs.get("kd.class_names", ()))

    def keep_teacher(self, metrics: Mapping[str, float]) -> None:
        """Store the teacher's metrics with the study."""
        self._keep("kd.teacher", dict(metrics))


def _file_name(name: str, what: str) -> str:
    """Return a name that a storage gives, if a file or folder may be called so."""
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise HarnessError(f"{what} must be able to name a file, but the storage has {name!r}; somebody changed it.")
    return name
