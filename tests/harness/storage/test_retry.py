"""A storage that is away: what is asked again, what is not, and what is said."""

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

from harness.core import notifier as word
from harness.core.notifier import RateLimitedNotifier
from harness.storage import retry as patience
from harness.storage.retry import RetryPolicy, never, server_is_away
from search_spaces.digits import SPACE


def gone(text: str = "connection refused") -> StorageInternalError:
    error = StorageInternalError("Optuna's own words")
    error.__cause__ = OperationalError("select 1", {}, Exception(text))
    return error


class Storage:
    """One that is away for so many calls."""

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
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "_FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(patience, "_LONGEST_PAUSE_S", 0.002)


def test_a_storage_that_is_away_is_asked_again_and_two_words_are_said() -> None:
    said: list[str] = []
    storage = Storage(away=5)
    assert RetryPolicy(server_is_away, said.append).ask(storage) == "an answer"
    assert storage.calls == 6
    assert said == [
        "the study's storage is away (connection refused); it is asked again until it is back",
        "the study's storage answers again",
    ]


def test_patience_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "_PATIENCE_S", 0.02)
    with pytest.raises(StorageInternalError):
        RetryPolicy(server_is_away).ask(Storage(away=10**9))


@pytest.mark.parametrize("text", ["password authentication failed for user x", 'database "kd" does not exist'])
def test_what_does_not_mend_itself_is_raised_at_once(text: str) -> None:
    storage = Storage(away=1, error=gone(text))
    with pytest.raises(StorageInternalError):
        RetryPolicy(server_is_away).ask(storage)
    assert storage.calls == 1


def test_other_errors_and_other_storages_are_not_waited_for() -> None:
    for away, error in ((server_is_away, ValueError("no")), (never, gone())):
        storage = Storage(away=1, error=error)
        with pytest.raises(type(error)):
            RetryPolicy(away).ask(storage)
        assert storage.calls == 1


def test_what_is_asked_within_a_whole_begins_the_whole_again() -> None:
    context, first, second = RetryPolicy(server_is_away), Storage(away=0), Storage(away=1)

    def whole() -> str:
        return context.ask(first) + context.ask(second)

    assert context.ask(whole) == "an answeran answer"
    assert (first.calls, second.calls) == (2, 2)


def test_what_is_asked_once_is_not_asked_again() -> None:
    said: list[str] = []
    context, storage = RetryPolicy(server_is_away, said.append), Storage(away=1)
    with pytest.raises(StorageInternalError) as raised:
        context.try_once(lambda: context.ask(storage))
    assert storage.calls == 1
    assert context.is_away(raised.value) and not context.is_away(ValueError())
    assert said == ["the study's storage is away (connection refused); training goes on"]


def test_a_word_is_said_once_a_minute_whatever_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s, said = 0.0, []
    monkeypatch.setattr(word.time, "monotonic", lambda: now_s)
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


def test_who_was_told_to_stop_waits_for_each_answer_but_for_no_second_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "_HURRIED_S", 1.0)
    context = RetryPolicy(server_is_away)
    context.set_deadline()
    for _ in range(4):
        context.ask(lambda: time.sleep(0.3))  # together longer than one answer may take
    with pytest.raises(StorageInternalError, match="does not answer in time"):
        context.ask(lambda: time.sleep(10))
    began_s = time.monotonic()
    with pytest.raises(StorageInternalError, match="does not answer in time"):
        context.ask(lambda: time.sleep(10))
    assert time.monotonic() - began_s < 0.9


@pytest.mark.service
def test_a_server_that_goes_away_between_two_statements_of_one_read_is_asked_again(
    tmp_path: Path, postgres: Postgres
) -> None:
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
    study.retry.word.say = said.append
    (trial,) = study.trials()
    assert ended and trial.params == claim.trial.params
    assert said[0].startswith("the study's storage is away (") and said[1] == "the study's storage answers again"
    sql.event.remove(database.engine, "before_cursor_execute", end)
    claim.hold.release()
    study.leases.close()
    database.engine.dispose()


def test_who_was_told_to_stop_has_an_end_whatever_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "_HURRIED_IN_ALL_S", 0.5)
    context = RetryPolicy(server_is_away)
    context.set_deadline()
    with pytest.raises(StorageInternalError, match="does not answer in time"):
        while True:
            context.ask(lambda: time.sleep(0.1))
