"""A worker that a scheduler starts, and starts again."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import settings_in

from harness.cli.hints import next_steps
from harness.launchers.remote import JobSpec, job_spec
from harness.preparation.concurrency import workers_together
from harness.settings import Settings
from search_spaces.digits import SPACE


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Settings]]:
    """The settings of each search that would have begun."""
    found: list[Settings] = []
    monkeypatch.setattr("harness.session.search_and_print", lambda settings, next_steps: found.append(settings))
    handler = signal.getsignal(signal.SIGTERM)
    yield found
    signal.signal(signal.SIGTERM, handler)


def begin(folder: Path, log: Path, *, timeout_s: float | None) -> None:
    settings = replace(settings_in(folder, trials=3), timeout_s=timeout_s)
    assert JobSpec(settings, folder, ("search.py",), next_steps).run([signal.SIGTERM], log) is None


def test_the_time_of_a_worker_counts_from_its_first_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, searched: list[Settings]
) -> None:
    monkeypatch.chdir(tmp_path)
    first, other = tmp_path / "1_log.out", tmp_path / "2_log.out"
    begin(tmp_path, first, timeout_s=60)
    began = time.time() - 50
    os.utime(first.with_suffix(".began"), (began, began))
    for log in (first, other):
        begin(tmp_path, log, timeout_s=60)
    begin(tmp_path, first, timeout_s=30)
    left = [settings.timeout_s for settings in searched]
    assert left == [pytest.approx(60, abs=5), pytest.approx(10, abs=5), pytest.approx(60, abs=5), 0]


def test_a_worker_knows_how_many_were_started_with_it(tmp_path: Path) -> None:
    settings = job_spec(settings_in(tmp_path, trials=30), 12, next_steps).settings
    assert workers_together(settings, SPACE, torch.device("cpu")) == 12


def test_without_a_limit_nothing_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, searched: list[Settings]
) -> None:
    monkeypatch.chdir(tmp_path)
    begin(tmp_path, tmp_path / "log.out", timeout_s=None)
    assert [settings.timeout_s for settings in searched] == [None] and not list(tmp_path.glob("*.began"))
