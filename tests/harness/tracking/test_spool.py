"""The log of a run on disk: what is there stays there once, whatever cut it."""

from __future__ import annotations

import inspect
import json
import math
import os
import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.tracking.base import RunStore
from harness.tracking.spool import SPOOL, STATES, Spool, curves, read_events, read_events_until


def lines_of(folder: Path) -> list[dict[str, Any]]:
    """The file as JSON lines, read without the code under test; times apart."""
    events = [json.loads(line) for line in (folder / SPOOL).read_text().splitlines()]
    return [{key: value for key, value in event.items() if key != "time_ms"} for event in events]


def test_every_event_and_field_of_a_spool_is_in_the_contract_of_trackers(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "3", is_valid=lambda: False)
    for _ in range(2):
        spool.begin("trial-0003", tags={}, params={}, parent=tmp_path, taken_ms=1)
    spool.set_state("RUNNING", kept=2)
    spool.metrics({"loss": 1.0}, step=0)
    spool.tags({"kd.role": "trial"})
    spool.artifact(tmp_path / "3" / "a.txt")
    spool.close()
    named = set(re.findall(r"``(\w+)``", str(RunStore.__doc__)))
    events = read_events(tmp_path / "3" / SPOOL)
    assert {name for event in events for name in (event["event"], *event)} - {"event"} <= named
    assert {*STATES} <= set(re.findall(r"[A-Z]+", str(RunStore.__doc__)))
    written = set(re.findall(r'_append\(\s*"(\w+)"', inspect.getsource(Spool)))
    assert {event["event"] for event in events} == written  # none was forgotten here


