"""Leases as rows in PostgreSQL, beside those as locked files."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
import sqlalchemy as sql
from conftest import environment, wait_for
from servers import Postgres
from sqlalchemy.engine import Engine

from harness.core.errors import LeaseLost
from harness.storage import database_leases
from harness.storage.database_leases import DatabaseLeases, make_tables
from harness.storage.leases import Leases
from harness.storage.retry import server_is_away

pytestmark = pytest.mark.service


@pytest.fixture
def engine(postgres: Postgres, request: pytest.FixtureRequest) -> Iterator[Engine]:
    made = sql.create_engine(postgres.new_database(request.node.name[:60]))
    make_tables(made)
    yield made
    made.dispose()


@pytest.fixture
def workers(engine: Engine, tmp_path: Path) -> Iterator[tuple[DatabaseLeases, DatabaseLeases]]:
    made = DatabaseLeases(engine, "a", tmp_path), DatabaseLeases(engine, "a", tmp_path)
    yield made
    for one in made:
        one.close()


def on_another_host(leases: DatabaseLeases, name: str = "elsewhere") -> None:
    leases._host = name


def test_an_item_is_leased_to_one_worker_until_it_is_released(workers: tuple[DatabaseLeases, DatabaseLeases]) -> None:
    first, second = workers
    lease = first.acquire(["0", "1"])
    assert lease is not None and lease.item == "0"
    other = second.acquire(["0", "1"])
    assert other is not None and other.item == "1"
    assert second.acquire(["0"]) is None
    lease.release()
    again = second.acquire(["0"])
    assert again is not None and again.item == "0"


def test_leases_of_different_studies_are_independent(engine: Engine, tmp_path: Path) -> None:
    one, other = DatabaseLeases(engine, "a", tmp_path / "a"), DatabaseLeases(engine, "b", tmp_path / "b")
    assert one.acquire(["0"]) is not None and other.acquire(["0"]) is not None
    assert len(one.workers()) == len(other.workers()) == 1
    one.close()
    other.close()


def test_a_killed_worker_of_this_machine_loses_its_lease_at_once(
    workers: tuple[DatabaseLeases, DatabaseLeases], engine: Engine, tmp_path: Path
) -> None:
    code = (
        "import os, sys, sqlalchemy\nfrom pathlib import Path\n"
        "from harness.storage.database_leases import DatabaseLeases\n"
        "leases = DatabaseLeases(sqlalchemy.create_engine(sys.argv[1]), 'a', Path(sys.argv[2]))\n"
        "assert leases.acquire(['0']) is not None\nprint('taken', flush=True)\nsys.stdin.read()\n"
    )
    address = engine.url.render_as_string(hide_password=False)
    with subprocess.Popen(
        [sys.executable, "-c", code, address, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(),
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == b"taken\n"
        assert workers[0].acquire(["0"]) is None
        process.kill()
        process.wait()
    assert workers[0].acquire(["0"]) is not None
    assert len(workers[0].workers()) == 1  # the dead one's row is gone


def test_a_silent_worker_of_another_machine_loses_its_lease_and_finds_out(
    workers: tuple[DatabaseLeases, DatabaseLeases], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_leases, "HEARTBEAT_S", 0.2)
    monkeypatch.setattr(database_leases, "GRACE_S", 0.6)
    silent, other = workers
    on_another_host(silent)
    lease = silent.acquire(["0"])
    assert lease is not None
    silent._over.set()  # its heartbeat stops
    assert other.acquire(["0"]) is None  # the only item that is left; the other's heartbeat begins, and listens
    taken = _eventually(other, "0")
    assert taken
    with pytest.raises(LeaseLost, match="0 was taken over while this worker was silent"):
        lease.verify()
    with pytest.raises(LeaseLost):
        lease.report_progress(3)
    lease.release()  # which changes nothing of the other's
    assert [worker.item for worker in other.workers()] == ["0"]
    assert silent.acquire(["2"]) is not None  # it goes on as another worker


def test_a_worker_that_sends_heartbeats_keeps_its_lease(
    workers: tuple[DatabaseLeases, DatabaseLeases], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_leases, "HEARTBEAT_S", 0.1)
    monkeypatch.setattr(database_leases, "GRACE_S", 0.4)
    living, other = workers
    on_another_host(living)
    assert living.acquire(["0"]) is not None and other.acquire(["1"]) is not None
    threading.Event().wait(1.5)
    assert other.acquire(["0"]) is None


def test_silence_counts_only_while_others_listen(
    workers: tuple[DatabaseLeases, DatabaseLeases], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_leases, "HEARTBEAT_S", 0.2)
    monkeypatch.setattr(database_leases, "GRACE_S", 0.6)
    silent, other = workers
    on_another_host(silent)
    assert silent.acquire(["0"]) is not None and other.acquire([]) is None
    for one in workers:  # as in an outage: no heartbeat reaches the server
        one._over.set()
    threading.Event().wait(0.4)
    other._look()
    threading.Event().wait(1.0)
    other._look()  # the first look after it: nobody has had a chance to beat
    assert other.acquire(["0"]) is None


def test_a_worker_that_could_not_register_checks_again_that_the_study_was_not_moved(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    leases = DatabaseLeases(engine, "a", tmp_path, lambda: asked.append(1))
    begin = engine.begin

    def away() -> NoReturn:
        monkeypatch.setattr(engine, "begin", begin)
        raise sql.exc.OperationalError("insert", {}, Exception("server closed the connection"))

    monkeypatch.setattr(engine, "begin", away)
    with pytest.raises(sql.exc.OperationalError):
        leases.acquire([])
    assert leases.acquire([]) is None and len(asked) == 2 and len(leases.workers()) == 1
    assert leases.acquire(["0"]) is not None and len(asked) == 2
    leases.close()


def test_a_worker_may_acquire_its_own_lease_again(workers: tuple[DatabaseLeases, DatabaseLeases]) -> None:
    assert workers[0].acquire(["0"]) is not None
    assert workers[0].acquire(["0"]) is not None  # as where the answer to the first was lost with its connection


def test_a_forged_row_leads_to_no_other_folder(
    workers: tuple[DatabaseLeases, DatabaseLeases], engine: Engine, tmp_path: Path
) -> None:
    folder = tmp_path / "somebody's"
    folder.mkdir()
    (folder / "file").touch()
    for number, worker in enumerate(("a" * 32, "../../somebody's")):
        with engine.begin() as connection:
            row = {
                "worker": worker[:32],
                "study": "a",
                "host": database_leases.socket.gethostname(),
                "pid": 1,
                "began_s": 0,
            }
            row |= {"folder": str(folder), "beat_s": 1e12, "piece": str(number)}
            connection.execute(sql.insert(database_leases._WORKERS).values(row))
    assert workers[0].acquire(["0", "1"]) is None
    assert (folder / "file").exists() and len(list(folder.iterdir())) == 1


def _eventually(leases: Leases, item: str) -> bool:
    for _ in range(100):
        if leases.acquire([item]) is not None:
            return True
        threading.Event().wait(0.1)
    return False


@pytest.mark.parametrize("kind", ["database", "folder"])
def test_a_worker_that_is_kept_out_is_told_and_waits(kind: str, engine: Engine, tmp_path: Path) -> None:
    def opened() -> Leases:
        return DatabaseLeases(engine, "a", tmp_path) if kind == "database" else Leases(tmp_path)

    events: list[str] = []
    inside, leave = threading.Event(), threading.Event()

    def first() -> None:
        with opened().exclusive("claim"):
            inside.set()
            leave.wait()
            events.append("the first one leaves")

    def second() -> None:
        with opened().exclusive("claim", on_wait=lambda: (events.append("the second one waits"), leave.set())):
            events.append("the second one is alone")

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    threads[0].start()
    inside.wait()
    threads[1].start()
    for thread in threads:
        thread.join()
    assert events == ["the second one waits", "the first one leaves", "the second one is alone"]


def test_a_lock_whose_connection_was_lost_fails_its_check(engine: Engine, tmp_path: Path) -> None:
    one = DatabaseLeases(engine, "a", tmp_path)
    with one.exclusive("claim") as check:
        check()
        with engine.connect() as other:
            lost = "select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory'"
            other.execute(sql.text(lost))
        with pytest.raises(sql.exc.OperationalError):
            check()


def test_a_worker_stalled_in_a_claim_loses_the_lock_after_a_while(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_leases, "_STALLED_S", 0.5)
    stalled, other = (DatabaseLeases(engine, "a", tmp_path) for _ in range(2))
    with stalled.exclusive("claim", briefly=True) as check:
        with other.exclusive("claim", briefly=True):  # it waits until the server ends the first lock
            pass
        with pytest.raises(sql.exc.DBAPIError) as raised:
            check()
    assert server_is_away(raised.value)  # so it claims again
    with stalled.exclusive("claim") as check:  # what may last is not ended
        threading.Event().wait(1.0)
        check()


def test_a_worker_is_listed_with_its_item_and_progress(workers: tuple[DatabaseLeases, DatabaseLeases]) -> None:
    first, second = workers
    assert first.workers() == []
    lease = first.acquire(["controls/3"])
    assert lease is not None
    lease.report_progress(7)
    lease.verify()
    (seen,) = second.workers()
    assert (seen.item, seen.epochs, seen.is_silent) == ("controls/3", 7, False) and 0 <= seen.silent_s < 5
    first.close()
    assert second.workers() == []


def test_a_heartbeat_that_was_to_end_during_a_slow_answer_goes_on_for_the_next_lease(
    workers: tuple[DatabaseLeases, DatabaseLeases], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_leases, "HEARTBEAT_S", 0.1)
    monkeypatch.setattr(database_leases, "_COURTESY_S", 0.1)
    worker, asked, answer = workers[0], threading.Event(), threading.Event()
    look = worker._look

    def slow() -> None:
        asked.set()
        answer.wait()

    monkeypatch.setattr(worker, "_look", slow)
    worker.acquire(["0"])
    assert asked.wait(10)
    worker.close()
    monkeypatch.setattr(worker, "_look", look)
    worker.acquire(["1"])
    taken_s = worker._confirmed_s
    answer.set()
    wait_for(lambda: worker._confirmed_s > taken_s)


def test_a_lease_is_dated_by_the_server_s_clock(workers: tuple[DatabaseLeases, DatabaseLeases], engine: Engine) -> None:
    leases = [worker.acquire([str(number)]) for number, worker in enumerate(workers)]
    with engine.connect() as connection:
        now_s = connection.execute(sql.text("select extract(epoch from clock_timestamp())")).scalar_one()
    first, second = (lease.taken_ms for lease in leases if lease is not None)
    assert now_s * 1000 - 10_000 < first <= second <= now_s * 1000 + 1


def test_a_worker_whose_row_has_no_item_has_lost_its_lease(
    workers: tuple[DatabaseLeases, DatabaseLeases],
) -> None:
    first, second = workers
    lease = first.acquire(["0"])
    assert lease is not None
    first.release("0")  # a statement that was late, from when it had the item before
    assert second.acquire(["0"]) is not None
    with pytest.raises(LeaseLost):
        lease.verify()
    lease.release()
    assert first.acquire(["1"]) is not None and sorted(worker.item or "" for worker in first.workers()) == ["0", "1"]
