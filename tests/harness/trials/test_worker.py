"""A worker's claims, and how logs are synchronized with the study after a crash."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

import pytest
from conftest import Silent, claimed, metrics, opened, settings_in

from harness.sampling.proposal import Proposer
from harness.studies.claim import Claim
from harness.studies.claiming import TrialClaimer
from harness.studies.study import Study
from harness.tracking.spool import Spool, read_events
from harness.trials import worker
from harness.trials.worker import _next_claim, sync_spools
from search_spaces.digits import SPACE


class Mirror(Silent):
    """Records which spools have news."""

    store = "sqlite"

    def __init__(self) -> None:
        self.folders: list[Path] = []

    def notify(self, folder: Path) -> None:
        self.folders.append(folder)


class Waiting:
    """A display that records how many trials are waited for."""

    def __init__(self) -> None:
        self.told: list[int] = []

    def waiting(self, running: int) -> None:
        self.told.append(running)


def claim_of(study: Study) -> Claim:
    claim = claimed(study, SPACE)
    assert claim is not None
    return claim


def next_claim(study: Study, display: Waiting, ends_at: float | None = None) -> Claim | None:
    proposer = Proposer(SPACE, sampler="random", seed=0, directions=study.directions)
    return _next_claim(TrialClaimer(study, proposer), study, display, ends_at)  # type: ignore[arg-type]


def test_a_worker_waits_for_the_last_trial_of_another_and_resumes_it_if_it_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, display = settings_in(tmp_path, trials=1), Waiting()
    study, other = opened(settings), opened(settings)
    lost, pauses = claim_of(other), list[float]()

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            lost.lease.release()  # the other worker is killed

    monkeypatch.setattr(worker.time, "sleep", sleep)
    found = next_claim(study, display)
    assert found is not None and found.resumed and found.trial.number == lost.trial.number
    assert display.told == [1] and len(pauses) == 3 and max(pauses) <= 2


def test_a_worker_that_waits_ends_with_the_last_trial_or_with_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, display = settings_in(tmp_path, trials=1), Waiting()
    study, other = opened(settings), opened(settings)
    claim = claim_of(other)
    assert next_claim(study, display, time.monotonic() + 0.1) is None and display.told == [1]
    monkeypatch.setattr(worker.time, "sleep", lambda seconds: claim.complete(metrics(0.5, 1.0)))
    assert next_claim(study, display) is None
    assert study.finished() == 1


def test_a_crash_between_result_and_log_is_repaired_in_the_log(tmp_path: Path) -> None:
    study, mirror = opened(settings_in(tmp_path, trials=3)), Mirror()
    complete, failed, running = (claim_of(study) for _ in range(3))
    complete.complete(metrics(0.5, 1.0))
    failed.fail("out of memory")
    study.store_retrained("controls/0", {"reason": "loss is nan"})
    folders = [complete.folder, failed.folder, study.folder / "controls/0", running.folder]
    for folder in folders:
        with closing(Spool(folder)) as spool:
            spool.set_state("RUNNING")
    (complete.folder / "checkpoint-0.safetensors").write_bytes(b"")
    sync_spools(study, mirror)  # type: ignore[arg-type]
    ends = [[event for event in read_events(folder / "spool.jsonl")][1:] for folder in folders]
    told = [[event.get("state") or event["values"]["kd.reason"] for event in events] for events in ends]
    assert told == [["COMPLETE"], ["out of memory", "FAIL"], ["loss is nan", "FAIL"], []]
    assert not (complete.folder / "checkpoint-0.safetensors").exists()
    assert set(mirror.folders) == {study.folder, *folders}