def test_an_event_is_on_disk_at_once_with_the_time(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    before = time.time() * 1000
    spool.metrics({"val/accuracy": 0.5}, step=0)
    (event,) = [json.loads(line) for line in (tmp_path / SPOOL).read_text().splitlines()]
    assert before - 1 <= event["time_ms"] <= time.time() * 1000 + 1
    spool.close()


def test_events_are_kept_in_order_with_all_they_say(tmp_path: Path) -> None:
    folder = tmp_path / "study" / "3"
    spool = Spool(folder)
    spool.begin("trial 3", tags={"kd.role": "trial"}, params={"width": 8, "alpha": 0.1}, parent=tmp_path / "study")
    spool.metrics({"train/loss": 1.5}, step=0)
    spool.tags({"kd.note": "é\n"})
    spool.metrics({"accuracy": 0.75})
    spool.artifact(folder / "student.safetensors")
    spool.set_state("COMPLETE")
    spool.close()
    assert lines_of(folder) == [
        {"event": "run", "name": "trial 3", "tags": {"kd.role": "trial"}, "params": {"width": "8", "alpha": "0.1"},
         "parent": ".."},
        {"event": "metrics", "step": 0, "values": {"train/loss": 1.5}},
        {"event": "tags", "values": {"kd.note": "é\n"}},
        {"event": "metrics", "step": None, "values": {"accuracy": 0.75}},
        {"event": "artifact", "path": "student.safetensors"},
        {"event": "state", "state": "COMPLETE"},
    ]  # fmt: skip


def test_an_epoch_is_not_logged_twice_after_reopening(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.metrics({"loss": 2.0}, step=0)
    spool.metrics({"loss": 1.0}, step=1)
    spool.metrics({"loss": 9.0}, step=1)
    assert spool.epochs == 2
    spool.close()
    again = Spool(tmp_path)
    assert again.epochs == 2
    again.metrics({"loss": 9.0}, step=1)
    again.metrics({"loss": 0.5}, step=2)
    again.close()
    assert [(line["step"], line["values"]["loss"]) for line in lines_of(tmp_path)] == [(0, 2.0), (1, 1.0), (2, 0.5)]


def test_metrics_of_the_whole_run_are_no_epochs(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.metrics({"accuracy": 0.5})
    spool.metrics({"accuracy": 0.6})
    assert spool.epochs == 0 and len(lines_of(tmp_path)) == 2
    spool.close()


def test_a_cut_spool_drops_its_torn_line_and_goes_on(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.metrics({"loss": 2.0}, step=0)
    spool.metrics({"loss": 1.0}, step=1)
    spool.close()
    file = tmp_path / SPOOL
    whole = file.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in (first, first + 1, len(whole) - 1):
        file.write_bytes(whole[:cut])
        again = Spool(tmp_path)
        assert again.epochs == 1
        again.metrics({"loss": 1.5}, step=1)
        again.close()
        assert [line["values"]["loss"] for line in lines_of(tmp_path)] == [2.0, 1.5]


def test_a_run_begins_once(tmp_path: Path) -> None:
    for name in ("first", "second"):
        spool = Spool(tmp_path)
        spool.begin(name, tags={}, params={})
        spool.begin("third", tags={}, params={})
        spool.close()
    assert [(line["event"], line["name"]) for line in lines_of(tmp_path)] == [("run", "first")]


def test_a_state_is_written_only_when_it_changes_but_running_each_time(tmp_path: Path) -> None:
    # The mirror marks a run WAITING that was killed, which the spool does not know: RUNNING has to be said again.
    spool = Spool(tmp_path)
    for state in ("RUNNING", "RUNNING", "WAITING"):
        spool.set_state(state)
    spool.close()
    again = Spool(tmp_path)
    assert again.state == "WAITING"
    for state in ("WAITING", "RUNNING", "COMPLETE", "COMPLETE"):
        again.set_state(state)
    again.close()
    assert [line["state"] for line in lines_of(tmp_path)] == ["RUNNING", "RUNNING", "WAITING", "RUNNING", "COMPLETE"]


def test_the_states_of_a_run_are_those_of_optuna(tmp_path: Path) -> None:
    from optuna.trial import TrialState

    assert {state.name for state in TrialState} == STATES
    with pytest.raises(AssertionError, match="DONE"):
        Spool(tmp_path).set_state("DONE")


def test_the_listener_is_told_the_folder_after_each_event(tmp_path: Path) -> None:
    told: list[tuple[Path, int]] = []
    spool = Spool(tmp_path, lambda folder: told.append((folder, len(lines_of(folder)))))
    spool.metrics({"loss": 1.0}, step=0)
    spool.metrics({"loss": 1.0}, step=0)  # nothing is written, nothing told
    spool.set_state("RUNNING")
    spool.close()
    assert told == [(tmp_path, 1), (tmp_path, 2)]


def test_events_are_read_from_where_the_last_reading_ended(tmp_path: Path) -> None:
    file = tmp_path / SPOOL
    assert read_events(file) == [] and read_events_until(file, 0) == ([], 0)
    spool = Spool(tmp_path)
    spool.tags({"a": "1"})
    events, end = read_events_until(file, 0)
    assert [event["values"] for event in events] == [{"a": "1"}] and end == file.stat().st_size
    assert read_events_until(file, end) == ([], end)
    spool.tags({"b": "2"})
    with open(file, "ab") as other:
        other.write(b'{"event": "ta')  # still being written
    events, last = read_events_until(file, end)
    assert [event["values"] for event in events] == [{"b": "2"}] and last == file.stat().st_size - 13
    spool.close()


def test_curves_are_the_epochs_by_name(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.metrics({"loss": 2.0, "accuracy": 0.1}, step=0)
    spool.metrics({"loss": math.nan}, step=1)
    spool.metrics({"accuracy": 0.9})
    spool.close()
    found = curves(tmp_path)
    assert found["accuracy"] == {0: 0.1}
    assert found["loss"][0] == 2.0 and math.isnan(found["loss"][1])
    assert curves(tmp_path / "nowhere") == {}


def test_a_spool_is_not_inherited_by_other_programs(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    assert not os.get_inheritable(spool._file)
    spool.close()


def test_metrics_of_the_whole_run_are_said_again_only_where_they_changed(tmp_path: Path) -> None:
    for values in ({"a": 1.0, "b": 2.0}, {"a": 1.0}, {"a": 1.0, "b": 2.0}, {"a": 3.0}, {"a": 3.0}):
        spool = Spool(tmp_path)
        spool.metrics(values)
        spool.close()
    said = [event["values"] for event in read_events(tmp_path / SPOOL)]
    assert said == [{"a": 1.0, "b": 2.0}, {"a": 3.0}]


def test_each_event_says_whether_the_run_may_be_another_machine_s_by_then(tmp_path: Path) -> None:
    heard = [True]
    spool = Spool(tmp_path, is_valid=lambda: heard[-1])
    spool.metrics({"train/loss": 1.0}, step=0)
    heard.append(False)  # in the middle of an epoch
    spool.set_state("WAITING")
    heard.append(True)
    spool.tags({"kd.note": "back"})
    assert [event.get("unsure") for event in lines_of(tmp_path)] == [None, True, None]
    spool.close()


def test_short_epochs_are_not_told_each_but_what_follows_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s, told = 0.0, list[int]()
    monkeypatch.setattr("harness.tracking.spool.time", SimpleNamespace(monotonic=lambda: now_s, time_ns=time.time_ns))
    spool = Spool(tmp_path, lambda folder: told.append(len(read_events(folder / SPOOL))))
    for epoch in range(20):
        now_s += 0.125
        spool.metrics({"val/accuracy": epoch / 20}, step=epoch)
    assert told == [1, 6, 11, 16]
    spool.metrics({"accuracy": 0.95})
    spool.set_state("COMPLETE")
    assert told[-2:] == [21, 22]
    now_s += 1
    spool.metrics({"val/accuracy": 0.5}, step=20)
    assert told[-1] == 23
    now_s += 0.1
    spool.metrics({"val/accuracy": 0.5}, step=21)
    spool.close()
    assert told[-1] == 24


def test_deaths_count_as_long_as_nobody_gets_further(tmp_path: Path) -> None:
    def begun(kept: int, *, epochs: range = range(0)) -> Spool:
        spool = Spool(tmp_path)
        spool.set_state("RUNNING", kept=kept)
        for epoch in epochs:
            spool.metrics({"val/accuracy": 0.5}, step=epoch)
        return spool

    assert begun(0, epochs=range(40)).deaths == 0
    assert [begun(kept).deaths for kept in (21, 25, 31)] == [0, 0, 0]  # they train again what is logged
    spool = begun(31)
    assert (spool.deaths, spool.kept) == (1, 31)
    spool = begun(0)  # the checkpoint is gone
    assert (spool.deaths, spool.kept) == (2, 0)
    assert begun(20).deaths == 3
    assert begun(20, epochs=range(41)).deaths == 4 and begun(20).deaths == 1
