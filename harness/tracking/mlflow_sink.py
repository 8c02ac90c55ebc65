"""What the spools hold, sent to MLflow. The only module that imports mlflow."""

from __future__ import annotations

import json
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Whoever sends asks again by itself: a client that tries seven times first would be silent for minutes.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    INTERNAL_ERROR,
    RESOURCE_ALREADY_EXISTS,
    RESOURCE_DOES_NOT_EXIST,
    ErrorCode,
)
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from harness.core.addresses import place_of
from harness.core.content import FolderLock, exclusive, inside, write_atomically
from harness.core.errors import one_line
from harness.core.names import logged_name
from harness.tracking.spool import FINISHED_STATES, RUN_STATUS, SPOOL, STATE_FILE, TAKEN, UNSURE, read_events_until

_METRICS_A_CALL, _OTHERS_A_CALL = 800, 100  # MLflow's log_batch takes 1,000 in all, 100 params and 100 tags of them
_NAME_LENGTH, _PARAM_LENGTH, _TAG_LENGTH = 250, 6000, 8000
_KIND = {"mlflow.experimentKind": "custom_model_development"}  # or its page opens on traces of language models
_LATE_S = 10.0  # after which another machine may have a trial: less than its worker must be silent for, to lose it
_SENDING_S = 1.0  # for another machine's call to end that had begun before
_KINDS: Mapping[type, str] = {Metric: "metric", Param: "parameter", RunTag: "tag"}
_FOLDER_TAG = "kd.folder"  # of a run that several machines have worked on: since when which one does


@dataclass
class _Mirrored:
    """How far a run has been sent, kept beside its spool."""

    store: str
    run_id: str | None = None
    artifact_uri: str = ""  # of the run; the client would ask the store for it once more
    offset: int = 0
    state: str | None = None
    may_exist: bool = False  # a run that is not known here: its making was begun, or it was sent to this store before
    there: dict[str, tuple[int, float]] = field(default_factory=dict)  # sent from elsewhere: last step and value
    name: str = ""  # this folder's, in a run that others have sent to
    published: list[str] = field(default_factory=list)  # names of the files that others can have from the run


@dataclass
class _Pending:
    """Events of a run that are gathered for one call."""

    metrics: list[Metric] = field(default_factory=list)
    params: list[Param] = field(default_factory=list)
    tags: list[RunTag] = field(default_factory=list)
    state: tuple[str, int] | None = None  # the last one, and its time: a short trial is over before it is seen to run


