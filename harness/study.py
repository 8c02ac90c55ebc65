"""The study: Optuna's storage is the truth about what has been tried, and about what it is a trial of."""

from __future__ import annotations

import json
import shutil
import socket
import uuid
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import RandomSampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from harness.addresses import redact, sqlite_path
from harness.content import Lease, derived_seed, exclusive, write_atomically
from harness.cost import COSTS
from harness.errors import HarnessError
from harness.proposal import Proposer
from harness.settings import Settings
from harness.space import Configuration, SearchSpace
from harness.storage import open_storage

optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)

MAXIMIZED = frozenset({"throughput_per_s", "agreement", "compression", "speedup"})
METRICS = (*COSTS, "agreement", "ece", "compression", "speedup")
"""What a trial has beside the task's primary metric."""

KNOWN_COSTS = tuple(name for name in METRICS if name not in ("agreement", "ece"))
"""Those of them that are known before a trial trains."""

_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
_COSTS_ATTR = "kd.costs"
_MAKING_ATTR = "kd.making"
_HERE_ATTR = "kd.first_start"
_EXHAUSTED_ATTR = "kd.exhausted"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A trial that this process alone may run.

    Attributes:
        trial: Optuna's trial, RUNNING.
        configuration: Its parameters.
        folder: Its own folder.
        lease: Held until the trial is over.
        resumed: Whether another process began it.
        recipe: Name of the recipe that it tries, or ``None``.
    """

    trial: Trial
    configuration: Configuration
    folder: Path
    lease: Lease
    resumed: bool
    recipe: str | None


class Study:
    """A study on its storage, opened for one space. What never changes is asked of the storage once.

    Args:
        optuna_study: The study.
        settings: How it is searched.
    """

    def __init__(self, optuna_study: optuna.Study, settings: Settings) -> None:
        self.optuna = optuna_study
        self.settings = settings
        self.folder = settings.study_dir
        self.lease = Lease(self.folder, shared=True)
        """Held by whoever works on the study."""

    @cached_property
    def id(self) -> str:
        """A name that no other study has, whatever it is called."""
        return str(self.attrs["kd.id"])

    @property
    def attrs(self) -> dict[str, Any]:
        """What the study says of itself."""
        return self.optuna.user_attrs

    def hold(self) -> None:
        """Take the study's lease.

        Raises:
            HarnessError: If the study was made anew since it was opened, by a start with other settings.
        """
        self.lease.acquire()
        known = self.id
        try:
            same = self.attrs.get("kd.id") == known
        except KeyError:
            same = False
        if not same:
            raise HarnessError(f"study {self.settings.study!r} was made anew by another start at the same time; again.")

    def owns_folder(self) -> bool:
        """Whether the study's folder is this study's, and not that of a namesake in another storage."""
        try:
            return bool(json.loads((self.folder / "study.json").read_text())["id"] == self.id)
        except FileNotFoundError:
            return False

    @cached_property
    def space_name(self) -> str:
        """Name of the space that it searches."""
        return str(self.attrs["kd.identity"]["space"])

    @cached_property
    def primary(self) -> str:
        """Name of the primary metric."""
        return str(self.attrs["kd.primary"])

    @cached_property
    def primary_direction(self) -> str:
        """``"maximize"`` or ``"minimize"``."""
        return str(self.attrs["kd.primary_direction"])

    @cached_property
    def objectives(self) -> tuple[str, ...]:
        """Names of the metrics that span the front, the primary metric among them or not."""
        return tuple(self.attrs["kd.identity"]["objectives"])

    @cached_property
    def directions(self) -> tuple[str, ...]:
        """``"maximize"`` or ``"minimize"`` for each objective."""
        return tuple(direction.name.lower() for direction in self.optuna.directions)

    def trials(self) -> list[FrozenTrial]:
        """Every trial, in any state. Not to be changed."""
        return self.optuna.get_trials(deepcopy=False)

    def finished(self) -> int:
        """How many trials are over, well or badly."""
        return sum(trial.state in _FINISHED for trial in self.trials())

    def trial_folder(self, number: int) -> Path:
        """Where a trial keeps its spool and checkpoint."""
        return self.folder / str(number)

    def claim(self, proposer: Proposer) -> Claim | None:
        """Take up a trial that was cut, or begin a new one; ``None`` when there is no more to begin.

        Workers exclude one another here, so that together they finish exactly the trials that were asked for.

        Args:
            proposer: Where a new trial's configuration comes from.
        """
        with exclusive(self.folder / "claim.lock"):
            trials = self.trials()
            for frozen in trials:
                if frozen.state == TrialState.RUNNING and (lease := self._lease_of_cut(frozen.number)) is not None:
                    return self._claimed(Trial(self.optuna, frozen._trial_id), proposer.space, lease, resumed=True)
            waiting = [trial.number for trial in trials if trial.state == TrialState.WAITING]
            if len(trials) - len(waiting) >= self.settings.trials:
                return None
            # Someone may have enqueued a trial with Optuna's own means; no budget holds back what is asked for by name.
            trial = self.optuna.ask() if waiting else self._begun(proposer, trials)
            if trial is None:
                self.optuna.set_user_attr(_EXHAUSTED_ATTR, True)
                return None
            lease = self._lease(trial.number)
            taken = lease.acquire()
            assert taken, trial.number
            return self._claimed(trial, proposer.space, lease, resumed=False)

    def _begun(self, proposer: Proposer, trials: list[FrozenTrial]) -> Trial | None:
        """A new trial, stored whole: a cut leaves all of it, or nothing."""
        proposal = proposer.propose(trials)
        if proposal is None:
            return None
        whole = create_trial(
            state=TrialState.RUNNING,
            params=proposal.params,
            distributions=proposal.distributions,
            user_attrs={} if proposal.recipe is None else {"recipe": proposal.recipe},
            system_attrs=proposal.notes,
        )
        return Trial(self.optuna, self.optuna._storage.create_new_trial(self.optuna._study_id, whole))

    @property
    def is_exhausted(self) -> bool:
        """Whether every configuration within the space and the budgets has been begun."""
        return bool(self.attrs.get(_EXHAUSTED_ATTR))

    @property
    def is_over(self) -> bool:
        """Whether there is nothing left to do: no trial to begin, and none to go on with."""
        finished = self.finished()
        return finished >= self.settings.trials or (self.is_exhausted and finished == len(self.trials()))

    def _lease(self, number: int) -> Lease:
        folder = self.trial_folder(number)
        folder.mkdir(parents=True, exist_ok=True)
        return Lease(folder)

    def _lease_of_cut(self, number: int) -> Lease | None:
        """The lease of a trial that is RUNNING in nobody's hands; ``None`` if it is over, or someone holds it."""
        lease = self._lease(number)
        # Its state is read with the lease in hand: whoever ends a trial gives up its lease afterwards.
        if lease.acquire() and self.trials()[number].state == TrialState.RUNNING:
            return lease
        lease.release()
        return None

    def _claimed(self, trial: Trial, space: SearchSpace, lease: Lease, *, resumed: bool) -> Claim:
        # Configurations come from a proposer; this one only completes what someone enqueued in part.
        self.optuna.sampler = RandomSampler(derived_seed(self.settings.seed, "enqueued", trial.number))
        return Claim(
            trial=trial,
            configuration=space.suggest(trial),
            folder=self.trial_folder(trial.number),
            lease=lease,
            resumed=resumed,
            recipe=trial.user_attrs.get("recipe"),
        )

    def complete(self, claim: Claim, metrics: Mapping[str, float]) -> None:
        """Record a trial that was trained to the end."""
        claim.trial.set_user_attr("metrics", dict(metrics))
        self.optuna.tell(claim.trial, [metrics[name] for name in self.objectives])

    def mark(self, claim: Claim, epochs: int, value: float) -> None:
        """Record where a trial stands after so many epochs, for all processes to see."""
        storage: BaseStorage = self.optuna._storage  # Optuna's own report() refuses where objectives are several
        storage.set_trial_intermediate_value(claim.trial._trial_id, epochs, value)

    def prune(self, claim: Claim, costs: Mapping[str, float], reason: str) -> None:
        """Record a trial that was stopped because it could not reach the front any more."""
        claim.trial.set_user_attr("metrics", dict(costs))
        claim.trial.set_user_attr("reason", reason)
        self.optuna.tell(claim.trial, state=TrialState.PRUNED)

    def fail(self, claim: Claim, reason: str) -> None:
        """Record a trial that failed by its own doing."""
        self._fail(claim.trial, reason)

    def give_up(self, number: int, reason: str) -> None:
        """Record a trial as failed that no process holds, if none has ended it since."""
        lease = self._lease_of_cut(number)
        if lease is not None:
            self._fail(Trial(self.optuna, self.trials()[number]._trial_id), reason)
            lease.release()

    def _fail(self, trial: Trial, reason: str) -> None:
        trial.set_user_attr("reason", reason)
        self.optuna.tell(trial, state=TrialState.FAIL)

    def bind(self, **prepared: str) -> None:
        """Tie the study to what was prepared for it, or see that it is tied to the same.

        Args:
            prepared: Content hashes by name: ``dataset``, ``students``, ``teacher``.

        Raises:
            HarnessError: If the study stands on something else.
        """
        stored = self.attrs.get("kd.prepared", {})
        for name, value in prepared.items():
            if stored.get(name, value) == value:
                continue
            if _begun_here(self.optuna, self.settings) and self.lease.is_sole():
                self.optuna.set_user_attr(_COSTS_ATTR, None)  # a first start that failed; nothing stands on it
            else:
                raise HarnessError(
                    f"study {self.settings.study!r} was begun with other {name} ({stored[name]}) than what is there "
                    f"now ({value}); use --study to name a new one."
                )
        if stored | prepared != stored:
            self.optuna.set_user_attr("kd.prepared", stored | prepared)

    @property
    def costs(self) -> str | None:
        """The cost table that the study stands on, as text."""
        return self.attrs.get(_COSTS_ATTR)

    def keep_costs(self, table: str) -> None:
        """Store the cost table with the study."""
        self.optuna.set_user_attr(_COSTS_ATTR, table)

    def keep_teacher(self, metrics: Mapping[str, float]) -> None:
        """Store the teacher's metrics with the study."""
        self.optuna.set_user_attr("kd.teacher", dict(metrics))


