"""A run's events as batches of ``log_batch``: within MLflow's limits, and without what it refuses for good."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from harness.core.errors import one_line
from harness.core.names import logged_name
from harness.tracking.spool import COMMIT_TAG, NOTE_TAG, SOURCE_TAG, USER_TAG

_METRICS_A_CALL, _OTHERS_A_CALL = 800, 100  # MLflow's log_batch takes 1,000 in all, 100 params and 100 tags of them
_PARAM_LENGTH, _TAG_LENGTH = 6000, 8000
_KINDS: Mapping[type, str] = {Metric: "metric", Param: "parameter", RunTag: "tag"}
_TAG_NAMES = {
    USER_TAG: "mlflow.user",
    SOURCE_TAG: "mlflow.source.name",
    COMMIT_TAG: "mlflow.source.git.commit",
    NOTE_TAG: "mlflow.note.content",
}
"""MLflow's names of the tags that it shows in places of their own."""


@dataclass
class EventBatch:
    """Events of a run that are gathered for one call.

    Attributes:
        state: The last state, and its time in ms: a short trial is over before it is seen to run.
    """

    metrics: list[Metric] = field(default_factory=list)
    params: list[Param] = field(default_factory=list)
    tags: list[RunTag] = field(default_factory=list)
    state: tuple[str, int] | None = None

    def add(self, event: Mapping[str, Any], logged: Mapping[str, tuple[int, float]]) -> None:
        """Add an event.

        Args:
            event: A line of a spool; an artifact is none of a batch.
            logged: Last step and value of each metric that the run has from other folders, by its logged name.
        """
        match event["event"]:
            case "run":
                params = event["params"].items()
                self.params += [Param(logged_name(key), storable_text(value, _PARAM_LENGTH)) for key, value in params]
            case "metrics":
                self.metrics += [
                    Metric(key, value, event["time_ms"], event["step"] or 0)
                    for key, value in ((logged_name(name), value) for name, value in event["values"].items())
                    if not _is_logged(logged.get(key), event["step"], value)
                ]
            case "tags":
                self.tags += [RunTag(key, value) for key, value in mlflow_tags(event["values"]).items()]
            case "state":
                self.state = (event["state"], event["time_ms"])


class BatchLogger:
    """Logs batches to a store, and leaves out what the store refuses for good.

    Args:
        client: The client of the store.
        is_deleted: Whether a run was deleted, by its id.
        on_refused: Called with a line of text about each name that is refused, once.
    """

    def __init__(
        self, client: MlflowClient, *, is_deleted: Callable[[str], bool], on_refused: Callable[[str], None]
    ) -> None:
        self._client = client
        self._is_deleted = is_deleted
        self._on_refused = on_refused
        self._refused: set[tuple[str, type, str]] = set()  # by run: another one may have a value that is accepted
        self._told: set[str] = set()

    def log(self, run_id: str, batch: EventBatch) -> None:
        """Log a batch in as many calls as MLflow's limits ask for, and empty it.

        Tags go last, and the state is the last of them: a reader that sees a state sees all that led to it.
        """
        while batch.metrics or batch.params or batch.tags:
            metrics, params = batch.metrics[:_METRICS_A_CALL], batch.params[:_OTHERS_A_CALL]
            del batch.metrics[:_METRICS_A_CALL], batch.params[:_OTHERS_A_CALL]
            others_left = batch.metrics or batch.params
            tags = [] if others_left else batch.tags[:_OTHERS_A_CALL]
            self._log_call(run_id, [*metrics, *params, *tags])
            del batch.tags[: len(tags)]

    def report_refused(self, what: str, name: str, why: str) -> None:
        """Report something that is not sent, for a second attempt would be refused too."""
        line = f"MLflow lacks {what} {name!r}, which it refuses: {why}; it stays on disk"
        if line not in self._told:  # as of a name that is refused in every run
            self._told.add(line)
            self._on_refused(line)

    def _log_call(self, run_id: str, entries: Sequence[Metric | Param | RunTag]) -> None:
        """Log what fits into one call. Where it is refused for good, bisect it, and leave out what is refused alone."""
        entries = [one for one in entries if (run_id, type(one), one.key) not in self._refused]
        try:
            self._client.log_batch(
                run_id,
                metrics=[one for one in entries if isinstance(one, Metric)],
                params=[one for one in entries if isinstance(one, Param)],
                tags=[one for one in entries if isinstance(one, RunTag)],
            )
        except MlflowException as error:
            if not is_refused_for_good(error) or not entries or self._is_deleted(run_id):
                raise
            if len(entries) == 1:
                self._refused.add((run_id, type(entries[0]), entries[0].key))
                self.report_refused(_KINDS[type(entries[0])], entries[0].key, one_line(error))
                return
            middle = len(entries) // 2
            self._log_call(run_id, entries[:middle])
            self._log_call(run_id, entries[middle:])


def is_refused_for_good(error: MlflowException) -> bool:
    """Return whether a store refuses a request and always will: a store that is away gives no answer instead."""
    return error.get_http_status_code() in (400, 413)


def mlflow_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Return tags under MLflow's names, as any store takes them."""
    source = {"mlflow.source.type": "LOCAL"} if SOURCE_TAG in tags else {}
    return {_TAG_NAMES.get(key, key): storable_text(value, _TAG_LENGTH) for key, value in tags.items()} | source


def storable_text(value: str, longest: int) -> str:
    """Return a text as any store takes it: shortened, and without lone surrogates, as of a folder in Latin-1."""
    return value[:longest].encode("utf-8", "replace").decode("utf-8")


def _is_logged(last: tuple[int, float] | None, step: int | None, value: float) -> bool:
    """Return whether a run has a point from another folder; a metric of the whole run may have a new value."""
    if last is None:
        return False
    return value == last[1] if step is None else step <= last[0]
