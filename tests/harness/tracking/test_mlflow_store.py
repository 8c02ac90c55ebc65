"""Spools become runs of a real MLflow store on SQLite: each once, whole, whatever was cut or deleted meanwhile."""

from __future__ import annotations

import json
import math
import shutil
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run, RunStatus, ViewType
from mlflow.exceptions import MlflowException
from store_contract import StoreContract

from harness.core.content import FolderLock, LeaseLock
from harness.core.errors import HarnessError
from harness.tracking.base import RunStore, find_tracker
from harness.tracking.mirror import Mirror
from harness.tracking.mirror_process import _mark_if_interrupted
from harness.tracking.progress import STATE_FILE, is_sent
from harness.tracking.spool import SPOOL, STATES, Spool
from harness.tracking.trackers.mlflow.store import RUN_STATUS, MlflowStore

BEGUN_MS = (int(time.time()) + 3600) * 1000
"""Ahead of us, however long other tests take: what is told is not sent late, unless a test says so."""


@pytest.fixture
def address(tmp_path: Path, empty_store: Path) -> str:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture
def store(tmp_path: Path, address: str) -> MlflowStore:
    return MlflowStore(address, "kd-test", tmp_path / "mlruns")


def event(kind: str, after_s: int, /, **fields: Any) -> dict[str, Any]:
    return {"event": kind, "time_ms": BEGUN_MS + 1000 * after_s, **fields}


def begin(key: str, *, params: dict[str, str] | None = None, parent: str | None = None) -> dict[str, Any]:
    return event("run", 0, name=f"run {key}", tags={"kd.run_key": key}, params=params or {}, parent=parent)


def metrics(step: int | None, after_s: int, **values: float) -> dict[str, Any]:
    return event("metrics", after_s, step=step, values=values)


def state(name: str, after_s: int = 0) -> dict[str, Any]:
    return event("state", after_s, state=name)


def append(folder: Path, *events: dict[str, Any]) -> Path:
    """Write events to a folder's spool, as ``Spool`` does, at times of the test's choice."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / SPOOL, "a") as file:
        file.writelines(json.dumps(event) + "\n" for event in events)
    return folder


def runs(store: MlflowStore, view: int = ViewType.ACTIVE_ONLY) -> list[Run]:
    return list(store.client.search_runs([store.experiment_id], run_view_type=view))


def history(store: MlflowStore, run: Run, name: str) -> list[tuple[int, int, float]]:
    """Step, seconds since the run began, and value of each point of a metric."""
    points = store.client.get_metric_history(run.info.run_id, name)
    return sorted((point.step, (point.timestamp - BEGUN_MS) // 1000, point.value) for point in points)


def own_tags(run: Run) -> dict[str, str]:
    """The tags that a spool set, and none that MLflow adds by itself."""
    return {name: value for name, value in run.data.tags.items() if name.startswith("kd.")}


def everything(store: MlflowStore) -> list[Any]:
    """All that the store says of its runs."""
    return [
        (
            run.info.run_id,
            run.info.status,
            run.info.start_time,
            run.info.end_time,
            run.data.params,
            run.data.tags,
            {name: history(store, run, name) for name in run.data.metrics},
        )
        for run in runs(store, ViewType.ALL)
    ]


WHOLE = (
    begin("s/3", params={"width": "8", "alpha": "0.1"}),
    state("RUNNING"),
    metrics(0, 1, loss=2.0, accuracy=0.25),
    metrics(1, 2, loss=1.0, accuracy=0.5),
    event("tags", 3, values={"kd.note": "é", "kd.recipe": "keras"}),
    event("artifact", 3, path="student.txt"),
    metrics(None, 4, parameters=1234.0),
    state("COMPLETE", 5),
)


class TestMlflow(StoreContract):
    """MLflow's store keeps the contract of every store."""

    @pytest.fixture(autouse=True)
    def _empty(self, empty_store: Path) -> None:
        self.empty = empty_store

    def open_store(self, place: Path) -> MlflowStore:
        if not (place / "mlflow.db").exists():
            shutil.copy(self.empty, place / "mlflow.db")
        return MlflowStore(f"sqlite:///{place}/mlflow.db", "kd-test", place / "mlruns")

    def points(self, store: RunStore, name: str) -> list[tuple[str, int, float]]:
        assert isinstance(store, MlflowStore)
        return [(name, step, value) for run in runs(store) for step, _, value in history(store, run, name)]

    def states(self, store: RunStore) -> list[str]:
        assert isinstance(store, MlflowStore)
        return [state for run in runs(store) for state, status in RUN_STATUS.items() if status == run.info.status]


def test_a_spool_becomes_a_run_with_all_that_it_says(store: MlflowStore, tmp_path: Path) -> None:
    folder = append(tmp_path / "3", *WHOLE)
    (folder / "student.txt").write_text("weights")
    store.send(folder)
    (run,) = runs(store)
    assert (run.info.run_name, run.info.status) == ("run s/3", "FINISHED")
    assert (run.info.start_time, run.info.end_time) == (BEGUN_MS, BEGUN_MS + 5000)
    assert run.data.params == {"width": "8", "alpha": "0.1"}
    assert own_tags(run) == {"kd.run_key": "s/3", "kd.note": "é", "kd.recipe": "keras", "kd.state": "COMPLETE"}
    assert history(store, run, "loss") == [(0, 1, 2.0), (1, 2, 1.0)]
    assert history(store, run, "accuracy") == [(0, 1, 0.25), (1, 2, 0.5)]
    assert history(store, run, "parameters") == [(0, 4, 1234.0)]
    assert run.data.metrics == {"loss": 1.0, "accuracy": 0.5, "parameters": 1234.0}
    (artifact,) = store.client.list_artifacts(run.info.run_id)
    kept = tmp_path / "mlruns" / "kd-test" / run.info.run_id / "artifacts" / "student.txt"
    assert artifact.path == "student.txt" and kept.read_text() == "weights"
    assert is_sent(folder, store.identity, "COMPLETE") and not is_sent(folder, "another store", "COMPLETE")