class MlflowSink:
    """Sends spools to one tracking store.

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
        self._on_refused = on_refused
        self._refused: set[tuple[str, type, str]] = set()  # by run: another may have a value that is taken
        self._said: set[str] = set()
        self.client = MlflowClient(address)
        local = "://" in address and not address.startswith("http")
        place = (artifact_root / experiment).resolve().as_uri() if local else None
        found = self.client.get_experiment_by_name(experiment)
        if found is None:
            try:
                self.client.create_experiment(experiment, artifact_location=place, tags=_KIND)
            except MlflowException as error:
                if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):  # another machine was quicker
                    raise
            found = self.client.get_experiment_by_name(experiment)
        assert found is not None, experiment
        if found.lifecycle_stage == "deleted":
            self.client.restore_experiment(found.experiment_id)
        self.experiment_id = found.experiment_id
        made = self.client.get_experiment(self.experiment_id).creation_time
        self.store = f"{place_of(address)}, experiment {self.experiment_id} of {made}"

    def send(self, folder: Path) -> None:
        """Send what is new in a run's spool. A cut leaves it as it was: sending again is harmless.

        Args:
            folder: The run's folder.
        """
        with exclusive(folder / "mirror.lock"):
            self._send_or_drop(folder, self._mirrored(folder))

    def _send_or_drop(self, folder: Path, mirrored: _Mirrored) -> None:
        try:
            self._send_rest(folder, mirrored)
        except MlflowException as error:
            no_answer = error.error_code == ErrorCode.Name(INTERNAL_ERROR)  # who asks again waits as long again
            if no_answer or mirrored.run_id is None or not self._is_deleted(mirrored.run_id):
                raise
            # Whoever deleted the run wants it gone; what else there is must not wait for it.
            mirrored.offset = (folder / SPOOL).stat().st_size
            _keep(folder, mirrored)

    def _skip(self, what: str, name: str, why: str) -> None:
        """Say, once, what is not sent, for asking again would be in vain."""
        line = f"MLflow lacks {what} {name!r}, which it refuses: {why}; it stays on disk"
        if line not in self._said:  # as of a name that is refused in every run
            self._said.add(line)
            self._on_refused(line)

    def _send_rest(self, folder: Path, mirrored: _Mirrored) -> None:
        events, end = read_events_until(folder / SPOOL, mirrored.offset)
        if not events:
            return
        taken_ms = max((event[TAKEN] for event in events if TAKEN in event), default=None)
        late = time.time() - events[0]["time_ms"] / 1000 > _LATE_S  # its worker may have been lost since
        may_be_another_s = late or taken_ms is not None or any(UNSURE in event for event in events)
        found = run = None  # found is one that others may have told something
        if mirrored.run_id is None:
            found = self._existing_run(events[0], mirrored, may_be_another_s)
            run = found or self._new_run(folder, events[0], mirrored)
            mirrored.run_id, mirrored.artifact_uri = str(run.info.run_id), str(run.info.artifact_uri)
        elif may_be_another_s:
            run = self.client.get_run(mirrored.run_id)
            found = None if taken_ms is None else run
        if may_be_another_s and run is not None and not _is_of(run, mirrored) and _since_ms(run) > (taken_ms or 0):
            # Another machine has taken over since, and tells the same. What is held back goes out if it is lost in
            # turn, and this one goes on.
            _keep(folder, mirrored)
            return
        if taken_ms is not None and found is not None:
            self._take_over(found, folder, mirrored, taken_ms)
        if found is not None:
            mirrored.there = self._what_is_in(found)
        # Two processes that begin a study at once may both have said what it is.
        events = [event for n, event in enumerate(events) if event["event"] != "run" or mirrored.offset + n == 0]
        pending = _Pending()
        for event in events:
            self._gather(event, folder, mirrored, pending)
        if pending.state is not None:
            pending.tags.append(RunTag("kd.state", pending.state[0]))
        self._flush(mirrored.run_id, pending)
        if pending.state is not None:
            self._set_status(mirrored, *pending.state)
        mirrored.offset = end
        _keep(folder, mirrored)

    def _take_over(self, run: Run, folder: Path, mirrored: _Mirrored, since_ms: int) -> None:
        """Let other machines hold back what they have to tell of a run; before what they have told is read."""
        self.client.set_tag(run.info.run_id, _FOLDER_TAG, _folder_tag(mirrored, since_ms))
        _keep(folder, mirrored)
        if not _is_of(run, mirrored) or _FOLDER_TAG not in run.data.tags:
            time.sleep(_SENDING_S)

    def _is_deleted(self, run_id: str) -> bool:
        return self._run(run_id) is None

    def _run(self, run_id: str) -> Run | None:
        """Return a run, unless it was deleted."""
        try:
            run = self.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
                return None  # it was swept out for good
            raise
        return None if run.info.lifecycle_stage == "deleted" else run

    def publish(self, folder: Path, file: Path, *, anew: bool) -> None:
        """Make a file an artifact of a run, unless it is one.

        Args:
            folder: The run's folder, its spool begun.
            file: The file.
            anew: Whether to send it though it was sent before.
        """
        with exclusive(folder / "mirror.lock"):
            mirrored = self._mirrored(folder)
            if file.name in mirrored.published and not anew:
                return
            self._send_or_drop(folder, mirrored)
            assert mirrored.run_id is not None, folder
            try:
                self._artifacts(mirrored.artifact_uri).log_artifact(str(file))
            except Exception:
                if not self._is_deleted(mirrored.run_id):  # else whoever deleted the run wants its files gone
                    raise
            self._note_published(folder, mirrored, file)

    def fetch(self, folder: Path, file: Path, run_key: str) -> bool:
        """Bring an artifact of a run to where it is kept here.

        Args:
            folder: The run's folder here.
            file: Its place, and by its last part its name.
            run_key: The run's ``kd.run_key``.

        Returns:
            Whether the run has it.
        """
        runs = self._runs_of(run_key)
        if not runs:
            return False
        artifacts = self._artifacts(str(runs[0].info.artifact_uri))
        if file.name not in {artifact.path for artifact in artifacts.list_artifacts()}:
            return False
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent, prefix=".fetched-") as beside:
            os.replace(artifacts.download_artifacts(file.name, beside), file)
        with exclusive(folder / "mirror.lock"):
            self._note_published(folder, self._mirrored(folder), file)
        return True

    def _note_published(self, folder: Path, mirrored: _Mirrored, file: Path) -> None:
        if file.name not in mirrored.published:
            mirrored.published.append(file.name)
            _keep(folder, mirrored)

    def _artifacts(self, uri: str) -> ArtifactRepository:
        return get_artifact_repository(uri, tracking_uri=self.client.tracking_uri)

    def cut(self, folder: Path) -> None:
        """Mark a run as waiting whose process ended in the middle of it, unless another machine goes on with it."""
        with exclusive(folder / "mirror.lock"):
            mirrored = self._mirrored(folder)
            lease = FolderLock(folder)
            if mirrored.run_id is None or mirrored.state != "RUNNING" or not lease.acquire():
                return
            run = self._run(mirrored.run_id)
            if run is not None and _is_of(run, mirrored):
                self.client.set_tag(mirrored.run_id, "kd.state", "WAITING")
                self._set_status(mirrored, "WAITING", time.time_ns() // 1_000_000)
                _keep(folder, mirrored)
            lease.release()

    def run_id(self, folder: Path) -> str:
        """Return the run of a folder; made, if its spool has begun but not been sent."""
        if self._mirrored(folder).run_id is None:
            self.send(folder)
        run_id = self._mirrored(folder).run_id
        assert run_id is not None, folder
        return run_id

    def _mirrored(self, folder: Path) -> _Mirrored:
        try:
            kept = _Mirrored(**json.loads((folder / STATE_FILE).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return _Mirrored(self.store)
        except (ValueError, TypeError):
            return _Mirrored(self.store, may_exist=True)
        # Another store, or the same one made anew, or a run whose place is not known: it gets the whole run anew.
        known = kept.store == self.store and bool(kept.artifact_uri) == (kept.run_id is not None)
        return kept if known else _Mirrored(self.store, may_exist=True)

    def _existing_run(self, event: dict[str, Any], mirrored: _Mirrored, elsewhere: bool) -> Run | None:
        assert event["event"] == "run", event
        # A process that died between creating the run and keeping its id must not leave a second one. A trial has one
        # folder, which knows, unless it is taken up on another machine; studies and teachers may have several.
        if not (mirrored.may_exist or elsewhere or event["parent"] is None):
            return None
        return next(iter(self._runs_of(event["tags"]["kd.run_key"])), None)

    def _runs_of(self, run_key: str) -> list[Run]:
        key = f"tags.`kd.run_key` = '{run_key}'"
        return self.client.search_runs(
            [self.experiment_id],
            key,
            run_view_type=ViewType.ACTIVE_ONLY,
            max_results=1,
            order_by=["attributes.start_time ASC"],
        )

    def _what_is_in(self, run: Run) -> dict[str, tuple[int, float]]:
        """Return the last step of each metric of a run, and its value there."""
        found = {}
        for name in run.data.metrics:
            points = self.client.get_metric_history(run.info.run_id, name)
            last = max(points, key=lambda point: (point.step, point.timestamp))
            found[name] = (last.step, last.value)
        return found

    def _new_run(self, folder: Path, event: dict[str, Any], mirrored: _Mirrored) -> Run:
        mirrored.may_exist = True
        _keep(folder, mirrored)
        tags = {key: _text(value, _TAG_LENGTH) for key, value in event["tags"].items()}
        if TAKEN in event:
            tags[_FOLDER_TAG] = _folder_tag(mirrored, event[TAKEN])
        if event["parent"] is not None:
            if set(Path(event["parent"]).parts) != {".."}:  # a study's trials lie within its folder
                raise ValueError(
                    f"a run's parent must be a folder above {folder}, but its spool says {event['parent']!r}"
                )
            tags["mlflow.parentRunId"] = self.run_id(Path(os.path.normpath(folder / event["parent"])))
        return self.client.create_run(
            self.experiment_id, start_time=event["time_ms"], tags=tags, run_name=event["name"][:_NAME_LENGTH]
        )

    def _gather(self, event: dict[str, Any], folder: Path, mirrored: _Mirrored, pending: _Pending) -> None:
        assert mirrored.run_id is not None
        match event["event"]:
            case "run":
                pending.params += [
                    Param(logged_name(key), _text(value, _PARAM_LENGTH)) for key, value in event["params"].items()
                ]
            case "metrics":
                pending.metrics += [
                    Metric(key, value, event["time_ms"], event["step"] or 0)
                    for key, value in ((logged_name(name), value) for name, value in event["values"].items())
                    if not _is_there(mirrored.there.get(key), event["step"], value)
                ]
            case "tags":
                pending.tags += [RunTag(key, _text(value, _TAG_LENGTH)) for key, value in event["values"].items()]
            case "artifact":
                path = inside(folder.resolve(), str((folder / event["path"]).resolve()))  # where links lead, too
                self._log_artifact(path, mirrored)
            case "state":
                pending.state = (event["state"], event["time_ms"])

    def _log_artifact(self, path: Path, mirrored: _Mirrored) -> None:
        artifacts = self._artifacts(mirrored.artifact_uri)
        try:
            (artifacts.log_artifacts if path.is_dir() else artifacts.log_artifact)(str(path))
        except FileNotFoundError as error:
            if path.exists():
                raise
            self._skip("artifact", path.name, one_line(error))  # somebody has removed it since
        except MlflowException as error:
            if not _is_for_good(error):
                raise
            self._skip("artifact", path.name, one_line(error))

    def _set_status(self, mirrored: _Mirrored, state: str, time_ms: int) -> None:
        assert mirrored.run_id is not None
        if state in FINISHED_STATES:
            self.client.set_terminated(mirrored.run_id, RUN_STATUS[state], time_ms)
        else:
            self.client.update_run(mirrored.run_id, RUN_STATUS[state])
        mirrored.state = state

    def _flush(self, run_id: str, pending: _Pending) -> None:
        while pending.metrics or pending.params or pending.tags:
            metrics, params = pending.metrics[:_METRICS_A_CALL], pending.params[:_OTHERS_A_CALL]
            del pending.metrics[:_METRICS_A_CALL], pending.params[:_OTHERS_A_CALL]
            # Tags go last, and the state is the last of them: whoever sees a state sees all that led to it.
            others_left = pending.metrics or pending.params
            tags = [] if others_left else pending.tags[:_OTHERS_A_CALL]
            self._log(run_id, [*metrics, *params, *tags])
            del pending.tags[: len(tags)]

    def _log(self, run_id: str, batch: Sequence[Metric | Param | RunTag]) -> None:
        """Log a batch; one that is refused for good in halves, down to what it is refused for, which is left out."""
        batch = [one for one in batch if (run_id, type(one), one.key) not in self._refused]
        try:
            self.client.log_batch(
                run_id,
                metrics=[one for one in batch if isinstance(one, Metric)],
                params=[one for one in batch if isinstance(one, Param)],
                tags=[one for one in batch if isinstance(one, RunTag)],
            )
        except MlflowException as error:
            if not _is_for_good(error) or not batch or self._is_deleted(run_id):
                raise
            if len(batch) == 1:
                self._refused.add((run_id, type(batch[0]), batch[0].key))
                self._skip(_KINDS[type(batch[0])], batch[0].key, one_line(error))
                return
            middle = len(batch) // 2
            self._log(run_id, batch[:middle])
            self._log(run_id, batch[middle:])


def _is_for_good(error: MlflowException) -> bool:
    """Whether a store refuses what was said, and will again: a bad request, where one that is away gives no answer."""
    return error.get_http_status_code() in (400, 413)


def _text(value: str, longest: int) -> str:
    """Return a text as any store takes it: shortened, and without what is no character, as of a folder in Latin-1."""
    return value[:longest].encode("utf-8", "replace").decode("utf-8")


def _folder_tag(mirrored: _Mirrored, since_ms: int) -> str:
    """Return what a run says of the folder that goes on with it, which gets a name if it has none."""
    mirrored.name = mirrored.name or uuid.uuid4().hex
    return f"{since_ms} {mirrored.name}"


def _is_of(run: Run, mirrored: _Mirrored) -> bool:
    """Return whether no other machine's folder goes on with a run."""
    tag = run.data.tags.get(_FOLDER_TAG)
    return tag is None or tag.rpartition(" ")[2] == mirrored.name


def _since_ms(run: Run) -> int:
    """Since when the folder that goes on with a run does."""
    return int(run.data.tags[_FOLDER_TAG].rpartition(" ")[0] or 0)


def _is_there(last: tuple[int, float] | None, step: int | None, value: float) -> bool:
    """Whether a run has a point already, sent from another folder; one of the whole run may have another value now."""
    if last is None:
        return False
    return value == last[1] if step is None else step <= last[0]


def _keep(folder: Path, mirrored: _Mirrored) -> None:
    write_atomically(folder / STATE_FILE, lambda path: path.write_text(json.dumps(vars(mirrored)), encoding="utf-8"))
