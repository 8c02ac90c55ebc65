"""A study in MariaDB, a server that Optuna knows and that has no claims of its own: workers of one machine share it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from conftest import PATIENCE_S, epochs_logged, start, wait_for
from mariadb import MariaDb

pytestmark = [pytest.mark.slow, pytest.mark.service]


@pytest.fixture
def mariadb() -> Iterator[MariaDb]:
    made = MariaDb()
    yield made
    made.close()


def test_workers_share_a_study_in_mariadb_and_wait_for_it_when_it_is_away(example: Path, mariadb: MariaDb) -> None:
    storage = mariadb.new_database("shared")
    command = ("--space", "cancer.py", "--trials", "8", "--epochs", "60", "--workers", "3", "--storage", storage)
    process = start(example, *command)
    wait_for(lambda: epochs_logged(example, "cancer", 4) >= 3)
    mariadb.crash()
    wait_for(lambda: "the study's storage is away" in (example / "output.txt").read_text())
    mariadb.start()
    assert process.wait(PATIENCE_S) == 0, (example / "output.txt").read_text()
    output = (example / "output.txt").read_text()
    assert "8/8" in output and "Traceback" not in output, output
    trials = optuna.load_study(study_name="cancer", storage=storage).trials
    assert [trial.number for trial in trials] == list(range(8))
    assert all(trial.state.is_finished() for trial in trials)
    assert len({tuple(sorted(trial.params.items())) for trial in trials}) == 8