def test_what_spool_writes_is_what_is_sent(store: MlflowStore, tmp_path: Path) -> None:
    report = tmp_path / "7" / "report"
    report.mkdir(parents=True)
    (report / "a.txt").touch()
    spool = Spool(tmp_path / "7")
    spool.begin("trial-0007", tags={"kd.run_key": "k"}, params={"width": 4, "bias": True})
    spool.set_state("RUNNING")
    spool.metrics({"train/loss": 0.5, "val/loss": math.nan}, step=0)
    spool.artifact(report)
    spool.tags({"kd.reason": "loss is nan"})
    spool.set_state("FAIL")
    spool.close()
    store.send(spool.folder)
    (run,) = runs(store)
    assert (run.info.run_name, run.info.status) == ("trial-0007", "FAILED")
    assert run.data.params == {"width": "4", "bias": "True"} and run.data.tags["kd.reason"] == "loss is nan"
    assert run.data.metrics["train/loss"] == 0.5 and math.isnan(run.data.metrics["val/loss"])
    assert [file.path for file in store.client.list_artifacts(run.info.run_id)] == ["a.txt"]


def test_every_state_has_a_status_that_mlflow_knows() -> None:
    assert set(RUN_STATUS) == STATES
    assert set(RUN_STATUS.values()) == {RunStatus.to_string(status) for status in RunStatus.all_status()}


@pytest.mark.parametrize(
    ("said", "status"),
    [("COMPLETE", "FINISHED"), ("FAIL", "FAILED"), ("PRUNED", "KILLED"), ("WAITING", "SCHEDULED")],
)
def test_a_run_has_the_status_of_its_state(store: MlflowStore, tmp_path: Path, said: str, status: str) -> None:
    store.send(append(tmp_path / "0", begin("k"), state("RUNNING"), state(said, 9)))
    (run,) = runs(store)
    assert (run.info.status, run.data.tags["kd.state"]) == (status, said)
    assert run.info.end_time == (None if said == "WAITING" else BEGUN_MS + 9000)


def test_sending_twice_adds_nothing(store: MlflowStore, tmp_path: Path) -> None:
    folder = append(tmp_path / "3", *WHOLE)
    (folder / "student.txt").touch()
    store.send(folder)
    before = everything(store)
    store.send(folder)
    MlflowStore(f"sqlite:///{tmp_path}/mlflow.db", "kd-test", tmp_path / "mlruns").send(folder)
    assert everything(store) == before


def test_a_spool_that_grows_is_sent_event_by_event(store: MlflowStore, tmp_path: Path) -> None:
    folder = tmp_path / "3"
    folder.mkdir()
    (folder / "student.txt").touch()
    for said in WHOLE:
        append(folder, said)
        store.send(folder)
    (run,) = runs(store)
    assert run.data.params == {"width": "8", "alpha": "0.1"} and run.info.status == "FINISHED"
    assert history(store, run, "loss") == [(0, 1, 2.0), (1, 2, 1.0)]


def test_a_line_that_is_still_being_written_waits(store: MlflowStore, tmp_path: Path) -> None:
    folder = append(tmp_path / "0", begin("k"), metrics(0, 1, loss=2.0))
    line = json.dumps(metrics(1, 2, loss=1.0)) + "\n"
    with open(folder / SPOOL, "a") as file:
        file.write(line[:20])
    store.send(folder)
    (run,) = runs(store)
    assert history(store, run, "loss") == [(0, 1, 2.0)]
    with open(folder / SPOOL, "a") as file:
        file.write(line[20:])
    store.send(folder)
    assert history(store, run, "loss") == [(0, 1, 2.0), (1, 2, 1.0)]


@pytest.mark.parametrize("sent", range(1, len(WHOLE) + 1))
def test_a_cut_between_sending_and_keeping_how_far_sends_nothing_twice(
    store: MlflowStore, tmp_path: Path, sent: int
) -> None:
    folder = append(tmp_path / "3", *WHOLE[:sent])
    (folder / "student.txt").touch()
    store.send(folder)
    (folder / STATE_FILE).unlink()  # the id of the run was never kept
    append(folder, *WHOLE[sent:])
    store.send(folder)
    (run,) = runs(store)
    assert run.info.status == "FINISHED" and run.data.params == {"width": "8", "alpha": "0.1"}
    assert history(store, run, "loss") == [(0, 1, 2.0), (1, 2, 1.0)]
    assert history(store, run, "parameters") == [(0, 4, 1234.0)]


def test_a_run_that_was_made_and_no_more_is_found_again(store: MlflowStore, tmp_path: Path) -> None:
    made = store.client.create_run(store.experiment_id, tags={"kd.run_key": "k"})
    store.client.create_run(store.experiment_id, tags={"kd.run_key": "k2"})
    store.send(append(tmp_path / "0", begin("k"), metrics(0, 1, loss=2.0)))
    assert len(runs(store)) == 2
    assert history(store, made, "loss") == [(0, 1, 2.0)]


