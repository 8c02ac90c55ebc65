"""A second tracker is one new file: dropped into a copy of the harness, it logs a whole search."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import second_tracker
from conftest import EXAMPLE, ROOT, ended, environment, load
from forked import Forked
from second_tracker import JsonLinesStore
from store_contract import StoreContract, begun

from harness.core.errors import HarnessError
from harness.tracking.base import RunStore, find_tracker
from harness.tracking.progress import STATE_FILE
from harness.tracking.trackers.mlflow import MlflowTracker

SAMPLE = Path(second_tracker.__file__)
ORIGIN = '"experiment": self.experiment_id'


class TestJsonLines(StoreContract):
    """The sample keeps the contract."""

    def open_store(self, place: Path) -> JsonLinesStore:
        return JsonLinesStore(place / "runs.jsonl", "kd-test")

    def points(self, store: RunStore, name: str) -> list[tuple[str, int, float]]:
        logged = [line for line in _lines(store) if line["event"] == "metrics"]
        return [(name, line["step"], line["values"][name]) for line in logged]

    def states(self, store: RunStore) -> list[str]:
        return [*{line["run"]: line["state"] for line in _lines(store) if line["event"] == "state"}.values()]

    def test_an_interrupted_run_has_one_line_that_says_so(self, tmp_path: Path) -> None:
        store, folder = self.open_store(tmp_path), begun(tmp_path)
        store.send(folder)
        before = (folder / STATE_FILE).read_text()
        store.mark_interrupted(folder)
        (folder / STATE_FILE).write_text(before)  # as after a kill before the progress was saved
        store.mark_interrupted(folder)
        assert [line["state"] for line in _lines(store) if line["event"] == "state"] == ["RUNNING", "WAITING"]

    def test_a_line_that_was_torn_by_a_kill_is_written_whole(self, tmp_path: Path) -> None:
        store, folder = self.open_store(tmp_path), begun(tmp_path)
        store.send(folder)
        whole = store.file.read_bytes()
        store.file.write_bytes(whole[:-5])
        (folder / STATE_FILE).unlink()
        store.send(folder)
        assert store.file.read_bytes() == whole


def _lines(store: RunStore) -> list[dict[str, Any]]:
    assert isinstance(store, JsonLinesStore)
    return [json.loads(line) for line in store.file.read_text().splitlines()]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the harness with one file more, and the README's example."""
    shutil.copytree(ROOT / "harness", tmp_path / "harness")
    shutil.copy(ROOT / "search.py", tmp_path)
    sample = SAMPLE.read_text()
    assert sample.count(ORIGIN) == 1
    traced = sample.replace(ORIGIN, f'{ORIGIN}, "has_mlflow": "mlflow" in __import__("sys").modules')
    (tmp_path / "harness" / "tracking" / "trackers" / "jsonl.py").write_text(traced)
    (tmp_path / "cancer.py").write_text(EXAMPLE)
    return tmp_path


@pytest.mark.slow
def test_a_tracker_in_one_new_file_logs_a_search_to_the_end(tree: Path) -> None:
    file = tree / "runs.jsonl"
    flags = ("--space", "cancer.py", "--trials", "3", "--epochs", "2", "--pruner", "none", "--workers", "1")
    variables = {**environment(), "PYTHONPATH": f"{tree}:{ROOT}"}
    output = tree / "output.txt"
    searched = Forked(tree / "search.py", *flags, "--tracking-uri", f"jsonl://{file}", output=output, env=variables)
    told = ended(searched, output)
    assert f"next:\n  compare  file://{file}#cancer/accuracy\n" in told
    assert not (tree / "mlflow.db").exists() and "MLflow does not" not in told

    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert {line["experiment"] for line in lines} == {"kd-cancer"} and not any(line["has_mlflow"] for line in lines)
    runs: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in lines:
        runs[line["run"]].append(line)
    begun = {key: [line for line in events if line["event"] == "run"] for key, events in runs.items()}
    assert all(len(events) == 1 for events in begun.values())
    roles = [events[0]["tags"]["kd.role"] for events in begun.values()]
    assert [roles.count(role) for role in ("study", "teacher", "trial")] == [1, 1, 3]
    for events in runs.values():
        assert [line["state"] for line in events if line["event"] == "state"][-1] == "COMPLETE"
        tags = [line["values"] if line["event"] == "tags" else line.get("tags", {}) for line in events]
        assert not any(name.startswith("mlflow") for each in tags for name in each)

    for trial in load(tree, "cancer").trials:
        (events,) = (runs[key] for key, (run,) in begun.items() if run["tags"].get("kd.trial") == str(trial.number))
        logged = [line for line in events if line["event"] == "metrics"]
        assert [line["step"] for line in logged if line["step"] is not None and "val/loss" in line["values"]] == [0, 1]
        whole = {name: value for line in logged if line["step"] is None for name, value in line["values"].items()}
        assert trial.user_attrs["metrics"].items() <= whole.items()


@pytest.mark.parametrize(
    ("address", "shares_files"),
    [
        ("sqlite:///mlflow.db", False),
        ("mlruns", False),
        ("databricks", False),
        ("postgresql://h/db", False),
        ("a-scheme-of-a-plugin://h", False),
        ("http://h:5000", True),
        ("https://h", True),
    ],
)
def test_every_address_that_no_other_tracker_takes_is_mlflows(address: str, shares_files: bool) -> None:
    tracker = find_tracker(address)
    assert (tracker.name, tracker.address, tracker.shares_files) == ("MLflow", address, shares_files)


@pytest.mark.parametrize("address", ["jsonl:/runs", "jsonl:runs"])
def test_a_trackers_scheme_without_its_slashes_is_not_mlflows(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MlflowTracker, "schemes", ("jsonl",))
    with pytest.raises(HarnessError, match=f"'://' after its kind, but got '{address}'; did you mean jsonl://…\\?$"):
        find_tracker(address)
