"""The study: Optuna's storage is the truth about what has been tried, and about what it is a trial of."""

from __future__ import annotations

import contextlib
import json
import socket
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.samplers import RandomSampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from harness.addresses import redact
from harness.claims import Check, Claims, Hold
from harness.content import derived_seed
from harness.cost import COSTS
from harness.database_claims import claims_of, server_engine
from harness.errors import HarnessError, PieceTaken
from harness.pareto import pareto_front
from harness.presence import Presence
from harness.proposal import Proposer
from harness.settings import Settings
from harness.space import Configuration, SearchSpace
from harness.storage import STORAGE_ERRORS, patience_with

optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)

MAXIMIZED = frozenset({"throughput_per_s", "agreement", "compression", "speedup"})
METRICS = (*COSTS, "agreement", "teacher_kl", "ece", "compression", "speedup")
"""What a trial has beside the task's primary metric."""

KNOWN_COSTS = tuple(name for name in METRICS if name not in ("agreement", "teacher_kl", "ece"))
"""Those of them that are known before a trial trains."""

_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
_COSTS_ATTR = "kd.costs"
HERE_ATTR = "kd.first_start"
MOVED_ATTR, MOVING_ATTR = "kd.moved", "kd.moving"
"""Where a study went that was moved; and of a copy that is not whole yet, the id of the study that it is of."""
MARK = "study.json"
"""The file that says whose a study's folder is."""
_EXHAUSTED_ATTR = "kd.exhausted"
_RETRAINED = "kd.retrained."
_SOURCES_ATTR = "kd.sources"
_TESTED_ATTR = "kd.teacher_on_test"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A trial that this process alone may run.

    Attributes:
        trial: Optuna's trial, RUNNING.
        configuration: Its parameters.
        folder: Its own folder.
        hold: This worker's until the trial is over.
        resumed: Whether another process began it.
        recipe: Name of the recipe that it tries, or ``None``.
        unmarked: Where it stood at rungs that could not be stored yet, by epochs done.
    """

    trial: Trial
    configuration: Configuration
    folder: Path
    hold: Hold
    resumed: bool
    recipe: str | None
    unmarked: dict[int, float] = field(default_factory=dict)


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
        self.lease = Presence(settings)
        """Held by whoever works on the study."""
        self.patience = patience_with(optuna_study._storage)

    @cached_property
    def id(self) -> str:
        """A name that no other study has, whatever it is called.

        Raises:
            HarnessError: If the storage holds what can't be one: a folder is named after it.
        """
        found = str(self.attrs["kd.id"])
        if not found.isalnum():
            raise HarnessError(f"study {self.settings.study!r} must have a plain word as its id, but has {found!r}.")
        return found

    @property
    def attrs(self) -> dict[str, Any]:
        """What the study says of itself."""
        return self.patience.ask(lambda: self.optuna.user_attrs)

    def _keep(self, name: str, value: Any) -> None:
        self.patience.ask(lambda: self.optuna.set_user_attr(name, value))

    @cached_property
    def claims(self) -> Claims:
        """Who works on what."""
        return claims_of(self.optuna._storage, self.id, self.folder, self._see_that_it_is_here)

    def _see_that_it_is_here(self) -> None:
        see_that_it_is_here(self.attrs, self.settings)

    @cached_property
    def is_shared(self) -> bool:
        """Whether its workers may be on several machines, and its trials' folders too."""
        return server_engine(self.optuna._storage) is not None

    @contextlib.contextmanager
    def alone(self, what: str, *, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Keep all other workers of the study out meanwhile.

        Args:
            what: Names what is done.
            on_wait: Called if one must be waited for.
        """
        with contextlib.ExitStack() as held:
            self.patience.ask(lambda: held.enter_context(self.claims.exclusive(what, on_wait=on_wait)))
            yield

    def hold(self) -> None:
        """Take the study's lease.

        Raises:
            HarnessError: If the study was made anew since it was opened, by a start with other settings, or moved, or
                is worked on in another runs folder.
        """
        while not self.lease.acquire():  # someone looks whether anybody is at work
            time.sleep(0.01)
        known = self.id
        try:
            same = self.attrs.get("kd.id") == known
        except KeyError:
            same = False
        if not same:
            raise HarnessError(f"study {self.settings.study!r} was made anew by another start at the same time; again.")
        see_that_it_is_here(self.attrs, self.settings)

    def owns_folder(self) -> bool:
        """Whether the study's folder is this study's, and not that of a namesake in another storage."""
        try:
            return bool(json.loads((self.folder / MARK).read_text())["id"] == self.id)
        except FileNotFoundError:
            return False

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
        return self.patience.ask(lambda: self.optuna.get_trials(deepcopy=False))

    def finished(self) -> int:
        """How many trials are over, well or badly."""
        return sum(trial.state in _FINISHED for trial in self.trials())

    def finished_at_once(self) -> int | None:
        """As ``finished``, for whoever can't wait for a storage that is away; ``None`` if it is."""
        try:
            return self.patience.ask_once(self.finished)
        except STORAGE_ERRORS:
            return None

    def front(self) -> list[int]:
        """Numbers of the complete trials that no other one dominates, ascending."""
        complete = [trial for trial in self.trials() if trial.state == TrialState.COMPLETE]
        if not complete:
            return []
        values = np.array([trial.values for trial in complete], dtype=float)
        return [complete[place].number for place in pareto_front(values, self.directions)]

    def trial_folder(self, number: int) -> Path:
        """Where a trial keeps its spool and checkpoint."""
        return self.folder / str(number)

    def claim(self, proposer: Proposer) -> Claim | None:
        """Take up a trial that was cut, or begin a new one; ``None`` when there is no more to begin.

        Workers exclude one another here, so that together they finish exactly the trials that were asked for.

        Args:
            proposer: Where a new trial's configuration comes from.
        """
        found = self.patience.ask(lambda: self._taken(proposer))
        return None if found is None else self.patience.ask(lambda: self._claimed(*found, proposer.space))

    def _taken(self, proposer: Proposer) -> tuple[Trial, Hold, bool] | None:
        """A trial, the hold on it, and whether another process began it. One worker at a time."""
        with self.claims.exclusive("claim") as check:
            trials = self.trials()
            running = [str(trial.number) for trial in trials if trial.state == TrialState.RUNNING]
            while (found := self.claims.take(running)) is not None:
                piece, hold = found
                frozen = self.trials()[int(piece)]
                # Read with the trial in hand: whoever ends one gives it back afterwards.
                if frozen.state == TrialState.RUNNING:
                    return Trial(self.optuna, frozen._trial_id), hold, True
                hold.release()
                running.remove(piece)
            waiting = [trial.number for trial in trials if trial.state == TrialState.WAITING]
            if len(trials) - len(waiting) >= self.settings.trials:
                return None
            # Someone may have enqueued a trial with Optuna's own means; no budget holds back what is asked for by name.
            check()
            trial = self.optuna.ask() if waiting else self._begun(proposer, trials, check)
            if trial is None:
                self._keep(_EXHAUSTED_ATTR, True)
                return None
            check()
            taken = self.claims.take([str(trial.number)])
            return None if taken is None else (trial, taken[1], False)

    def take(self, names: Sequence[str]) -> tuple[str, Hold] | None:
        """The first of some trainings that no living worker is at, for this worker alone; ``None`` if there is none."""

        def take() -> tuple[str, Hold] | None:
            with self.claims.exclusive("claim"):
                return self.claims.take(names)

        return self.patience.ask(take)

    def _begun(self, proposer: Proposer, trials: list[FrozenTrial], check: Check) -> Trial | None:
        """A new trial, stored whole: a cut leaves all of it, or nothing."""
        proposal = proposer.propose(trials)
        if proposal is None:
            return None
        check()  # or another worker may begin the last one too
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

    def running(self) -> int:
        """How many trials are being run, or were cut in the middle."""
        return sum(trial.state == TrialState.RUNNING for trial in self.trials())

    def _claimed(self, trial: Trial, hold: Hold, resumed: bool, space: SearchSpace) -> Claim:
        # Configurations come from a proposer; this one only completes what someone enqueued in part.
        self.optuna.sampler = RandomSampler(derived_seed(self.settings.seed, "enqueued", trial.number))
        return Claim(
            trial=trial,
            configuration=space.suggest(trial),
            folder=self.trial_folder(trial.number),
            hold=hold,
            resumed=resumed,
            recipe=trial.user_attrs.get("recipe"),
        )

    def complete(self, claim: Claim, metrics: Mapping[str, float]) -> None:
        """Record a trial that was trained to the end."""
        values = [metrics[name] for name in self.objectives]
        self._end(claim, TrialState.COMPLETE, {"metrics": dict(metrics)}, values)

    def mark(self, claim: Claim, epochs: int, value: float) -> None:
        """Record where a trial stands after so many epochs, for all processes to see.

        Raises:
            StorageInternalError, SQLAlchemyError: If the storage is away; it is recorded later.
            PieceTaken: If it is another worker's by now.
        """
        claim.unmarked[epochs] = value
        try:
            self.patience.ask_once(lambda: self._mark(claim))
        except UpdateFinishedTrialError as error:
            raise PieceTaken(f"{claim.trial.number} was finished by another worker meanwhile") from error

    def _mark(self, claim: Claim) -> None:
        storage: BaseStorage = self.optuna._storage  # Optuna's own report() refuses where objectives are several
        for epochs, value in list(claim.unmarked.items()):
            storage.set_trial_intermediate_value(claim.trial._trial_id, epochs, value)
            del claim.unmarked[epochs]

    def prune(self, claim: Claim, costs: Mapping[str, float], reason: str) -> None:
        """Record a trial that was stopped because it could not reach the front any more."""
        self._end(claim, TrialState.PRUNED, {"metrics": dict(costs), "reason": reason})

    def fail(self, claim: Claim, reason: str) -> None:
        """Record a trial that failed by its own doing."""
        self._end(claim, TrialState.FAIL, {"reason": reason})

    def _end(
        self, claim: Claim, state: TrialState, attrs: Mapping[str, Any], values: Sequence[float] | None = None
    ) -> None:
        """Record that a trial is over.

        Raises:
            PieceTaken: If it is another worker's by now.
        """
        attempts = 0

        def end() -> None:
            nonlocal attempts
            claim.hold.prove()
            attempts += 1
            # The answer to an attempt may have been lost, and not the attempt.
            if attempts > 1 and self._is_finished(claim):
                return
            try:
                self._mark(claim)
                for name, value in attrs.items():
                    claim.trial.set_user_attr(name, value)
                self.optuna.tell(claim.trial, values, state=state if values is None else None)  # else NaN is an error
            except (UpdateFinishedTrialError, ValueError) as error:
                if not self._is_finished(claim):
                    raise
                raise PieceTaken(f"{claim.trial.number} was finished by another worker meanwhile") from error

        self.patience.ask(end)

    def _is_finished(self, claim: Claim) -> bool:
        return bool(self.optuna._storage.get_trial(claim.trial._trial_id).state.is_finished())

    def retrained(self) -> dict[str, dict[str, Any]]:
        """What came of each student that was trained anew (``harness.retraining``), by name.

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
    def sources(self) -> dict[str, Any]:
        """Where the space, the data and the teachers were when the study was last searched."""
        return dict(self.attrs.get(_SOURCES_ATTR, {}))

    def keep_sources(self) -> None:
        """Store where the settings have the space, the data and the teachers, for whoever works on the study later."""
        settings = self.settings
        sources = {
            "space_file": str(settings.space_file.resolve()),
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
        """How many trials the study was last asked for."""
        return self.sources.get("trials")

    @property
    def tested_teacher(self) -> dict[str, float] | None:
        """The teacher's scores on the test split; ``None`` before anything was confirmed."""
        return self.attrs.get(_TESTED_ATTR)

    def keep_tested_teacher(self, scores: Mapping[str, float]) -> None:
        """Store the teacher's scores on the test split."""
        self._keep(_TESTED_ATTR, dict(scores))

    def bind(self, **prepared: str) -> None:
        """Tie the study to what was prepared for it, or see that it is tied to the same.

        Args:
            prepared: Content hashes by name: ``dataset``, ``students``, ``teacher``.

        Raises:
            HarnessError: If the study stands on something else.
        """
        with self.alone("bind"):
            self._bind(prepared)

    def _bind(self, prepared: Mapping[str, str]) -> None:
        stored = self.attrs.get("kd.prepared", {})
        for name, value in prepared.items():
            if stored.get(name, value) == value:
                continue
            if is_first_start(self.optuna, self.settings) and self.lease.is_sole():
                self._keep(_COSTS_ATTR, None)  # a first start that failed; nothing stands on it
            else:
                raise HarnessError(
                    f"study {self.settings.study!r} was begun with other {name} ({stored[name]}) than what is there "
                    f"now ({value}); use --study to name a new one."
                )
        if stored | prepared != stored:
            self._keep("kd.prepared", stored | prepared)

    @property
    def costs(self) -> str | None:
        """The cost table that the study stands on, as text."""
        return self.attrs.get(_COSTS_ATTR)

    def keep_costs(self, table: str) -> None:
        """Store the cost table with the study."""
        self._keep(_COSTS_ATTR, table)

    @property
    def ensemble(self) -> str:
        """Where several teach as one, what is averaged of which; else empty."""
        bound = self.attrs.get("kd.prepared", {}).get("teacher", "")
        return bound if ", " in bound else ""

    def keep_class_names(self, names: Sequence[str]) -> None:
        """Store what the classes are called."""
        self._keep("kd.class_names", list(names))

    @property
    def class_names(self) -> tuple[str, ...]:
        """What the classes are called; empty where they go by their numbers."""
        return tuple(self.attrs.get("kd.class_names", ()))

    def keep_teacher(self, metrics: Mapping[str, float]) -> None:
        """Store the teacher's metrics with the study."""
        self._keep("kd.teacher", dict(metrics))


def _file_name(name: str, what: str) -> str:
    """A name that a storage gives, if a file or folder may be called so."""
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise HarnessError(f"{what} must be able to name a file, but the storage has {name!r}; somebody changed it.")
    return name


def see_that_it_is_here(attrs: Mapping[str, Any], settings: Settings) -> None:
    """See that a study was not moved to another storage; see ``harness.move``.

    Args:
        attrs: What it says of itself.
        settings: Name it, and its storage.

    Raises:
        HarnessError: If it was, or if it is the beginning of a copy.
    """
    if (place := attrs.get(MOVED_ATTR)) is not None:
        raise HarnessError(f"study {settings.study!r} was moved to {place}; go on there, with --storage.")
    if attrs.get(MOVING_ATTR) is not None:
        raise HarnessError(
            f"study {settings.study!r} in {redact(settings.storage)} must be whole, but its move to there is under way "
            "or was cut; the same `python -m harness move` again ends it."
        )


def here(settings: Settings) -> str:
    """This machine's folder of the study: leases tell only there who is at work."""
    return f"{socket.gethostname()}:{settings.study_dir.resolve()}"


def is_first_start(study: optuna.Study, settings: Settings) -> bool:
    """Whether a study has begun no trial yet, and was made in this very folder."""
    begun = any(trial.state != TrialState.WAITING for trial in study.get_trials(deepcopy=False))
    return not begun and study.user_attrs.get(HERE_ATTR) == here(settings)
