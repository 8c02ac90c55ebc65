"""The runs of an experiment: which run a folder's spool belongs to, and which machine's folder may write to it.

A trial that is lost on one machine is taken over on another. Both have a folder with a spool of the same run, and the
one that lost it may still be alive, cut off from the study. A tag of the run names the folder that owns it, and since
when: a folder that finds a later owner keeps its events back.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode

from harness.tracking.progress import SendProgress

OWNER_TAG = "kd.folder"
"""Tag of a run that several machines have worked on: since when a folder owns it, in ms, and that folder's name."""

_CALL_ENDS_S = 1.0  # within which a call ends that another machine had begun before it lost the run


@dataclass
class RunProgress(SendProgress):
    """How far a run has been sent to MLflow.

    Attributes:
        run_id: MLflow's id of the run; ``None`` before it is known.
        artifact_uri: Where its artifacts are; the client would ask the store for it at each of them.
        there: Last step and value of each metric that was sent from other folders.
        name: This folder's name in ``OWNER_TAG``.
        published: Names of the files that other machines can fetch from the run.
    """

    run_id: str | None = None
    artifact_uri: str = ""
    there: dict[str, tuple[int, float]] = field(default_factory=dict)
    name: str = ""
    published: list[str] = field(default_factory=list)

    def is_consistent(self) -> bool:
        """Return whether the run and the place of its artifacts are both known, or neither."""
        return bool(self.artifact_uri) == (self.run_id is not None)


class RunIndex:
    """The runs of one experiment.

    Args:
        client: The client of the store.
        experiment_id: The experiment.
    """

    def __init__(self, client: MlflowClient, experiment_id: str) -> None:
        self._client = client
        self._experiment_id = experiment_id

    def find(self, run_key: str) -> Run | None:
        """Return the first run with a ``kd.run_key``."""
        found = self._client.search_runs(
            [self._experiment_id],
            f"tags.`kd.run_key` = '{run_key}'",
            run_view_type=ViewType.ACTIVE_ONLY,
            max_results=1,
            order_by=["attributes.start_time ASC"],
        )
        return next(iter(found), None)

    def get(self, run_id: str) -> Run | None:
        """Return a run; ``None`` if it was deleted, for good or not."""
        try:
            run = self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
                return None
            raise
        return None if run.info.lifecycle_stage == "deleted" else run

    def is_deleted(self, run_id: str) -> bool:
        """Return whether a run was deleted."""
        return self.get(run_id) is None

    def last_points(self, run: Run) -> dict[str, tuple[int, float]]:
        """Return the last step of each metric of a run, and its value there."""
        found = {}
        for name in run.data.metrics:
            points = self._client.get_metric_history(run.info.run_id, name)
            last = max(points, key=lambda point: (point.step, point.timestamp))
            found[name] = (last.step, last.value)
        return found

    def take_over(self, run: Run, folder: Path, progress: RunProgress, since_ms: int) -> None:
        """Make a folder the owner of a run, and wait until what another machine was sending has arrived.

        It comes before ``last_points`` is read: from then on, other machines keep their events back.
        """
        self._client.set_tag(run.info.run_id, OWNER_TAG, owner_tag(progress, since_ms))
        progress.save(folder)
        if not is_owner(run, progress) or OWNER_TAG not in run.data.tags:
            time.sleep(_CALL_ENDS_S)


def owner_tag(progress: RunProgress, since_ms: int) -> str:
    """Return the value of ``OWNER_TAG`` for a folder, which gets a name if it has none."""
    progress.name = progress.name or uuid.uuid4().hex
    return f"{since_ms} {progress.name}"


def is_owner(run: Run, progress: RunProgress) -> bool:
    """Return whether no other machine's folder owns a run."""
    tag = run.data.tags.get(OWNER_TAG)
    return tag is None or tag.rpartition(" ")[2] == progress.name


def owned_since_ms(run: Run) -> int:
    """Return since when the folder that owns a run does."""
    return int(run.data.tags[OWNER_TAG].rpartition(" ")[0] or 0)
