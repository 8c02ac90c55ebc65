"""A small tracker, to be copied: events of all runs as lines of JSON in one file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.core.content import end_of_last_line, exclusive
from harness.tracking.base import MIRROR_LOCK, Tracker
from harness.tracking.progress import SendProgress
from harness.tracking.spool import SPOOL, read_events, read_events_until


class JsonLinesTracker(Tracker):
    """Lines of JSON in the file of an address ``jsonl://FILE``."""

    name = "JSON lines"
    schemes = ("jsonl",)
    shares_files = False

    def open(self, experiment: str, artifact_root: Path, *, say: Callable[[str], None]) -> JsonLinesStore:
        """Open the file."""
        return JsonLinesStore(Path(self.address.removeprefix("jsonl://")), experiment)

    def ui_command(self, executable: Callable[[str], str]) -> None:
        """Return ``None``: a file needs no start."""

    def runs_page(self, experiment_id: str, *, study: str, metric: str) -> str:
        """Return the file's address."""
        return f"file://{self.address.removeprefix('jsonl://')}#{study}/{metric}"


class JsonLinesStore:
    """Runs as lines of a file. A line has its run, and which event ``n`` of the spool it is, so none is written twice.

    ``SendProgress`` alone would not do: a process can be killed after it wrote lines and before it saved the progress.
    """

    def __init__(self, file: Path, experiment: str) -> None:
        file.touch()
        self.file, self.experiment_id, self.identity = file, experiment, str(file)

    def send(self, folder: Path) -> None:
        """Append the events that the file lacks."""
        with exclusive(folder / MIRROR_LOCK):
            progress = SendProgress.load(folder, self.identity)
            events, end = read_events_until(folder / SPOOL, 0)
            if end == progress.offset:
                return
            written = {line["n"] for line in self._lines(folder)}
            # Two processes that begin a study at once may both have written what it is.
            missing = [
                {"n": n, **event}
                for n, event in enumerate(events)
                if n not in written and (n == 0 or event["event"] != "run")
            ]
            self._append(folder, missing)
            progress.offset, progress.state = end, self._state(folder)
            progress.save(folder)

    def publish(self, folder: Path, file: Path, *, anew: bool) -> None:
        """Raise an error: nobody calls it, for ``shares_files`` is false."""
        raise NotImplementedError

    def fetch(self, folder: Path, file: Path, run_key: str) -> bool:
        """Raise an error: nobody calls it, for ``shares_files`` is false."""
        raise NotImplementedError

    def mark_interrupted(self, folder: Path) -> None:
        """Append that a run is WAITING, unless the file says so; the caller holds the lock."""
        progress = SendProgress.load(folder, self.identity)
        if progress.state == "RUNNING":
            if self._state(folder) == "RUNNING":
                self._append(folder, [{"n": None, "event": "state", "state": "WAITING"}])
            progress.state = "WAITING"
            progress.save(folder)

    def _lines(self, folder: Path) -> list[dict[str, Any]]:
        """Return the lines of a folder's run."""
        with exclusive(self._lock, briefly=True):
            lines = self.file.read_bytes().splitlines(keepends=True)
        whole = [json.loads(line) for line in lines if line.endswith(b"\n")]
        return [line for line in whole if line["run"] == _run_key(folder)]

    def _state(self, folder: Path) -> str | None:
        """Return the state of a run that the file says last."""
        return next((line["state"] for line in reversed(self._lines(folder)) if line["event"] == "state"), None)

    def _append(self, folder: Path, events: list[dict[str, Any]]) -> None:
        """Append events of a run, after what another process left of a line when it was killed."""
        origin = {"run": _run_key(folder), "experiment": self.experiment_id}
        with exclusive(self._lock, briefly=True), open(self.file, "rb+", buffering=0) as file:
            os.ftruncate(file.fileno(), end_of_last_line(file.fileno()))
            file.seek(0, os.SEEK_END)
            file.write("".join(json.dumps({**origin, **event}) + "\n" for event in events).encode())

    @property
    def _lock(self) -> Path:
        return self.file.with_suffix(".lock")  # of the file, to which several runs are sent at a time


def _run_key(folder: Path) -> str:
    return str(read_events(folder / SPOOL)[0]["tags"]["kd.run_key"])
