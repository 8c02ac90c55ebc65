"""The log of a run on disk: an append-only file of events, from which the mirror's process sends to the tracker."""

from __future__ import annotations

import errno
import json
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from harness.core.content import end_of_last_line

SPOOL = "spool.jsonl"
TAKEN = "taken_ms"
"""Field of an event: this folder owns the run since then (ms), and other machines' folders may have events of it."""

UNSURE = "unsure"
"""Field of an event: another machine may own the run by then, for this worker's heartbeat was overdue."""

FINISHED_STATES = frozenset({"COMPLETE", "PRUNED", "FAIL"})
STATES = FINISHED_STATES | {"RUNNING", "WAITING"}
"""States of a run, in Optuna's words; WAITING is a run that was interrupted and can go on."""

USER_TAG, SOURCE_TAG, COMMIT_TAG, NOTE_TAG = "user", "source", "git_commit", "note"
"""Tags that a tracker may show in a place of its own: who runs what program of which commit; a text in Markdown."""

_NOTIFIED_APART_S = 0.5  # epochs that end sooner after one another are not notified one by one


class Spool:
    """The log of one run, as lines of JSON in ``<folder>/spool.jsonl``.

    An event is one line, written at once. An event that is there already is not written again, so a run that resumes
    can log all of it once more.

    Args:
        folder: The run's own folder.
        on_append: Called with the folder after each event. Short epochs are skipped: the next call covers them.
        is_valid: Whether this worker certainly still owns the run; called before each event.

    Attributes:
        state: The run's last state.
        deaths: How often its process died since the last epoch that was logged, or restored from a checkpoint.
        kept: Epochs that its latest process restored from a checkpoint.
    """

    def __init__(
        self,
        folder: Path,
        on_append: Callable[[Path], None] = lambda folder: None,
        *,
        is_valid: Callable[[], bool] = lambda: True,
    ) -> None:
        self.folder = folder
        self._on_append = on_append
        self._is_valid = is_valid
        self._notified_s, self._is_notified = -math.inf, True
        self._begun = False
        self._steps: set[int] = set()
        self._run_metrics: dict[str, float] = {}
        self.state: str | None = None
        self.deaths = 0
        self._most_kept = self.kept = 0
        folder.mkdir(parents=True, exist_ok=True)
        self._file = os.open(folder / SPOOL, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._drop_torn_line()
        self._read_until = 0
        self._read()
        self.deaths += self.state == "RUNNING"

    def _read(self) -> None:
        """Read the events that were not read yet."""
        events, self._read_until = read_events_until(self.folder / SPOOL, self._read_until)
        for event in events:
            self._begun |= event["event"] == "run"
            if event["event"] == "metrics" and event["step"] is not None:
                self._steps.add(event["step"])
                self.deaths = 0
            elif event["event"] == "metrics":
                self._run_metrics |= event["values"]
            if event["event"] == "state":
                self.deaths = self.deaths + (self.state == "RUNNING") if event["state"] == "RUNNING" else 0
                self._note_state(event["state"], event.get("kept", 0))

    @property
    def begun(self) -> bool:
        """Return whether ``begin`` has written what the run is."""
        return self._begun

    @property
    def epochs(self) -> int:
        """Return how many epochs are logged."""
        return len(self._steps)

    def begin(
        self,
        name: str,
        *,
        tags: Mapping[str, str],
        params: Mapping[str, Any],
        parent: Path | None = None,
        taken_ms: int | None = None,
    ) -> None:
        """Write what the run is, once: a run that resumes keeps its name, tags and params.

        Args:
            name: The run's name.
            tags: Its first tags.
            params: Its parameters; they can't be changed later.
            parent: Folder of the parent run's spool.
            taken_ms: Since when this worker owns the run, by the clock of its lease, if another folder may have events
                of it.
        """
        if not self._begun:
            self._append(
                "run",
                name=name,
                tags=dict(tags),
                params={key: str(value) for key, value in params.items()},
                parent=None if parent is None else os.path.relpath(parent, self.folder),
                **({} if taken_ms is None else {TAKEN: taken_ms}),
            )
            self._begun = True
        elif taken_ms is not None:
            self._append("elsewhere", **{TAKEN: taken_ms})

    def beside(self, folder: Path) -> Spool:
        """Return the log of another run, with the same callbacks."""
        return Spool(folder, self._on_append, is_valid=self._is_valid)

    def metrics(self, values: Mapping[str, float], *, step: int | None = None) -> None:
        """Log metrics of an epoch (``step``, counted from 0), or of the whole run."""
        if os.fstat(self._file).st_size > self._read_until:
            self._read()  # a worker that was taken for dead, and its successor, must not log the same twice
        if step is None:
            if {**self._run_metrics, **values} != self._run_metrics:  # else a run that resumes logs them again
                self._append("metrics", step=step, values=dict(values))
                self._run_metrics |= values
        elif step not in self._steps:
            self._append("metrics", step=step, values=dict(values))
            self._steps.add(step)

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags."""
        self._append("tags", values=dict(values))

    def artifact(self, path: Path) -> None:
        """Log a file, or all files in a folder."""
        self._append("artifact", path=os.path.relpath(path, self.folder))

    def set_state(self, state: str, *, kept: int = 0) -> None:
        """Set the run's state (one of ``STATES``), and how many epochs were restored from a checkpoint."""
        assert state in STATES, state
        # Each process sets RUNNING again: the mirror may have marked an interrupted run as waiting.
        if state != self.state or state == "RUNNING":
            self._append("state", state=state, **({"kept": kept} if kept else {}))
            self._note_state(state, kept)

    def _note_state(self, state: str, kept: int) -> None:
        self.state = state
        if state == "RUNNING":
            self.kept = kept
            if kept > self._most_kept:
                self._most_kept, self.deaths = kept, 0

    def close(self) -> None:
        """Close the file."""
        if not self._is_notified:
            self._on_append(self.folder)
        os.close(self._file)

    def _append(self, event: str, **fields: Any) -> None:
        entry = {"event": event, "time_ms": time.time_ns() // 1_000_000, **fields}
        content = (json.dumps(entry if self._is_valid() else {**entry, UNSURE: True}) + "\n").encode()
        try:
            written = os.write(self._file, content)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.folder / SPOOL)) from error  # it has no name yet
        if written < len(content):
            # A torn line in the middle would make the whole spool unreadable.
            os.ftruncate(self._file, os.fstat(self._file).st_size - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder / SPOOL))
        if os.fstat(self._file).st_size == self._read_until + len(content):
            self._read_until += len(content)
        is_epoch, now_s = fields.get("step") is not None, time.monotonic()
        self._is_notified = not is_epoch or now_s - self._notified_s > _NOTIFIED_APART_S
        if self._is_notified:
            self._on_append(self.folder)
            self._notified_s = now_s if is_epoch else self._notified_s

    def _drop_torn_line(self) -> None:
        size = os.fstat(self._file).st_size  # asked first: a worker that was taken for dead may append meanwhile
        whole = end_of_last_line(self._file)
        if whole < size:
            os.ftruncate(self._file, whole)


def read_events(path: Path) -> list[dict[str, Any]]:
    """Return the whole events of a spool file; none if there is no file."""
    return read_events_until(path, 0)[0]


def read_events_until(path: Path, start: int) -> tuple[list[dict[str, Any]], int]:
    """Return the whole events from byte ``start`` on, and the byte where the next one will begin."""
    try:
        with open(path, "rb") as file:
            file.seek(start)
            content = file.read()
    except FileNotFoundError:
        return [], start
    whole = content.rfind(b"\n") + 1
    return [json.loads(line) for line in content[:whole].splitlines()], start + whole


def last_state(path: Path) -> str | None:
    """Return the state that a spool file ends in."""
    states = [event["state"] for event in read_events(path) if event["event"] == "state"]
    return states[-1] if states else None


def curves(folder: Path) -> dict[str, dict[int, float]]:
    """Return the metrics logged each epoch, by name and epoch."""
    found: dict[str, dict[int, float]] = {}
    for event in read_events(folder / SPOOL):
        if event["event"] == "metrics" and event["step"] is not None:
            for name, value in event["values"].items():
                found.setdefault(name, {})[event["step"]] = value
    return found
