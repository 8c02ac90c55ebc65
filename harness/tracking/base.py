"""The contract of a tracker, which shows runs to people, and the lookup of a tracker by the address of its store."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import ClassVar, NoReturn, Protocol

from harness.core.addresses import redact
from harness.core.errors import HarnessError, did_you_mean
from harness.core.plugins import modules_of

MIRROR_LOCK = "mirror.lock"
"""Name of the lock in a run's folder that is held while its spool is sent."""


class RunStore(Protocol):
    """The runs of one experiment at a tracker. Only the mirror's process holds one.

    A call that raises is repeated later, and a process can be killed within any of them: to repeat a call adds nothing.

    A spool (``harness.tracking.spool.SPOOL`` in a run's folder) holds lines of JSON with an ``event`` each:

    ============= =================================================================================================
    ``run``       begins a run, once (skip others): ``name``, ``tags``, ``params`` (text), ``parent``, ``taken_ms``
    ``metrics``   ``values`` by name, with a ``step``, the epoch from 0, or ``None`` for the whole run
    ``tags``      ``values`` by name: they replace those of the same names
    ``artifact``  ``path`` of a file or folder that belongs to the run, relative to the run's folder
    ``state``     ``state``: RUNNING (again whenever a process goes on), WAITING (interrupted), COMPLETE, PRUNED or
                  FAIL; ``kept``, if not 0: epochs that were restored from a checkpoint
    ``elsewhere`` ``taken_ms``: this machine goes on with a run of which another machine may have sent events
    ============= =================================================================================================

    Fields beside those:

    ============ ==================================================================================================
    ``time_ms``  of every event: when it was written, Unix time in ms
    ``unsure``   of any event, true: the worker's heartbeat was overdue, so another machine may own the run by then
    ``parent``   of ``run``: folder of the parent run's spool, relative to the run's folder, or ``None``
    ``taken_ms`` of ``run`` (left out where only one machine knows it) and ``elsewhere``: since when this folder owns it
    ============ ==================================================================================================

    Tags of ``run`` that a store may rely on; other names that begin with ``kd.`` are for people:

    ============== ================================================================================================
    ``kd.run_key`` of every run: the same on every machine, and no other run has it
    ``kd.role``    of every run: study, teacher, trial, control or confirm
    ``kd.study``   of all but teachers: name of the study
    ``kd.trial``   of trials: number of the trial
    ============== ================================================================================================

    ``USER_TAG``, ``SOURCE_TAG``, ``COMMIT_TAG`` and ``NOTE_TAG`` of ``harness.tracking.spool`` may be shown in places
    of their own.

    A store keeps in ``SendProgress`` how far it has sent a spool, and the last state that it sent. It holds
    ``exclusive(folder / MIRROR_LOCK)`` while it sends: several processes may send one spool. A process can be killed
    after events were sent and before the progress was saved, so the progress alone can't tell what was sent.

    Attributes:
        experiment_id: The tracker's own name of the experiment.
        identity: Text that differs between two stores, and between a store and one made anew at its address.
    """

    experiment_id: str
    identity: str

    def send(self, folder: Path) -> None:
        """Send the events in the spool of ``folder`` that this store lacks, and note how far (``SendProgress``)."""

    def publish(self, folder: Path, file: Path, *, anew: bool) -> None:  # as fetch: where ``Tracker.shares_files``
        """Make ``file`` an artifact of a run, unless it is one; ``anew`` replaces it."""

    def fetch(self, folder: Path, file: Path, run_key: str) -> bool:
        """Download the artifact called ``file.name`` of the run ``run_key`` to ``file``. Return whether the run has it.

        ``folder`` is the run's folder on this machine, which need not exist.
        """

    def mark_interrupted(self, folder: Path) -> None:
        """Mark a run as WAITING if it is RUNNING. Called with ``MIRROR_LOCK`` held, and no process works on the run."""


