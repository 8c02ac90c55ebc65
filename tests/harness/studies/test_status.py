"""The lines that describe a study's state."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from conftest import claimed, metrics, opened, settings_in
from optuna.trial import TrialState, create_trial
from servers import Postgres

from harness.settings import Settings
from harness.studies.status import pace_per_h, status
from harness.tracking.spool import Spool
from harness.trials.runner import begin_spool
from harness.trials.worker import trial_run
from search_spaces.digits import SPACE


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_in(tmp_path, trials=6)


def test_the_status_on_one_machine_lists_running_and_cut_trials(settings: Settings) -> None:
    study = opened(settings)
    ended, failed, running, cut = (claimed(study, SPACE) for _ in range(4))
    assert ended and failed and running and cut
    ended.complete(metrics(0.5, 1.0))
    failed.fail("loss is nan")
    for claim, epochs in ((running, 3), (cut, 1)):
        spool = Spool(claim.folder)
        begin_spool(spool, trial_run(claim, settings), study)
        for epoch in range(epochs):
            spool.metrics({"train/loss": 1.0}, step=epoch)
        spool.close()
    for claim in (ended, failed, cut):
        claim.lease.release()
    study.store_retrained("controls/0", {"reason": "loss is nan"})
    lines = list(status(opened(settings)))
    assert lines[:2] == [
        "study     s: 2 of 6 trials finished (1 complete, 1 failed), 2 begun, 2 to begin",
        "retrained 1 student, as controls or to confirm, 1 failed",
    ]
    assert lines[-2:] == [
        "trial     2: 3/20 epochs, running",
        "trial     3: 1/20 epochs, cut; the same command begins it again",
    ]
    running.lease.release()


def test_the_time_left_is_shown_while_a_process_works(settings: Settings) -> None:
    study = opened(settings)
    for _ in range(2):
        claim = claimed(study, SPACE)
        assert claim is not None
        claim.complete(metrics(0.5, 1.0))
        claim.lease.release()

    def pace() -> str:
        (line,) = (line for line in status(opened(settings)) if line.startswith("pace"))
        return line.partition("by the last 2")[2]

    assert pace() == "; nobody is at work"
    study.join()
    assert pace().endswith(" left")
    study.lock.release()
    assert pace() == "; nobody is at work"


@pytest.mark.service
def test_the_status_on_a_server_lists_the_workers_from_any_folder(
    settings: Settings, postgres: Postgres, tmp_path: Path
) -> None:
    settings = replace(settings, storage=postgres.new_database("status"))
    study = opened(settings)
    claim = claimed(study, SPACE)
    assert claim is not None
    claim.lease.report_progress(4)
    claim.lease.verify()
    elsewhere = opened(replace(settings, runs_dir=tmp_path / "elsewhere"))
    first, *rest = status(elsewhere)
    assert first == "study     s: 0 of 6 trials finished, 1 begun, 5 to begin"
    (line,) = rest
    assert line.startswith("worker    ") and ": trial 0, 4/20 epochs; heard of " in line
    cut = claimed(elsewhere, SPACE)
    assert cut is not None
    cut.lease.release()
    elsewhere.leases.close()
    study.leases.close()
    assert list(status(elsewhere))[1:] == [
        "trial     0: nobody is at it",
        "trial     1: 0/20 epochs, cut; the same command begins it again",
    ]
    for one in (study, elsewhere):
        one.storage.close_connections()


@pytest.mark.service
def test_the_pace_of_several_machines_mentions_their_clocks(settings: Settings, postgres: Postgres) -> None:
    studies = [opened(settings), opened(replace(settings, storage=postgres.new_database("pace")))]
    for study, said in zip(studies, (False, True), strict=True):
        for _ in range(2):
            claim = claimed(study, SPACE)
            assert claim is not None
            claim.complete(metrics(0.5, 1.0))
            claim.lease.release()
        (pace,) = (line for line in status(study) if line.startswith("pace"))
        assert ("by the machines' own clocks" in pace) == said
        assert " left" in pace
        study.leases.close()
        assert any("; nobody is at work" in line for line in status(study)) == said  # the other's folder is taken
        study.storage.close_connections()


def test_the_pace_is_computed_from_the_last_trials_and_falls_without_workers() -> None:
    def ended(minutes_ago: float) -> timedelta:
        return timedelta(minutes=minutes_ago)

    def trials(*minutes_ago: float) -> list:
        made = []
        for ago in minutes_ago:
            trial = create_trial(state=TrialState.COMPLETE, values=[1.0])
            trial.datetime_complete = datetime.now() - ended(ago)
            made.append(trial)
        return made

    assert pace_per_h(trials(3)) is None
    assert pace_per_h(trials(3, 2, 1, 0)) == pytest.approx(60, rel=0.01)
    assert pace_per_h(trials(63, 62, 61, 60)) == pytest.approx(3 / 63 * 60, rel=0.01)
    assert pace_per_h([*trials(500), *trials(*[n / 2 for n in range(20)])]) == pytest.approx(120, rel=0.01)
