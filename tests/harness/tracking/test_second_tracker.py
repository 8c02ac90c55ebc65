"""A second tracker is one new file: dropped into a copy of the harness, it logs a whole search."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from conftest import EXAMPLE, PATIENCE_S, ROOT, environment, load

from harness.core.errors import HarnessError
from harness.tracking.base import find_tracker
from harness.tracking.trackers.mlflow import MlflowTracker

JSON_LINES = '''\
"""Events of all runs as lines of JSON in one file."""

import json
import sys
from pathlib import Path

from harness.tracking.base import Tracker
from harness.tracking.progress import SendProgress
from harness.tracking.spool import SPOOL, read_events, read_events_until


class JsonLinesTracker(Tracker):
    name = "JSON lines"
    schemes = ("jsonl",)
    shares_files = False

    def open(self, experiment, artifact_root, *, say):
        return JsonLinesStore(Path(self.address.removeprefix("jsonl://")), experiment)

    def ui_command(self, executable):
        return None

    def runs_page(self, experiment_id, *, study, metric):
        return f"file://{self.address.removeprefix('jsonl://')}#{study}/{metric}"


class JsonLinesStore:
    def __init__(self, file, experiment):
        file.touch()
        self.file, self.experiment_id, self.identity = file, experiment, str(file)

    def _append(self, folder, events, end):
        key = read_events(folder / SPOOL)[0]["tags"]["kd.run_key"]
        origin = {"run": key, "experiment": self.experiment_id, "end": end, "has_mlflow": "mlflow" in sys.modules}
        with open(self.file, "a") as lines:
            lines.write("".join(json.dumps({**origin, **event}) + "\\n" for event in events))
        states = [event["state"] for event in events if event["event"] == "state"]
        return states[-1:]

    def send(self, folder):
        progress = SendProgress.load(folder, self.identity)
        events, end = read_events_until(folder / SPOOL, progress.offset)
        if events:
            progress.state = (self._append(folder, events, end) or [progress.state])[0]
            progress.offset = end
            progress.save(folder)

    def publish(self, folder, file, *, anew):
        raise NotImplementedError

    def fetch(self, folder, file, run_key):
        raise NotImplementedError

    def mark_interrupted(self, folder):
        progress = SendProgress.load(folder, self.identity)
        if progress.state == "RUNNING":
            (progress.state,) = self._append(folder, [{"event": "state", "state": "WAITING"}], progress.offset)
            progress.save(folder)
'''


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the harness with one file more, and the README's example."""
    shutil.copytree(ROOT / "harness", tmp_path / "harness")
    shutil.copy(ROOT / "search.py", tmp_path)
    (tmp_path / "harness" / "tracking" / "trackers" / "jsonl.py").write_text(JSON_LINES)
    (tmp_path / "cancer.py").write_text(EXAMPLE)
    return tmp_path


@pytest.mark.slow
def test_a_tracker_in_one_new_file_logs_a_search_to_the_end(tree: Path) -> None:
    file = tree / "runs.jsonl"
    flags = ("--space", "cancer.py", "--trials", "3", "--epochs", "2", "--pruner", "none", "--workers", "1")
    searched = subprocess.run(
        [sys.executable, "search.py", *flags, "--tracking-uri", f"jsonl://{file}"],
        cwd=tree,
        env={**environment(), "PYTHONPATH": f"{tree}:{ROOT}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE_S,
    )
    assert searched.returncode == 0, searched.stdout
    assert f"next:\n  compare  file://{file}#cancer/accuracy\n" in searched.stdout
    assert not (tree / "mlflow.db").exists() and "MLflow does not" not in searched.stdout

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