class Tracker(ABC):
    """A tracker, at one address.

    Its module imports nothing heavy: each search loads it. What takes long to import, ``preload`` and ``open`` import,
    in the mirror's process.

    Args:
        address: What ``--tracking-uri`` says.

    Attributes:
        name: What messages call it.
        schemes: Schemes of its addresses (``"jsonl"`` of ``jsonl://…``). The one tracker without any takes all
            addresses that no other one takes.
    """

    name: ClassVar[str]
    schemes: ClassVar[tuple[str, ...]]

    def __init__(self, address: str) -> None:
        self.address = address

    @property
    @abstractmethod
    def shares_files(self) -> bool:
        """Return whether machines that share no disk can exchange artifacts through it."""

    @classmethod  # noqa: B027 # most have nothing to import
    def preload(cls) -> None:
        """Import what ``open`` needs, before the address is known."""

    @abstractmethod
    def open(self, experiment: str, artifact_root: Path, *, say: Callable[[str], None]) -> RunStore:
        """Open the store and its experiment; create what is missing.

        Only one process of a machine opens a store at a time.

        Args:
            experiment: Name of the experiment.
            artifact_root: Folder for artifacts, for a store that has no place of its own.
            say: Called with a line of text, now and later, about what the store repairs or refuses.

        Raises:
            HarnessError: If the address is a mistake (``refuse_scheme``); its text is shown as it stands.
            Exception: Of any other type, if the store does not answer; its text is shown as the reason.
        """

    @abstractmethod
    def ui_command(self, executable: Callable[[str], str]) -> str | None:
        """Return the shell command that starts the page of ``runs_page``; ``None`` if it needs no start.

        The command holds no password.

        Args:
            executable: Returns what to type for a program of this Python environment.
        """

    @abstractmethod
    def runs_page(self, experiment_id: str, *, study: str, metric: str) -> str:
        """Return the address where a person compares the trials of a study, without a password.

        Args:
            experiment_id: The experiment (``RunStore.experiment_id``).
            study: Name of the study.
            metric: Logged name of the primary metric.
        """


def find_tracker(address: str) -> Tracker:
    """Return the tracker of an address, by its scheme.

    Raises:
        HarnessError: If the address has the scheme of a tracker, but no ``://`` after it.
    """
    scheme = address.partition(":")[0]
    own = [one for one in _trackers() if ":" in address and scheme in one.schemes]
    if own:
        check_slashes(address)
    (tracker,) = own or [one for one in _trackers() if not one.schemes]
    return tracker(address)


def check_slashes(address: str) -> None:
    """Check that an address has ``://`` after its scheme.

    Raises:
        HarnessError: If it has fewer slashes.
    """
    scheme, _, place = address.partition(":")
    if not place.startswith("//"):
        raise HarnessError(
            f"--tracking-uri must have '://' after its kind, but got {redact(address)!r}; did you mean {scheme}://…?"
        )


def refuse_scheme(address: str, schemes: Iterable[str]) -> NoReturn:
    """Refuse an address of a scheme that no tracker takes.

    Args:
        address: The address.
        schemes: Schemes of the one tracker that takes all addresses that no other one takes.

    Raises:
        HarnessError: Always.
    """
    known = [*filter(None, schemes), *(scheme for one in _trackers() for scheme in one.schemes)]
    near = did_you_mean(address.partition(":")[0], known)
    raise HarnessError(
        f"--tracking-uri must be a folder or an address of one of the kinds {', '.join(known)}, but got "
        f"{redact(address)!r}{near.replace('?', '://…?')}"
    )


def tracker_named(name: str) -> type[Tracker]:
    """Return the tracker of a name."""
    (tracker,) = (one for one in _trackers() if one.name == name)
    return tracker


@cache
def _trackers() -> tuple[type[Tracker], ...]:
    """Return every tracker that a module or package in ``harness/tracking/trackers`` defines."""
    return tuple(
        one
        for module in modules_of("harness.tracking.trackers")
        for one in vars(module).values()
        if isinstance(one, type) and issubclass(one, Tracker) and one.__module__ == module.__name__
    )