def open_study(settings: Settings, space: SearchSpace, storage: BaseStorage) -> Study:
    """Create the study, or resume it if it is the same one.

    Args:
        settings: Names it.
        space: Its whole space, nothing held fixed.
        storage: Where it is, or will be.

    Raises:
        HarnessError: If the stored study is of another space, other objectives, another number of epochs or another
            seed, or an objective is unknown.
    """
    objectives = settings.objectives or (space.task.metric_name, "latency_p50_ms", "parameters")
    directions = [_direction(name, space) for name in objectives]
    identity = {
        "space": settings.space_name,
        "parameters": space.declaration(),
        "objectives": list(objectives),
        "epochs": settings.epochs or space.epochs,
        "seed": settings.seed,
        "fixed": dict(settings.fixed),
        "max": dict(settings.budgets),
    }
    with exclusive(settings.study_dir.with_name(f".{settings.study}.lock")):
        if settings.study in optuna.get_all_study_names(storage):
            loaded = optuna.load_study(study_name=settings.study, storage=storage)
            stored = loaded.user_attrs.get("kd.identity")
            empty = not loaded.user_attrs and not loaded.get_trials(deepcopy=False)  # cut right after it was created
            if stored is None and _MAKING_ATTR not in loaded.user_attrs and not empty:
                raise HarnessError(
                    f"study {settings.study!r} in {redact(settings.storage)} was not made by this program; "
                    "use --study to name a new one."
                )
        else:
            loaded, stored = None, None
        if stored is not None and (stored == identity or loaded is None or not _is_abandoned(loaded, settings)):
            _compare(settings.study, stored, identity)
        else:
            # A study that was cut while it was being made has no identity yet, and one whose preparation failed has no
            # trial: it is made again, whole.
            if loaded is not None:
                optuna.delete_study(study_name=settings.study, storage=storage)
            loaded = optuna.create_study(study_name=settings.study, storage=storage, directions=directions)  # type: ignore[arg-type]
            loaded.set_user_attr(_MAKING_ATTR, True)
            loaded.set_user_attr(_HERE_ATTR, _here(settings))
            loaded.set_user_attr("kd.primary", space.task.metric_name)
            loaded.set_user_attr("kd.primary_direction", space.task.metric_direction)
            loaded.set_user_attr("kd.id", uuid.uuid4().hex)
            loaded.set_user_attr("kd.identity", identity)
        assert loaded is not None
        study = Study(loaded, settings)
        _own_folder(study)
    return study


