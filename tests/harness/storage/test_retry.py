"""Retries while a storage is away: which calls are retried, until when, and what is said."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sql
from conftest import claimed, opened, settings_in
from optuna.exceptions import StorageInternalError
from servers import Postgres
from sqlalchemy.exc import OperationalError

from harness.core import notifier
from harness.core.notifier import RateLimitedNotifier
from harness.storage import retry
from harness.storage.retry import RetryPolicy
from search_spaces.digits import SPACE


def gone(text: str = "connection refused") -> StorageInternalError:
    error = StorageInternalError("Optuna's own words")
    error.__cause__ = OperationalError("select 1", {}, Exception(text))
    return error


class Storage:
    """A storage that is away for some calls."""

    def __init__(self, away: int, error: Exception | None = None) -> None:
        self.away = away
        self.error = error or gone()
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self.away:
            raise self.error
        return "an answer"


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "_FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(retry, "_LONGEST_PAUSE_S", 0.002)


def test_a_call_is_retried_while_the_storage_is_away_with_a_message_at_both_ends() -> None:
    said: list[str] = []
    storage = Storage(away=5)
    assert RetryPolicy(said.append).call(storage) == "an answer"
    assert storage.calls == 6
    assert said == [
        "the study's storage is away (connection refused); it is asked again until it is back",
        "the study's storage answers again",
    ]


def test_retries_end_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "_GIVE_UP_AFTER_S", 0.02)
    with pytest.raises(StorageInternalError):
        RetryPolicy().call(Storage(away=10**9))


@pytest.mark.parametrize("text", ["password authentication failed for user x", 'database "kd" does not exist'])
def test_an_error_that_does_not_pass_is_raised_at_once(text: str) -> None:
    storage = Storage(away=1, error=gone(text))
    with pytest.raises(StorageInternalError):
        RetryPolicy().call(storage)
    assert storage.calls == 1


def test_other_errors_and_files_are_not_retried() -> None:
    for of_server, error in ((True, ValueError("no")), (False, gone())):
        storage = Storage(away=1, error=error)
        with pytest.raises(type(error)):
            RetryPolicy(of_server=of_server).call(storage)
        assert storage.calls == 1


def test_an_outage_in_a_nested_call_retries_the_outer_call() -> None:
    policy, first, second = RetryPolicy(), Storage(away=0), Storage(away=1)

    def whole() -> str:
        return policy.call(first) + policy.call(second)

    assert policy.call(whole) == "an answeran answer"
    assert (first.calls, second.calls) == (2, 2)


def test_try_once_does_not_retry() -> None:
    said: list[str] = []
    policy, storage = RetryPolicy(said.append), Storage(away=1)
    with pytest.raises(StorageInternalError) as raised:
        policy.try_once(lambda: policy.call(storage))
    assert storage.calls == 1
    assert policy.is_away(raised.value) and not policy.is_away(ValueError())
    assert said == ["the study's storage is away (connection refused); training goes on"]


def test_a_message_is_said_once_a_minute_whatever_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s, said = 0.0, []
    monkeypatch.setattr(notifier.time, "monotonic", lambda: now_s)
    say = RateLimitedNotifier(said.append)
    for now_s in (0.0, 30.0, 59.0, 60.0):
        say(f"it is away (reason {now_s:.0f})")
    say("something else")
    say.end("it is back")
    say("it is away (again)")
    assert said == [
        "it is away (reason 0)",
        "it is away (reason 60)",
        "something else",
        "it is back",
        "it is away (again)",
    ]


def test_with_a_deadline_slow_calls_are_waited_for_but_no_second_silent_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "_CALL_TIMEOUT_S", 1.0)
    policy = RetryPolicy()
    policy.set_deadline()
    for _ in range(4):
        policy.call(lambda: time.sleep(0.3))  # together longer than one answer may take
    with pytest.raises(StorageInternalError, match="does not answer in time"):
        policy.call(lambda: time.sleep(10))
    began_s = time.monotonic()
    with pytest.raises(StorageInternalError, match="does not answer in time"):
        policy.call(lambda: time.sleep(10))
    assert time.monotonic() - began_s < 0.9


@pytest.mark.service
def test_an_outage_between_two_statements_of_one_read_is_retried(tmp_path: Path, postgres: Postgres) -> None:
    study = opened(replace(settings_in(tmp_path, trials=1), storage=postgres.new_database("between")))
    claim = claimed(study, SPACE)
    assert claim is not None
    database, ended = study.storage.database, []

    def end(connection: Any, cursor: Any, statement: str, *others: Any) -> None:
        if "FROM trial_params" in statement and not ended:
            ended.append(cursor.connection.info.backend_pid)
            postgres.run(f"select pg_terminate_backend({ended[0]})")

    sql.event.listen(database.engine, "before_cursor_execute", end)
    said: list[str] = []
    study.retry.notifier.say = said.append
    (trial,) = study.trials()
    assert ended and trial.params == claim.trial.params
    assert said[0].startswith("the study's storage is away (") and said[1] == "the study's storage answers again"
    sql.event.remove(database.engine, "before_cursor_execute", end)
    claim.lease.release()
    study.leases.close()
    database.engine.dispose()


def test_the_deadline_bounds_all_calls_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "_DEADLINE_S", 0.5)
    policy = RetryPolicy()
    policy.set_deadline()
    with pytest.raises(StorageInternalError, match="does not answer in time"):
        while True:
            policy.call(lambda: time.sleep(0.1))
