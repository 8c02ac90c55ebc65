"""A PostgreSQL server that is restarted, or stopped for a while, under a study; alone, and beside MLflow's."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from conftest import EXAMPLE, PATIENCE_S, epochs_logged, search, settings_in, wait_for
from optuna.trial import TrialState, create_trial
from servers import MlflowServer, Postgres
from sqlalchemy.exc import OperationalError
from test_storm import EPOCHS, FLAGS, begin, check_curves, reached

from harness.core.errors import LeaseLost
from harness.storage.access import open_storage

pytestmark = [pytest.mark.slow, pytest.mark.service]

AWAY = "the study's storage is away"


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    """A server that a test may stop."""
    server = Postgres()
    yield server
    server.close()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Any]:
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "cancer.py").write_text(EXAMPLE)
    search(folder, *FLAGS, "--trials", "16", "--workers", "2")
    return reached(f"sqlite:///{folder}/optuna.db")


@pytest.mark.parametrize("away_s", [0, 10])
def test_a_search_survives_an_outage_of_the_storage(
    example: Path, own_postgres: Postgres, undisturbed: dict[int, Any], away_s: int
) -> None:
    storage = own_postgres.new_database("outage")
    process = begin(example, "search", "--trials", "16", "--workers", "2", "--storage", storage)
    try:
        wait_for(lambda: epochs_logged(example, "cancer", 4) >= 1)
        own_postgres.stop()
        if away_s:
            wait_for(lambda: AWAY in (example / "search.txt").read_text())
            time.sleep(away_s)
        own_postgres.start()
        assert process.wait(PATIENCE_S) == 0, (example / "search.txt").read_text()
    finally:
        process.kill()
        process.wait()
    output = (example / "search.txt").read_text()
    if away_s:
        assert output.count(AWAY) == 1 and "the study's storage answers again" in output
    assert reached(storage) == undisturbed
    check_curves(example, 16)


@pytest.mark.parametrize("children_too", [False, True], ids=["postmaster", "all of it"])
def test_a_killed_storage_has_kept_committed_results(
    example: Path, own_postgres: Postgres, undisturbed: dict[int, Any], children_too: bool
) -> None:
    storage = own_postgres.new_database("killed")
    process = begin(example, "search", "--trials", "16", "--workers", "2", "--storage", storage)
    try:
        for number in (2, 6, 10):
            wait_for(lambda number=number: epochs_logged(example, "cancer", number) >= 1)  # type: ignore[misc]
            own_postgres.crash(children_too=children_too)
            own_postgres.start()
        assert process.wait(PATIENCE_S) == 0, (example / "search.txt").read_text()
    finally:
        process.kill()
        process.wait()
    assert own_postgres.log().count("was not properly shut down") == 3
    assert reached(storage) == undisturbed
    check_curves(example, 16)


def test_a_trial_that_could_not_be_stored_is_not_stored_later(example: Path, own_postgres: Postgres) -> None:
    """The lock under which its configuration was chosen is lost by then, and others have begun trials."""
    settings = replace(settings_in(example, trials=1), storage=own_postgres.new_database("late"))
    storage = open_storage(settings)
    study = optuna.create_study(storage=storage.optuna)
    study_id = storage.optuna.get_study_id_from_name(study.study_name)
    own_postgres.stop()
    back = threading.Timer(0.5, own_postgres.start)
    back.start()
    with pytest.raises(OperationalError):
        storage.create_trial(study_id, create_trial(state=TrialState.RUNNING))
    back.join()
    time.sleep(2.5)  # longer than the pause after which Optuna tries again
    assert study.get_trials() == []
    assert storage.create_trial(study_id, create_trial(state=TrialState.RUNNING)).number == 0
    storage.close_connections()


def test_a_trial_is_rolled_back_where_its_worker_has_lost_its_turn_while_it_was_inserted(
    example: Path, own_postgres: Postgres
) -> None:
    settings = replace(settings_in(example, trials=1), storage=own_postgres.new_database("fenced"))
    storage = open_storage(settings)
    study = optuna.create_study(storage=storage.optuna)
    study_id = storage.optuna.get_study_id_from_name(study.study_name)

    def lost() -> None:
        raise LeaseLost("the lock is another's")

    with pytest.raises(LeaseLost, match="the lock is another's"):
        storage.create_trial(study_id, create_trial(state=TrialState.RUNNING), before_commit=lost)
    assert study.get_trials() == []
    assert storage.create_trial(study_id, create_trial(state=TrialState.RUNNING)).number == 0
    storage.close_connections()


def test_a_search_survives_simultaneous_outages_of_storage_and_tracking_server(
    example: Path, own_postgres: Postgres, undisturbed: dict[int, Any]
) -> None:
    storage, server = own_postgres.new_database("outage"), MlflowServer(example / "server")
    server.start()
    flags = ("--trials", "16", "--workers", "2", "--storage", storage, "--tracking-uri", server.address)
    process = begin(example, "search", *flags)
    try:
        wait_for(lambda: epochs_logged(example, "cancer", 4) >= 1)
        server.stop()  # first: without the storage no trial is begun, and then nothing may be left to send
        own_postgres.stop()
        for away in (AWAY, "MLflow does not answer"):
            wait_for(lambda away=away: away in (example / "search.txt").read_text())  # type: ignore[misc]
        own_postgres.start()
        wait_for(lambda: "the study's storage answers again" in (example / "search.txt").read_text())
        server.start()
        assert process.wait(PATIENCE_S) == 0, (example / "search.txt").read_text()
        assert reached(storage) == undisturbed
        check_curves(example, 16, server.address)
    finally:
        process.kill()
        process.wait()
        server.stop()


def test_a_trial_trained_during_an_outage_of_the_storage_loses_nothing(lasting: Path, own_postgres: Postgres) -> None:
    storage = own_postgres.new_database("outage")
    process = begin(lasting, "search", "--trials", "1", "--workers", "1", "--storage", storage, "--epochs", "250")
    try:
        wait_for(lambda: epochs_logged(lasting, "cancer", 0) >= 5)
        own_postgres.stop()
        before = epochs_logged(lasting, "cancer", 0)
        wait_for(lambda: epochs_logged(lasting, "cancer", 0) > before + EPOCHS)  # it trains on
        own_postgres.start()
        assert process.wait(PATIENCE_S) == 0, (lasting / "search.txt").read_text()
    finally:
        process.kill()
        process.wait()
    assert epochs_logged(lasting, "cancer", 0) == 250
    assert [state for state, _, _ in reached(storage).values()] == ["COMPLETE"]