def _here(settings: Settings) -> str:
    return f"{socket.gethostname()}:{settings.study_dir.resolve()}"


def _begun_here(study: optuna.Study, settings: Settings) -> bool:
    """Whether a study has no trial yet, and was first started in this very folder, where leases tell who is at work."""
    begun = any(trial.state != TrialState.WAITING for trial in study.get_trials(deepcopy=False))
    return not begun and study.user_attrs.get(_HERE_ATTR) == _here(settings)


def _is_abandoned(study: optuna.Study, settings: Settings) -> bool:
    """Whether a study has no trial and nobody at work on it: a first start that failed over what was then mended."""
    if not _begun_here(study, settings):
        return False
    settings.study_dir.mkdir(parents=True, exist_ok=True)
    lease = Lease(settings.study_dir)
    free = lease.acquire()
    lease.release()
    return free


def find_study(settings: Settings) -> Study:
    """Open a study that exists, to read it.

    Args:
        settings: Names it, and its storage.

    Raises:
        HarnessError: If the storage can't be used or has no such study of this program.
    """
    name, path = settings.study, sqlite_path(settings.storage)
    if path is not None and not path.exists():
        raise HarnessError(f"--storage must be a study's database, but there is no file {str(path)!r}.")
    storage = open_storage(settings)
    names = optuna.get_all_study_names(storage)
    if name not in names:
        known = ", ".join(sorted(names)) or "none"
        raise HarnessError(f"{redact(settings.storage)} must hold study {name!r}, but holds {known}.")
    loaded = optuna.load_study(study_name=name, storage=storage)
    if "kd.identity" not in loaded.user_attrs:
        raise HarnessError(f"study {name!r} was not made by this program.")
    return Study(loaded, settings)


