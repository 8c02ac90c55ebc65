"""What is to be logged, on disk first: one append-only file a run, which a tracking server's absence can't hurt."""

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
STATE_FILE = "mirror.json"
"""How far a spool has been sent, beside it; see ``harness.tracking.mlflow_sink``."""

TAKEN = "taken_ms"
"""Says in an event that the run may have events from another machine's folder, and since when it is this one's."""

UNSURE = "unsure"
"""Says in an event that the run may be another machine's by then: its worker had not been heard for a while."""

RUN_STATUS = {
    "RUNNING": "RUNNING",
    "WAITING": "SCHEDULED",
    "COMPLETE": "FINISHED",
    "PRUNED": "KILLED",
    "FAIL": "FAILED",
}
"""MLflow's run status for each of Optuna's trial states; WAITING is a run that was cut and can go on."""

_SHORT_S = 0.5  # of epochs that are not told each

FINISHED_STATES = frozenset({"COMPLETE", "PRUNED", "FAIL"})


class Spool:
    """The log of one MLflow run, as lines of JSON in ``<folder>/spool.jsonl``.

    An event is one line, written at once. What stands there already is not written again, so a run that was cut
    repeats itself harmlessly.

    Args:
        folder: The run's own folder.
        on_append: Told the folder after each event; of an epoch's only now and then where epochs are short, for whoever
            is told of the next one reads both.
        is_valid: Whether the run can't be another machine's yet; asked before each event.
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
        self._is_sure = is_valid
        self._told_s, self._is_told = -math.inf, True
        self._begun = False
        self._steps: set[int] = set()
        self._whole: dict[str, float] = {}
        self.state: str | None = None
        self.deaths = 0
        """How often its process ended, without a word, since the last epoch that is logged, or kept."""
        self._furthest = self.kept = 0
        """After how many epochs the latest process of it went on."""
        folder.mkdir(parents=True, exist_ok=True)
        self._file = os.open(folder / SPOOL, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._drop_torn_line()
        self._read_until = 0
        self._read()
        self.deaths += self.state == "RUNNING"

    def _read(self) -> None:
        """Take in what stands there, and was not read yet."""
        events, self._read_until = read_events_until(self.folder / SPOOL, self._read_until)
        for event in events:
            self._begun |= event["event"] == "run"
            if event["event"] == "metrics" and event["step"] is not None:
                self._steps.add(event["step"])
                self.deaths = 0
            elif event["event"] == "metrics":
                self._whole |= event["values"]
            if event["event"] == "state":
                self.deaths = self.deaths + (self.state == "RUNNING") if event["state"] == "RUNNING" else 0
                self._note_state(event["state"], event.get("kept", 0))

    @property
    def begun(self) -> bool:
        """Return whether it says what run it is of."""
        return self._begun

    @property
    def epochs(self) -> int:
        """Epochs that are logged."""
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
        """Say what the run is. Once: a run that goes on keeps its name, tags and params.

        Args:
            name: The run's name.
            tags: Its first tags.
            params: Its parameters; they can't be changed later.
            parent: Folder of the parent run's spool, as seen from this one's.
            taken_ms: Since when the run is this worker's, by the clock of its hold, where it may have been begun, or
                gone on with, from another folder.
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
        """Return the log of another run, whose events are told as those of this one are."""
        return Spool(folder, self._on_append, is_valid=self._is_sure)

    def metrics(self, values: Mapping[str, float], *, step: int | None = None) -> None:
        """Log metrics of an epoch (``step``, counted from 0), or of the whole run."""
        if os.fstat(self._file).st_size > self._read_until:
            self._read()  # a worker that was taken for dead, and its heir, must not say the same twice
        if step is None:
            if {**self._whole, **values} != self._whole:  # else a run that was cut says them again
                self._append("metrics", step=step, values=dict(values))
                self._whole |= values
        elif step not in self._steps:
            self._append("metrics", step=step, values=dict(values))
            self._steps.add(step)

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags."""
        self._append("tags", values=dict(values))

    def artifact(self, path: Path) -> None:
        """Log a file, or all that a folder holds."""
        self._append("artifact", path=os.path.relpath(path, self.folder))

    def set_state(self, state: str, *, kept: int = 0) -> None:
        """Set the run's state, in Optuna's words (see ``RUN_STATUS``), and after how many epochs it goes on."""
        assert state in RUN_STATUS, state
        # RUNNING is said again by each process: the mirror may have marked a run that was cut as waiting.
        if state != self.state or state == "RUNNING":
            self._append("state", state=state, **({"kept": kept} if kept else {}))
            self._note_state(state, kept)

    def _note_state(self, state: str, kept: int) -> None:
        self.state = state
        if state == "RUNNING":
            self.kept = kept
            if kept > self._furthest:
                self._furthest, self.deaths = kept, 0

    def close(self) -> None:
        """Close the file."""
        if not self._is_told:
            self._on_append(self.folder)
        os.close(self._file)

    def _append(self, event: str, **fields: Any) -> None:
        told = {"event": event, "time_ms": time.time_ns() // 1_000_000, **fields}
        line = json.dumps(told if self._is_sure() else {**told, UNSURE: True}) + "\n"
        content = line.encode()
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
        self._is_told = not is_epoch or now_s - self._told_s > _SHORT_S
        if self._is_told:
            self._on_append(self.folder)
            self._told_s = now_s if is_epoch else self._told_s

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
