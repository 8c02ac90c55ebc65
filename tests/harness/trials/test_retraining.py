"""Retrained students: runs that no worker has any more are marked, and the result of one worker stands."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sql
import torch
from conftest import Silent, opened, settings_in
from servers import Postgres

from harness.core.errors import TrialFailed
from harness.screen.terminal import Terminal
from harness.tracking.spool import SPOOL, Spool, last_state
from harness.trials.context import TrialContext
from harness.trials.progress import RetrainingDisplay
from harness.trials.retraining import Retraining, mark_waiting_runs, retrain
from harness.trials.trial import TrainingSpec
from search_spaces.digits import SPACE


@pytest.mark.service
def test_interrupted_retrainings_are_marked_as_waiting_and_leave_no_worker_row(
    tmp_path: Path, postgres: Postgres
) -> None:
    settings = replace(settings_in(tmp_path, trials=1), storage=postgres.new_database("let-wait"))
    study, other = opened(settings), opened(settings)
    for number, state in enumerate(("RUNNING", "RUNNING", "RUNNING", "COMPLETE")):
        with contextlib.closing(Spool(study.folder / f"controls/{number}")) as spool:
            spool.set_state(state)
    study.store_retrained("controls/1", {"metrics": {}})  # told to the study, and not yet to the log
    hold = other.acquire_lease(["controls/2"]) or pytest.fail()
    mark_waiting_runs(study, Silent())
    ended_in = [last_state(study.folder / f"controls/{number}" / SPOOL) for number in range(4)]
    assert ended_in == ["WAITING", "RUNNING", "RUNNING", "COMPLETE"]
    hold.release()
    other.leases.close()
    engine = study.storage.database.engine
    with engine.connect() as connection:
        assert connection.execute(sql.text("select count(*) from kd_workers")).scalar_one() == 0
    for one in (study, other):
        one.storage.close_connections()


@pytest.mark.service
@pytest.mark.parametrize("fails", [False, True])
def test_a_worker_that_lost_its_lease_does_not_overwrite_the_result_of_its_successor(
    tmp_path: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fails: bool
) -> None:
    settings = replace(settings_in(tmp_path, trials=1), storage=postgres.new_database(f"heir-{fails}"))
    study, heir = opened(settings), opened(settings)

    def silent_for_long(*arguments: Any, **more: Any) -> dict[str, float]:
        with study.storage.database.engine.begin() as connection:
            connection.execute(sql.text("delete from kd_workers"))  # as whoever takes over does, after a minute
        heir.store_retrained("controls/0", {"metrics": {"accuracy": 0.9}})
        if fails:
            raise TrialFailed("out of memory")
        return {"accuracy": 0.1}

    monkeypatch.setattr("harness.trials.runner.run_student", silent_for_long)
    spec = TrainingSpec(configuration=SPACE.configuration(SPACE.middle()), seed=0, order_seed=0)
    control = Retraining(
        name="controls/0", title="control of trial 0", spec=spec, tags={},
    )  # fmt: skip
    terminal = Terminal()
    display = RetrainingDisplay(terminal, "controls", [control.title], SPACE.epochs)
    prepared: Any = SimpleNamespace(data=SimpleNamespace(device=torch.device("cpu")))
    context = TrialContext(settings=settings, space=SPACE, study=study, prepared=prepared, mirror=Silent())
    retrain([control], context, display)
    display.close()
    assert study.retrained() == {"controls/0": {"metrics": {"accuracy": 0.9}}}
    assert (
        "control of trial 0 is interrupted: controls/0 was taken over while this worker was silent"
        in capsys.readouterr().out
    )
    for one in (study, heir):
        one.leases.close()
        one.storage.close_connections()
