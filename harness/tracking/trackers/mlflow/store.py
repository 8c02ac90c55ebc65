"""Spools, sent to an MLflow store: events to runs, files to artifacts."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# The mirror retries by itself: a client that tries seven times first would be silent for minutes.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")

from mlflow import MlflowClient
from mlflow.entities import Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, RESOURCE_ALREADY_EXISTS, ErrorCode
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from harness.core.addresses import place_of
from harness.core.content import exclusive, inside
from harness.core.errors import one_line
from harness.tracking.base import MIRROR_LOCK
from harness.tracking.spool import FINISHED_STATES, SPOOL, TAKEN, UNSURE, read_events_until
from harness.tracking.trackers.mlflow.batches import BatchLogger, EventBatch, is_refused_for_good, mlflow_tags
from harness.tracking.trackers.mlflow.runs import (
    OWNER_TAG,
    RunIndex,
    RunProgress,
    is_owner,
    owned_since_ms,
    owner_tag,
)

RUN_STATUS = {
    "RUNNING": "RUNNING",
    "WAITING": "SCHEDULED",
    "COMPLETE": "FINISHED",
    "PRUNED": "KILLED",
    "FAIL": "FAILED",
}
"""MLflow's run status for each of Optuna's trial states; WAITING is a run that was interrupted and can go on."""

_NAME_LENGTH = 250
_KIND = {"mlflow.experimentKind": "custom_model_development"}  # or its page opens on traces of language models
_LATE_S = 10.0  # after which another machine may have a trial: less than its worker must be silent for, to lose it


class MlflowStore:
    """An experiment in an MLflow store (``harness.tracking.base.RunStore``).

    Args:
        address: MLflow's tracking address.
        experiment: Name of the experiment that all runs belong to.
        artifact_root: Folder of the artifacts, for a store that is a local database; a server has its own.
        on_refused: Called with a line of text about what the store refuses for good; the rest is sent.
    """

    def __init__(
        self,
        address: str,
        experiment: str,
        artifact_root: Path,
        *,
        on_refused: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.client = MlflowClient(address)
        local = "://" in address and not address.startswith("http")
        place = (artifact_root / experiment).resolve().as_uri() if local else None
        self.experiment_id = _open_experiment(self.client, experiment, place)
        created = self.client.get_experiment(self.experiment_id).creation_time
        self.identity = f"{place_of(address)}, experiment {self.experiment_id} of {created}"
        self.runs = RunIndex(self.client, self.experiment_id)
        self._logger = BatchLogger(self.client, is_deleted=self.runs.is_deleted, on_refused=on_refused)

    def send(self, folder: Path) -> None:
        """Send what is new in a run's spool. After an interruption, send it again: nothing is added twice.

        Args:
            folder: The run's folder.
        """
        with exclusive(folder / MIRROR_LOCK):
            self._send_or_drop(folder, self._progress(folder))

    def publish(self, folder: Path, file: Path, *, anew: bool) -> None:
        """Make a file an artifact of a run, unless it is one.

        Args:
            folder: The run's folder, its spool begun.
            file: The file.
            anew: Whether to send it though it was sent before.
        """
        with exclusive(folder / MIRROR_LOCK):
            progress = self._progress(folder)
            if file.name in progress.published and not anew:
                return
            self._send_or_drop(folder, progress)
            assert progress.run_id is not None, folder
            try:
                self._artifacts(progress.artifact_uri).log_artifact(str(file))
            except Exception:
                if not self.runs.is_deleted(progress.run_id):  # else its files are not wanted any more
                    raise
            _note_published(folder, progress, file)

    def fetch(self, folder: Path, file: Path, run_key: str) -> bool:
        """Download an artifact of a run.

        Args:
            folder: The run's folder here.
            file: Where to put it; the artifact has its name.
            run_key: The run's ``kd.run_key``.

        Returns:
            Whether the run has it.
        """
        run = self.runs.find(run_key)
        if run is None:
            return False
        artifacts = self._artifacts(str(run.info.artifact_uri))
        if file.name not in {artifact.path for artifact in artifacts.list_artifacts()}:
            return False
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent, prefix=".fetched-") as beside:
            os.replace(artifacts.download_artifacts(file.name, beside), file)
        with exclusive(folder / MIRROR_LOCK):
            _note_published(folder, self._progress(folder), file)
        return True

    def mark_interrupted(self, folder: Path) -> None:
        """Mark a run as waiting whose process ended in the middle of it, unless another machine goes on with it."""
        progress = self._progress(folder)
        if progress.run_id is None or progress.state != "RUNNING":
            return
        run = self.runs.get(progress.run_id)
        if run is not None and is_owner(run, progress):
            self.client.set_tag(progress.run_id, "kd.state", "WAITING")
            self._set_status(progress, "WAITING", time.time_ns() // 1_000_000)
            progress.save(folder)

    def run_id(self, folder: Path) -> str:
        """Return the id of a folder's run; send its spool first if nothing of it was sent."""
        if self._progress(folder).run_id is None:
            self.send(folder)
        run_id = self._progress(folder).run_id
        assert run_id is not None, folder
        return run_id

    def _progress(self, folder: Path) -> RunProgress:
        return RunProgress.load(folder, self.identity)

    def _send_or_drop(self, folder: Path, progress: RunProgress) -> None:
        """Send what is new, unless the run was deleted: then skip it, for the other runs must not wait for it."""
        try:
            self._send_new(folder, progress)
        except MlflowException as error:
            no_answer = error.error_code == ErrorCode.Name(INTERNAL_ERROR)  # another request would wait as long again
            if no_answer or progress.run_id is None or not self.runs.is_deleted(progress.run_id):
                raise
            progress.offset = (folder / SPOOL).stat().st_size
            progress.save(folder)

    def _send_new(self, folder: Path, progress: RunProgress) -> None:
        events, end = read_events_until(folder / SPOOL, progress.offset)
        if not events or not self._prepare_run(events, folder, progress):
            return
        # Two processes that begin a study at once may both have written what it is.
        events = [event for n, event in enumerate(events) if event["event"] != "run" or progress.offset + n == 0]
        batch = EventBatch()
        for event in events:
            if event["event"] == "artifact":
                path = inside(folder.resolve(), str((folder / event["path"]).resolve()))  # where links lead, too
                self._log_artifact(path, progress)
            else:
                batch.add(event, progress.there)
        state = batch.state
        if state is not None:
            batch.tags.append(RunTag("kd.state", state[0]))
        assert progress.run_id is not None
        self._logger.log(progress.run_id, batch)
        if state is not None:
            self._set_status(progress, *state)
        progress.offset = end
        progress.save(folder)

    def _prepare_run(self, events: list[dict[str, Any]], folder: Path, progress: RunProgress) -> bool:
        """Find or create the run that events belong to, and become its owner where they say so.

        Returns:
            Whether to send the events. Another machine that has taken over since sends the same ones; what is kept
            back goes out if that one is lost in turn, and this one goes on.
        """
        taken_ms = max((event[TAKEN] for event in events if TAKEN in event), default=None)
        late = time.time() - events[0]["time_ms"] / 1000 > _LATE_S  # its worker may have been lost since
        may_be_another_s = late or taken_ms is not None or any(UNSURE in event for event in events)
        found = run = None  # found: a run that other machines may have sent events to
        if progress.run_id is None:
            found = self._existing_run(events[0], progress, may_be_another_s)
            run = found or self._create_run(folder, events[0], progress)
            progress.run_id, progress.artifact_uri = str(run.info.run_id), str(run.info.artifact_uri)
        elif may_be_another_s:
            run = self.client.get_run(progress.run_id)
            found = None if taken_ms is None else run
        check = run if may_be_another_s else None
        if check is not None and not is_owner(check, progress) and owned_since_ms(check) > (taken_ms or 0):
            progress.save(folder)
            return False
        if found is not None:
            if taken_ms is not None:
                self.runs.take_over(found, folder, progress, taken_ms)
            progress.there = self.runs.last_points(found)
        return True

    def _existing_run(self, event: dict[str, Any], progress: RunProgress, elsewhere: bool) -> Run | None:
        """Return the run that a spool's first event speaks of, if the store may have it already."""
        assert event["event"] == "run", event
        # A process that died between creating the run and keeping its id must not leave a second one. A trial has one
        # folder, which knows, unless it is taken up on another machine; studies and teachers may have several.
        if not (progress.may_exist or elsewhere or event["parent"] is None):
            return None
        return self.runs.find(event["tags"]["kd.run_key"])

    def _create_run(self, folder: Path, event: dict[str, Any], progress: RunProgress) -> Run:
        progress.may_exist = True
        progress.save(folder)
        tags = mlflow_tags(event["tags"])
        if TAKEN in event:
            tags[OWNER_TAG] = owner_tag(progress, event[TAKEN])
        if event["parent"] is not None:
            if set(Path(event["parent"]).parts) != {".."}:  # a study's trials lie within its folder
                raise ValueError(
                    f"a run's parent must be a folder above {folder}, but its spool says {event['parent']!r}"
                )
            tags["mlflow.parentRunId"] = self.run_id(Path(os.path.normpath(folder / event["parent"])))
        return self.client.create_run(
            self.experiment_id, start_time=event["time_ms"], tags=tags, run_name=event["name"][:_NAME_LENGTH]
        )

    def _log_artifact(self, path: Path, progress: RunProgress) -> None:
        artifacts = self._artifacts(progress.artifact_uri)
        try:
            (artifacts.log_artifacts if path.is_dir() else artifacts.log_artifact)(str(path))
        except FileNotFoundError as error:
            if path.exists():
                raise
            self._logger.report_refused("artifact", path.name, one_line(error))  # somebody has removed it since
        except MlflowException as error:
            if not is_refused_for_good(error):
                raise
            self._logger.report_refused("artifact", path.name, one_line(error))

    def _artifacts(self, uri: str) -> ArtifactRepository:
        return get_artifact_repository(uri, tracking_uri=self.client.tracking_uri)

    def _set_status(self, progress: RunProgress, state: str, time_ms: int) -> None:
        assert progress.run_id is not None
        if state in FINISHED_STATES:
            self.client.set_terminated(progress.run_id, RUN_STATUS[state], time_ms)
        else:
            self.client.update_run(progress.run_id, RUN_STATUS[state])
        progress.state = state


def _open_experiment(client: MlflowClient, name: str, artifact_location: str | None) -> str:
    """Return the id of an experiment; create it, or restore it if it was deleted."""
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            client.create_experiment(name, artifact_location=artifact_location, tags=_KIND)
        except MlflowException as error:
            if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):  # another machine was quicker
                raise
        found = client.get_experiment_by_name(name)
    assert found is not None, name
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def _note_published(folder: Path, progress: RunProgress, file: Path) -> None:
    if file.name not in progress.published:
        progress.published.append(file.name)
        progress.save(folder)