def _own_folder(study: Study) -> None:
    """See that the study's folder holds this study's trials, and not those of a namesake in another storage.

    A namesake's folder is put aside under its id, and comes back when its study is opened again.
    """
    if study.owns_folder():
        return
    mark, kept = study.folder / "study.json", _aside(study.folder, study.id)
    if not kept.exists() and any(trial.state == TrialState.RUNNING for trial in study.trials()):
        # Its lease, if it is alive, and its checkpoint are in the folder that it was begun with.
        raise HarnessError(
            f"study {study.settings.study!r} has a trial that was begun with another --runs-dir or in another folder "
            f"than {study.folder.resolve()}; go on there."
        )
    if mark.exists():
        lease = Lease(study.folder)
        if not lease.acquire():
            raise HarnessError(
                f"another study of the name {study.settings.study!r}, in another storage, is being searched in "
                f"{study.folder}; use --study or --runs-dir to keep them apart."
            )
        study.folder.rename(_aside(study.folder, json.loads(mark.read_text())["id"]))
        lease.release()
    if kept.exists():
        shutil.rmtree(study.folder, ignore_errors=True)  # nothing but an empty folder can be there
        kept.rename(study.folder)
    write_atomically(mark, lambda path: path.write_text(json.dumps({"id": study.id})))


def _aside(folder: Path, study_id: str) -> Path:
    return folder.with_name(f"{folder.name}.{study_id[:8]}")


def _direction(objective: str, space: SearchSpace) -> str:
    if objective == space.task.metric_name:
        return space.task.metric_direction
    if objective not in METRICS:
        raise HarnessError(
            f"--objectives must name some of {', '.join((space.task.metric_name, *METRICS))}, but got {objective!r}."
        )
    return "maximize" if objective in MAXIMIZED else "minimize"


def _compare(name: str, stored: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    for key, value in asked.items():
        if stored.get(key) != value:
            raise HarnessError(
                f"study {name!r} was created with {key} {_shown(stored.get(key))} and cannot be resumed with "
                f"{_shown(value)}; use --study to name a new one."
            )


def _shown(value: Any) -> str:
    if isinstance(value, dict) and all(isinstance(item, dict) for item in value.values()):
        return "{" + ", ".join(f"{name}: {_range(dist)}" for name, dist in value.items()) + "}"
    return repr(",".join(value) if isinstance(value, list) else value)


def _range(distribution: Mapping[str, Any]) -> str:
    attributes = distribution["attributes"]
    if "choices" in attributes:
        return f"one of {list(attributes['choices'])}"
    return f"{attributes['low']:g}-{attributes['high']:g}{' log' if attributes['log'] else ''}"
