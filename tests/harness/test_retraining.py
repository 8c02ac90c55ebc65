"""What is said of students that were to be trained anew and are not any more."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sql
from conftest import Silent, opened, settings_in
from servers import Postgres

from harness.retraining import let_wait
from harness.spool import SPOOL, Spool, last_state
from harness.storage import close_connections


@pytest.mark.service
def test_what_was_cut_waits_and_who_says_so_is_no_worker_afterwards(tmp_path: Path, postgres: Postgres) -> None:
    settings = replace(settings_in(tmp_path, trials=1), storage=postgres.new_database("let-wait"))
    study, other = opened(settings), opened(settings)
    for number, state in enumerate(("RUNNING", "RUNNING", "RUNNING", "COMPLETE")):
        with contextlib.closing(Spool(study.folder / f"controls/{number}")) as spool:
            spool.set_state(state)
    study.keep_retrained("controls/1", {"metrics": {}})  # told to the study, and not yet to the log
    _, hold = other.take(["controls/2"]) or pytest.fail()
    let_wait(study, Silent())
    ended_in = [last_state(study.folder / f"controls/{number}" / SPOOL) for number in range(4)]
    assert ended_in == ["WAITING", "RUNNING", "RUNNING", "COMPLETE"]
    hold.release()
    other.claims.close()
    engine = study.optuna._storage._backend.engine  # type: ignore[attr-defined]
    with engine.connect() as connection:
        assert connection.execute(sql.text("select count(*) from kd_workers")).scalar_one() == 0
    for one in (study, other):
        close_connections(one.optuna)