def test_a_trial_whose_run_was_made_and_its_id_not_kept_has_one_run(
    store: MlflowStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = append(tmp_path / "study", begin("s"))
    folder = append(study / "0", begin("k", parent=".."), metrics(0, 1, loss=2.0))
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(store.client, "log_batch", interrupted)  # the process ends between the run and its id
        store.send(folder)
    store.send(folder)
    other = MlflowStore(f"sqlite:///{tmp_path}/other.db", "kd-other", tmp_path / "other")
    other.send(folder)
    store.send(folder)  # back in the first store, which has it
    assert sorted(run.data.tags["kd.run_key"] for run in runs(store)) == ["k", "s"]


def interrupted(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_a_state_file_that_is_damaged_makes_no_second_run(store: MlflowStore, tmp_path: Path) -> None:
    folder = append(tmp_path / "0", begin("k"), metrics(0, 1, loss=2.0))
    store.send(folder)
    for content in ("", "{", "[]", '{"storage": 1}'):
        (folder / STATE_FILE).write_text(content)
        store.send(folder)
        assert len(runs(store)) == 1
    assert is_sent(folder, store.identity, "RUNNING") is False
    assert history(store, runs(store)[0], "loss") == [(0, 1, 2.0)]


def test_a_run_that_was_deleted_stays_so_and_the_others_go_on(store: MlflowStore, tmp_path: Path) -> None:
    gone, other = (append(tmp_path / name, begin(name), state("RUNNING")) for name in ("gone", "other"))
    for folder in (gone, other):
        store.send(folder)
    deleted = store.run_id(gone)
    store.client.delete_run(deleted)
    for epoch in range(2):
        for folder in (gone, other):
            append(folder, metrics(epoch, epoch, loss=1.0))
            store.send(folder)
    append(gone, state("COMPLETE", 9))
    store.send(gone)
    (left,) = runs(store)
    assert left.data.tags["kd.run_key"] == "other" and len(history(store, left, "loss")) == 2
    (removed,) = runs(store, ViewType.DELETED_ONLY)
    assert removed.info.run_id == deleted and removed.data.metrics == {}
    # A child of it is logged all the same.
    store.send(append(gone / "0", begin("gone/0", parent=".."), metrics(0, 1, loss=3.0)))
    assert len(runs(store)) == 2


def test_an_error_that_is_no_deletion_is_not_swallowed(store: MlflowStore, address: str, tmp_path: Path) -> None:
    folder = append(tmp_path / "0", begin("k"))
    store.send(folder)
    kept = (folder / STATE_FILE).read_text()
    append(folder, metrics(0, 1, loss=1.0))
    with sqlite3.connect(address.removeprefix("sqlite:///")) as database:
        database.execute("alter table metrics rename to elsewhere")
    with pytest.raises(MlflowException):
        store.send(folder)
    assert (folder / STATE_FILE).read_text() == kept  # it is tried again
    with sqlite3.connect(address.removeprefix("sqlite:///")) as database:
        database.execute("alter table elsewhere rename to metrics")
    store.send(folder)
    assert history(store, runs(store)[0], "loss") == [(0, 1, 1.0)]


def test_what_is_refused_for_good_is_said_once_and_the_rest_is_sent(address: str, tmp_path: Path) -> None:
    said: list[str] = []
    store = MlflowStore(address, "kd-test", tmp_path / "mlruns", on_refused=said.append)
    long = "x" * 300
    folder = append(
        tmp_path / "0",
        begin("k", params={"width": "8", long: "1"}),
        state("RUNNING"),
        metrics(0, 1, **{"loss": 2.0, long: 1.0}),
        metrics(1, 2, **{"loss": 1.0, long: 2.0}),
        event("tags", 3, values={"kd.note": "kept", "kd@": "refused"}),
        event("artifact", 3, path="removed.txt"),
        state("COMPLETE", 5),
    )
    store.send(folder)
    (run,) = runs(store)
    assert run.info.status == "FINISHED" and run.data.params == {"width": "8"}
    assert history(store, run, "loss") == [(0, 1, 2.0), (1, 2, 1.0)] and run.data.metrics.keys() == {"loss"}
    assert own_tags(run)["kd.note"] == "kept" and "kd@" not in own_tags(run)
    assert len(said) == 4 and all("which it refuses" in line for line in said)
    assert [line.partition(" '")[0] for line in said] == [
        f"MLflow lacks {what}" for what in ("artifact", "metric", "parameter", "tag")
    ]
    store.send(append(tmp_path / "1", begin("l"), state("RUNNING"), metrics(0, 1, **{long: 1.0}), state("COMPLETE", 5)))
    assert len(said) == 4  # the name again, in another run


def test_a_parameter_that_was_logged_with_another_value_holds_up_nothing(address: str, tmp_path: Path) -> None:
    said: list[str] = []
    store = MlflowStore(address, "kd-test", tmp_path / "mlruns", on_refused=said.append)
    folder = append(tmp_path / "0", begin("k"))
    store.send(folder)
    store.client.log_param(runs(store)[0].info.run_id, "width", "9")
    (folder / STATE_FILE).unlink()
    (folder / SPOOL).unlink()
    store.send(append(folder, begin("k", params={"width": "8", "depth": "1"}), state("COMPLETE", 5)))
    (run,) = runs(store)
    assert run.info.status == "FINISHED" and run.data.params == {"width": "9", "depth": "1"}
    assert len(said) == 1 and said[0].startswith("MLflow lacks parameter 'width'")
    store.send(append(tmp_path / "1", begin("other", params={"width": "8"})))
    assert sorted(run.data.params["width"] for run in runs(store)) == ["8", "9"] and len(said) == 1


def test_names_that_mlflow_refuses_are_logged_as_it_takes_them(store: MlflowStore, tmp_path: Path) -> None:
    sent = (begin("k", params={"ke@rnel": "caf\udce9"}), metrics(0, 1, **{"val/recall@1": 0.5}), state("COMPLETE", 5))
    store.send(append(tmp_path / "0", *sent))
    (run,) = runs(store)
    assert run.data.params == {"ke_rnel": "caf?"} and run.data.metrics == {"val/recall_1": 0.5}


def mirrored(tmp_path: Path, address: str, *folders: Path) -> None:
    """Send folders from the mirror's own process, as a search does."""
    said: list[str] = []
    with Mirror(address) as mirror:
        mirror.connect("kd-test", tmp_path / "mlruns", say=said.append)
        for folder in folders:
            mirror.notify(folder)
    assert said == []


def test_a_store_made_anew_gets_the_whole_run_again(
    store: MlflowStore, tmp_path: Path, address: str, empty_store: Path
) -> None:
    parent = append(tmp_path / "s", begin("s"), state("RUNNING"), state("COMPLETE", 9))
    child = append(parent / "3", *({**said, "parent": ".."} if said["event"] == "run" else said for said in WHOLE))
    (child / "student.txt").touch()
    for folder in (parent, child):
        store.send(folder)
    kept = json.loads((child / STATE_FILE).read_text())
    (tmp_path / "mlflow.db").unlink()
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    mirrored(tmp_path, address, child)  # nobody speaks of the parent
    # Under its old name this process would see the file that was removed.
    again = MlflowStore(f"sqlite:///{(tmp_path / 'mlflow.db').rename(tmp_path / 'new.db')}", "kd-test", tmp_path)
    by_key = {run.data.tags["kd.run_key"]: run for run in runs(again)}
    assert set(by_key) == {"s", "s/3"}
    run = by_key["s/3"]
    assert run.info.run_id != kept["run_id"] and run.info.status == "FINISHED"
    assert run.data.tags["mlflow.parentRunId"] == by_key["s"].info.run_id
    assert run.data.params == {"width": "8", "alpha": "0.1"}
    assert history(again, run, "loss") == [(0, 1, 2.0), (1, 2, 1.0)]
    assert [file.path for file in again.client.list_artifacts(run.info.run_id)] == ["student.txt"]


def test_a_run_goes_to_each_store_it_is_sent_to(store: MlflowStore, tmp_path: Path, empty_store: Path) -> None:
    folder = append(tmp_path / "0", begin("k", params={"a": "1"}), metrics(0, 1, loss=2.0))
    store.send(folder)
    shutil.copy(empty_store, tmp_path / "second.db")
    second = MlflowStore(f"sqlite:///{tmp_path}/second.db", "kd-test", tmp_path / "mlruns")
    append(folder, metrics(1, 2, loss=1.0))
    second.send(folder)
    (run,) = runs(second)
    assert run.data.params == {"a": "1"} and history(second, run, "loss") == [(0, 1, 2.0), (1, 2, 1.0)]
    store.send(folder)  # back again: the same run, and what it missed
    (run,) = runs(store)
    assert history(store, run, "loss") == [(0, 1, 2.0), (1, 2, 1.0)]


def test_a_run_that_was_cut_waits_and_runs_again_when_its_spool_says_so(store: MlflowStore, tmp_path: Path) -> None:
    folder = append(tmp_path / "0", begin("k"), state("RUNNING"), metrics(0, 1, loss=2.0))
    store.send(folder)
    assert runs(store)[0].info.status == "RUNNING"
    store.mark_interrupted(folder)
    (run,) = runs(store)
    assert (run.info.status, run.data.tags["kd.state"], run.info.end_time) == ("SCHEDULED", "WAITING", None)
    assert is_sent(folder, store.identity, "WAITING")
    store.mark_interrupted(folder)  # once more is harmless
    append(folder, state("RUNNING", 60), metrics(1, 61, loss=1.0))
    store.send(folder)
    (run,) = runs(store)
    assert (run.info.status, run.data.tags["kd.state"]) == ("RUNNING", "RUNNING")
    assert history(store, run, "loss") == [(0, 1, 2.0), (1, 61, 1.0)]
    append(folder, state("COMPLETE", 62))
    store.send(folder)
    assert runs(store)[0].info.status == "FINISHED"


@pytest.mark.parametrize("said", ["COMPLETE", "FAIL", "PRUNED"])
def test_a_run_that_is_over_was_not_cut(store: MlflowStore, tmp_path: Path, said: str) -> None:
    folder = append(tmp_path / "0", begin("k"), state("RUNNING"), state(said, 9))
    store.send(folder)
    before = everything(store)
    store.mark_interrupted(folder)
    assert everything(store) == before


def test_a_folder_of_which_nothing_was_sent_was_not_cut(store: MlflowStore, tmp_path: Path) -> None:
    folder = append(tmp_path / "0", begin("k"), state("RUNNING"))
    store.mark_interrupted(folder)
    assert runs(store) == []


def test_more_than_mlflow_takes_in_one_call_goes_through(store: MlflowStore, tmp_path: Path) -> None:
    params = {f"p{n}": str(n) for n in range(230)}
    tags = {f"kd.t{n}": str(n) for n in range(120)}
    epochs = [metrics(step, step, **{f"m{n}": step + n / 8 for n in range(7)}) for step in range(330)]
    many = metrics(None, 400, **{f"f{n}": n / 4 for n in range(1200)})
    folder = append(
        tmp_path / "0",
        begin("k", params=params),
        *epochs,
        event("tags", 1, values=tags),
        many,
        state("COMPLETE", 500),
    )
    store.send(folder)
    (run,) = runs(store)
    assert run.data.params == params and tags.items() <= run.data.tags.items()
    assert {name: value for name, value in run.data.metrics.items() if name[0] == "f"} == many["values"]
    for n in (0, 6):
        assert history(store, run, f"m{n}") == [(step, step, step + n / 8) for step in range(330)]
    assert run.info.status == "FINISHED"


def test_values_longer_than_mlflow_takes_are_shortened(store: MlflowStore, tmp_path: Path) -> None:
    said = event("tags", 1, values={"kd.long": "t" * 9000})
    store.send(append(tmp_path / "0", begin("k", params={"p": "p" * 7000}), said))
    (run,) = runs(store)
    assert run.data.params["p"] == "p" * 6000 and run.data.tags["kd.long"] == "t" * 8000


@pytest.mark.parametrize("first", ["parent", "child"])
def test_trials_are_children_of_their_studys_one_run(store: MlflowStore, tmp_path: Path, first: str) -> None:
    parent = append(tmp_path / "s", begin("s"), metrics(None, 1, front_size=3.0))
    children = [append(parent / name, begin(f"s/{name}", parent="..")) for name in "01"]
    for folder in [parent, *children] if first == "parent" else [*children, parent]:
        store.send(folder)
    by_key = {run.data.tags["kd.run_key"]: run for run in runs(store)}
    assert set(by_key) == {"s", "s/0", "s/1"} and len(runs(store)) == 3
    for key in ("s/0", "s/1"):
        assert by_key[key].data.tags["mlflow.parentRunId"] == by_key["s"].info.run_id
    assert "mlflow.parentRunId" not in by_key["s"].data.tags and by_key["s"].data.metrics == {"front_size": 3.0}


@pytest.mark.parametrize("between", [False, True])
def test_two_processes_that_both_said_what_a_study_is_make_one_run(
    store: MlflowStore, tmp_path: Path, between: bool
) -> None:
    folder = append(tmp_path / "s", begin("s", params={"sampler": "tpe"}))
    if between:
        store.send(folder)
    append(folder, begin("s", params={"sampler": "gp"}), metrics(0, 1, loss=2.0))
    store.send(folder)
    (run,) = runs(store)
    assert run.data.params == {"sampler": "tpe"} and history(store, run, "loss") == [(0, 1, 2.0)]


def test_an_experiment_that_was_deleted_comes_back_with_its_runs(
    store: MlflowStore, tmp_path: Path, address: str
) -> None:
    folder = append(tmp_path / "0", begin("k"), metrics(0, 1, loss=2.0))
    store.send(folder)
    store.client.delete_experiment(store.experiment_id)
    again = MlflowStore(address, "kd-test", tmp_path / "mlruns")
    append(folder, metrics(1, 2, loss=1.0))
    again.send(folder)
    assert (again.experiment_id, again.identity) == (store.experiment_id, store.identity)
    (run,) = runs(again)
    assert history(again, run, "loss") == [(0, 1, 2.0), (1, 2, 1.0)]


def test_machines_that_begin_an_experiment_at_once_have_one(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    find, machines = MlflowClient.get_experiment_by_name, [tmp_path / "one", tmp_path / "two"]
    made: list[MlflowStore] = []

    def late(client: MlflowClient, name: str) -> Any:
        found = find(client, name)
        if found is None and len(machines) == 1:  # the other one makes it between this one's look and its making
            made.append(MlflowStore(address, name, machines.pop()))
        return found

    monkeypatch.setattr(MlflowClient, "get_experiment_by_name", late)
    made.append(MlflowStore(address, "kd-test", machines.pop()))
    assert len(made) == 2 and made[0].identity == made[1].identity


def test_the_mirror_marks_what_it_sent_and_nobody_works_on_as_waiting(tmp_path: Path, address: str) -> None:
    names = ("held", "study", "free", "over")
    held, study, free, over = (append(tmp_path / name, begin(name), state("RUNNING")) for name in names)
    append(over, state("COMPLETE", 1))
    locks = (LeaseLock(held), FolderLock(study, shared=True))
    assert all(lock.acquire() for lock in locks)
    mirrored(tmp_path, address, held, study, free, over)
    for lock in locks:
        lock.release()
    store = MlflowStore(address, "kd-test", tmp_path / "mlruns")
    found = {run.data.tags["kd.run_key"]: run.info.status for run in runs(store)}
    assert found == {"held": "RUNNING", "study": "RUNNING", "free": "SCHEDULED", "over": "FINISHED"}


def test_a_trial_can_be_resumed_while_the_mirror_of_its_dead_worker_waits_for_the_tracker(tmp_path: Path) -> None:
    resumed = []

    class Slow:
        def mark_interrupted(self, folder: Path) -> None:
            resumed.append(LeaseLock(folder).acquire())

    _mark_if_interrupted(append(tmp_path / "0", begin("k"), state("RUNNING")), Slow())  # type: ignore[arg-type]
    assert resumed == [True]


def test_a_run_that_was_deleted_is_not_marked_as_cut(store: MlflowStore, tmp_path: Path) -> None:
    folder = append(tmp_path / "0", begin("k"), state("RUNNING"))
    store.send(folder)
    store.client.delete_run(store.run_id(folder))
    store.mark_interrupted(folder)
    assert store.client.get_run(store.run_id(folder)).info.status == "RUNNING"


def test_a_run_that_was_swept_out_for_good_holds_up_nothing(store: MlflowStore, tmp_path: Path) -> None:
    folder = append(tmp_path / "0", begin("k"), state("RUNNING"))
    store.send(folder)
    run_id = store.run_id(folder)
    store.client.delete_run(run_id)
    store.client._tracking_client.store._hard_delete_run(run_id)  # what `mlflow gc` does
    append(folder, state("COMPLETE"))
    store.send(folder)
    store.mark_interrupted(folder)


def test_a_run_that_was_sent_before_its_place_was_kept_gets_its_artifacts_too(
    store: MlflowStore, tmp_path: Path
) -> None:
    folder = append(tmp_path / "3", begin("k"), metrics(0, 1, loss=2.0))
    store.send(folder)
    kept = json.loads((folder / STATE_FILE).read_text())
    del kept["artifact_uri"]
    (folder / STATE_FILE).write_text(json.dumps(kept))
    (folder / "a.txt").touch()
    append(folder, event("artifact", 2, path="a.txt"))
    store.send(folder)
    (run,) = runs(store)
    assert run.info.run_id == kept["run_id"] and history(store, run, "loss") == [(0, 1, 2.0)]
    assert [file.path for file in store.client.list_artifacts(run.info.run_id)] == ["a.txt"]


def taken_up(key: str) -> dict[str, Any]:
    """As ``begin``, of a run that another machine may have begun."""
    return begin(key, parent="..") | {"taken_ms": BEGUN_MS + 60_000}


def taken_again(after_s: int, *, said_after_s: int | None = None) -> dict[str, Any]:
    """A machine takes over a run that it has worked on; it may come to say so much later."""
    return event("elsewhere", after_s if said_after_s is None else said_after_s, taken_ms=BEGUN_MS + 1000 * after_s)


@pytest.fixture
def study(store: MlflowStore, tmp_path: Path) -> MlflowStore:
    """A store, and the folders of a study on two machines."""
    for machine in ("one", "two"):
        store.send(append(tmp_path / machine, begin("s")))
    return store


def test_a_trial_that_begins_again_on_another_machine_repeats_nothing_in_its_run(
    study: MlflowStore, tmp_path: Path
) -> None:
    study.send(
        append(
            tmp_path / "one" / "3",
            begin("s/3", parent=".."),
            state("RUNNING"),
            metrics(None, 1, parameters=10.0),
            metrics(0, 1, loss=2.0, accuracy=0.25),
            metrics(1, 2, loss=1.0),  # a cut in the middle of what was sent
        )
    )
    study.send(append(tmp_path / "two" / "3", taken_up("s/3"), state("RUNNING", 60)))
    study.send(
        append(
            tmp_path / "two" / "3",
            metrics(None, 61, parameters=10.0),
            metrics(0, 61, loss=2.0, accuracy=0.25),
            metrics(1, 62, loss=1.0, accuracy=0.5),
            metrics(2, 63, loss=0.5, accuracy=0.75),
            state("COMPLETE", 64),
        )
    )
    (run,) = [run for run in runs(study) if run.data.tags["kd.run_key"] == "s/3"]
    assert run.info.status == "FINISHED"
    assert history(study, run, "parameters") == [(0, 1, 10.0)]
    assert history(study, run, "loss") == [(0, 1, 2.0), (1, 2, 1.0), (2, 63, 0.5)]
    assert history(study, run, "accuracy") == [(0, 1, 0.25), (1, 62, 0.5), (2, 63, 0.75)]


def test_a_trial_that_comes_back_to_a_machine_repeats_nothing_that_others_sent_meanwhile(
    study: MlflowStore, tmp_path: Path
) -> None:
    first, second = tmp_path / "one" / "3", tmp_path / "two" / "3"
    study.send(append(first, begin("s/3", parent=".."), state("RUNNING"), metrics(0, 1, loss=2.0)))
    study.send(append(second, taken_up("s/3"), metrics(0, 61, loss=2.0), metrics(1, 62, loss=1.0)))
    study.send(append(first, taken_again(100), state("RUNNING", 100), metrics(1, 101, loss=1.0)))
    study.send(append(first, metrics(2, 102, loss=0.5)))
    (run,) = [run for run in runs(study) if run.data.tags["kd.run_key"] == "s/3"]
    assert history(study, run, "loss") == [(0, 1, 2.0), (1, 62, 1.0), (2, 102, 0.5)]


def unsure(told: dict[str, Any]) -> dict[str, Any]:
    """What a worker says that the study's storage has not heard for a while."""
    return told | {"unsure": True}


def loss_of_the_trial(store: MlflowStore) -> list[tuple[int, int, float]]:
    (run,) = [run for run in runs(store) if run.data.tags["kd.run_key"] == "s/3"]
    return history(store, run, "loss")


def test_a_machine_that_was_cut_off_repeats_nothing_that_its_heir_tells(study: MlflowStore, tmp_path: Path) -> None:
    first, second = tmp_path / "one" / "3", tmp_path / "two" / "3"
    study.send(append(first, begin("s/3", parent=".."), state("RUNNING"), metrics(0, 1, loss=4.0)))
    study.send(append(first, unsure(metrics(1, 30, loss=3.0))))  # nobody else has it yet
    assert loss_of_the_trial(study) == [(0, 1, 4.0), (1, 30, 3.0)]
    study.send(append(second, taken_up("s/3"), metrics(0, 61, loss=4.0)))
    study.send(append(first, unsure(metrics(2, 62, loss=2.0)), unsure(metrics(3, 63, loss=1.0))))
    study.send(append(second, metrics(1, 64, loss=3.0), metrics(2, 65, loss=2.0)))
    assert loss_of_the_trial(study) == [(0, 1, 4.0), (1, 30, 3.0), (2, 65, 2.0)]
    # The heir is lost too, and the first one goes on from what it has trained.
    study.send(append(first, taken_again(200), state("RUNNING", 200), metrics(4, 201, loss=0.5)))
    assert loss_of_the_trial(study) == [(0, 1, 4.0), (1, 30, 3.0), (2, 65, 2.0), (3, 63, 1.0), (4, 201, 0.5)]


def test_a_machine_that_took_over_and_was_cut_off_before_it_could_say_so_repeats_nothing(
    study: MlflowStore, tmp_path: Path
) -> None:
    first, second = tmp_path / "one" / "3", tmp_path / "two" / "3"
    study.send(append(first, begin("s/3", parent=".."), state("RUNNING"), metrics(0, 1, loss=4.0)))
    study.send(append(second, taken_up("s/3"), metrics(0, 61, loss=4.0)))
    # It takes over again while MLflow is away, trains one epoch, and is cut off from the study.
    append(first, taken_again(100), state("RUNNING", 100), metrics(1, 101, loss=3.0))
    study.send(append(second, taken_again(200), metrics(1, 201, loss=3.0)))
    study.send(append(first, unsure(metrics(2, 202, loss=2.0))))
    study.send(append(second, metrics(2, 203, loss=2.0), metrics(3, 204, loss=1.0)))
    assert loss_of_the_trial(study) == [(0, 1, 4.0), (1, 201, 3.0), (2, 203, 2.0), (3, 204, 1.0)]
    # It has the trial for good, and says what it had to say, less what is there.
    study.send(append(first, taken_again(300), state("RUNNING", 300), metrics(3, 301, loss=1.0)))
    study.send(append(first, metrics(4, 302, loss=0.5)))
    assert loss_of_the_trial(study)[3:] == [(3, 204, 1.0), (4, 302, 0.5)]


def test_a_machine_that_tells_in_good_order_that_it_stops_takes_nothing_back_from_its_heir(
    study: MlflowStore, tmp_path: Path
) -> None:
    first, second = tmp_path / "one" / "3", tmp_path / "two" / "3"
    study.send(append(first, begin("s/3", parent=".."), state("RUNNING"), metrics(0, 1, loss=4.0)))
    study.send(append(second, taken_up("s/3"), metrics(0, 61, loss=4.0), state("WAITING", 62)))
    append(first, taken_again(100), state("RUNNING", 100), metrics(1, 101, loss=3.0), state("WAITING", 102))
    study.send(append(second, taken_again(103), state("RUNNING", 103)))
    study.send(first)  # though in time, it comes after its heir
    study.send(append(second, unsure(metrics(1, 104, loss=3.0)), state("COMPLETE", 105)))
    assert loss_of_the_trial(study) == [(0, 1, 4.0), (1, 104, 3.0)]
    (run,) = [run for run in runs(study) if run.data.tags["kd.run_key"] == "s/3"]
    assert (run.info.status, run.data.tags["kd.state"]) == ("FINISHED", "COMPLETE")


def test_a_machine_that_says_late_that_it_took_over_took_over_when_it_did(study: MlflowStore, tmp_path: Path) -> None:
    first, second = tmp_path / "one" / "3", tmp_path / "two" / "3"
    study.send(append(first, begin("s/3", parent=".."), state("RUNNING"), metrics(0, 1, loss=4.0)))
    study.send(append(second, taken_up("s/3"), metrics(0, 61, loss=4.0)))
    study.send(append(first, unsure(taken_again(50, said_after_s=100)), unsure(metrics(1, 101, loss=3.0))))
    study.send(append(second, unsure(metrics(1, 102, loss=3.0)), state("COMPLETE", 103)))
    assert loss_of_the_trial(study) == [(0, 1, 4.0), (1, 102, 3.0)]


def test_a_machine_whose_run_its_heir_has_made_holds_back_what_it_has_to_tell(
    study: MlflowStore, tmp_path: Path
) -> None:
    first, second = tmp_path / "one" / "3", tmp_path / "two" / "3"
    append(first, begin("s/3", parent=".."), state("RUNNING"), metrics(0, 1, loss=4.0), metrics(1, 30, loss=3.0))
    study.send(append(second, taken_up("s/3"), metrics(0, 61, loss=4.0)))
    study.send(append(first, unsure(metrics(2, 62, loss=2.0))))
    study.send(append(second, metrics(1, 63, loss=3.0), metrics(2, 64, loss=2.0)))
    assert loss_of_the_trial(study) == [(0, 61, 4.0), (1, 63, 3.0), (2, 64, 2.0)]


def test_a_machine_that_tells_only_when_its_heir_has_begun_makes_no_second_run(
    study: MlflowStore, tmp_path: Path
) -> None:
    first, second = tmp_path / "one" / "3", tmp_path / "two" / "3"
    append(
        first, begin("s/3", parent=".."), state("RUNNING"), metrics(0, 1, loss=4.0), unsure(metrics(1, 30, loss=3.0))
    )
    study.send(append(second, taken_up("s/3"), metrics(0, 61, loss=4.0), metrics(1, 62, loss=3.0)))
    study.send(first)
    assert loss_of_the_trial(study) == [(0, 61, 4.0), (1, 62, 3.0)]


def test_a_machine_that_tells_while_its_heir_reads_what_is_there_holds_it_back(
    study: MlflowStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "one" / "3", tmp_path / "two" / "3"
    study.send(append(first, begin("s/3", parent=".."), state("RUNNING"), metrics(0, 1, loss=4.0)))
    read = study.runs.last_points

    def reading(run: Run) -> dict[str, tuple[int, float]]:
        found = read(run)
        study.send(append(first, unsure(metrics(1, 62, loss=3.0))))
        return found

    monkeypatch.setattr(study.runs, "last_points", reading)
    study.send(append(second, taken_up("s/3"), metrics(0, 61, loss=4.0), metrics(1, 63, loss=3.0)))
    assert loss_of_the_trial(study) == [(0, 1, 4.0), (1, 63, 3.0)]


def test_what_is_sent_late_is_not_sent_if_an_heir_has_begun_meanwhile(study: MlflowStore, tmp_path: Path) -> None:
    first, second = tmp_path / "one" / "3", tmp_path / "two" / "3"
    study.send(append(first, begin("s/3", parent=".."), state("RUNNING"), metrics(0, 1, loss=4.0)))
    study.send(append(first, metrics(1, -3700, loss=3.0)))  # MLflow was away, and nobody else has the trial
    study.send(append(second, taken_up("s/3"), metrics(0, 61, loss=4.0)))
    study.send(append(first, metrics(2, -3690, loss=2.0)))
    study.send(append(second, metrics(1, 64, loss=3.0), metrics(2, 65, loss=2.0)))
    assert loss_of_the_trial(study) == [(0, 1, 4.0), (1, -3700, 3.0), (2, 65, 2.0)]


def test_a_machine_that_lost_a_trial_does_not_mark_it_as_cut(study: MlflowStore, tmp_path: Path) -> None:
    first, second = tmp_path / "one" / "3", tmp_path / "two" / "3"
    study.send(append(first, begin("s/3", parent=".."), state("RUNNING")))
    study.send(append(second, taken_up("s/3"), state("RUNNING", 60)))
    study.mark_interrupted(first)
    (run,) = [run for run in runs(study) if run.data.tags["kd.run_key"] == "s/3"]
    assert run.info.status == "RUNNING"
    study.mark_interrupted(second)
    (run,) = [run for run in runs(study) if run.data.tags["kd.run_key"] == "s/3"]
    assert (run.info.status, run.data.tags["kd.state"]) == ("SCHEDULED", "WAITING")


def test_an_ordinary_trial_is_not_looked_for(
    study: MlflowStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("search_runs", "get_run", "get_metric_history"):
        monkeypatch.setattr(study.client, name, lambda *given, name=name, **named: pytest.fail(name))
    study.send(append(tmp_path / "one" / "3", begin("s/3", parent=".."), state("RUNNING"), metrics(0, 1, loss=2.0)))
    study.send(append(tmp_path / "one" / "3", state("COMPLETE", 2)))


def test_a_file_is_published_once_and_fetched_by_its_runs_key(study: MlflowStore, tmp_path: Path) -> None:
    file, there = tmp_path / "one" / "file", tmp_path / "elsewhere" / "file"
    assert not study.fetch(tmp_path / "two", there, "s") and not study.fetch(tmp_path / "two", there, "no run")
    for content, anew, expected in (("a", False, "a"), ("b", False, "a"), ("c", True, "c")):
        file.write_text(content)
        study.publish(tmp_path / "one", file, anew=anew)
        assert study.fetch(tmp_path / "two", there, "s") and there.read_text() == expected
    there.write_text("d")
    study.publish(tmp_path / "two", there, anew=False)  # it came from there
    assert study.fetch(tmp_path / "two", there, "s") and there.read_text() == "c"
    assert [path.name for path in there.parent.iterdir()] == ["file"]


def test_what_is_asked_of_a_mirror_is_answered_even_if_its_process_ends(address: str, tmp_path: Path) -> None:
    with Mirror(address) as mirror:
        mirror.connect("kd-test", tmp_path / "mlruns", say=print)
        folder = append(tmp_path / "one", begin("s"))
        assert mirror.settle(folder) is None and is_settled(folder)
        assert mirror.fetch("s", tmp_path / "two" / "file", folder) == (False, None)
        mirror._process.kill()
        problem = "the process that logs to it has ended"
        assert mirror.fetch("s", tmp_path / "two" / "file", folder) == (False, problem)
        assert mirror.settle(folder) == problem


def test_what_is_asked_of_a_dying_mirror_is_answered_though_its_pipe_takes_the_question(
    address: str, tmp_path: Path
) -> None:
    with Mirror(address) as mirror:
        mirror.connect("kd-test", tmp_path / "mlruns", say=print)
        folder = append(tmp_path / "one", begin("s"))
        assert mirror.settle(folder) is None
        with open(f"/proc/{mirror._process.pid}/fd/0", "rb", buffering=0):  # as the kernel may, longer than the process
            mirror._process.kill()
            for _ in range(3):
                assert mirror.settle(folder) == "the process that logs to it has ended"


def is_settled(folder: Path) -> bool:
    return bool(json.loads((folder / STATE_FILE).read_text())["offset"] == (folder / SPOOL).stat().st_size)


@pytest.mark.parametrize(
    ("address", "error"),
    [
        ("csv:///runs.csv", r"kinds file, databricks, .*, sqlite, mssql, but got 'csv:///runs.csv'$"),
        ("htp://me:secret@host", r"kinds .*, but got 'htp://me:\*\*\*@host'; did you mean http://…\?$"),
        ("postgres://host/db", r"; did you mean postgresql://…\?$"),
        ("sqlite:/runs.db", r"after its kind, but got 'sqlite:/runs.db'; did you mean sqlite://…\?$"),
        ("https:/host", r"but got 'https:/host'; did you mean https://…\?$"),
    ],
)
def test_an_address_that_no_tracker_takes_is_refused_with_what_is_near(
    address: str, error: str, tmp_path: Path
) -> None:
    with pytest.raises(HarnessError, match=f"^--tracking-uri must .*{error}"):
        find_tracker(address).open("kd-x", tmp_path, say=print)


def test_a_refused_address_is_no_store_that_does_not_answer(tmp_path: Path) -> None:
    with (
        Mirror("htp://host") as mirror,
        pytest.raises(HarnessError, match=r"^--tracking-uri must be a folder"),
    ):
        mirror.connect("kd-test", tmp_path / "mlruns", say=print)
