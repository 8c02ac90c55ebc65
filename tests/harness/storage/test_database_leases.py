"""Who works on what: rows in PostgreSQL, leases in folders."""

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
from harness.storage import database_leases as database_claims
from harness.storage.database_leases import DatabaseLeases, make_tables
from harness.storage.leases import FolderLeases, Leases
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


def on_another_host(claims: DatabaseLeases, name: str = "elsewhere") -> None:
    claims._host = name


def test_a_piece_is_one_workers_until_it_gives_it_back(workers: tuple[DatabaseLeases, DatabaseLeases]) -> None:
    first, second = workers
    found = first.take(["0", "1"])
    assert found is not None and found[0] == "0"
    other = second.take(["0", "1"])
    assert other is not None and other[0] == "1"
    assert second.take(["0"]) is None
    found[1].release()
    again = second.take(["0"])
    assert again is not None and again[0] == "0"


def test_studies_do_not_see_one_another(engine: Engine, tmp_path: Path) -> None:
    one, other = DatabaseLeases(engine, "a", tmp_path / "a"), DatabaseLeases(engine, "b", tmp_path / "b")
    assert one.take(["0"]) is not None and other.take(["0"]) is not None
    assert len(one.workers()) == len(other.workers()) == 1
    one.close()
    other.close()


def test_a_worker_of_this_machine_that_is_killed_loses_its_piece_at_once(
    workers: tuple[DatabaseLeases, DatabaseLeases], engine: Engine, tmp_path: Path
) -> None:
    code = (
        "import os, sys, sqlalchemy\nfrom pathlib import Path\n"
        "from harness.storage.database_leases import DatabaseLeases\n"
        "claims = DatabaseLeases(sqlalchemy.create_engine(sys.argv[1]), 'a', Path(sys.argv[2]))\n"
        "assert claims.take(['0']) is not None\nprint('taken', flush=True)\nsys.stdin.read()\n"
    )
    address = engine.url.render_as_string(hide_password=False)
    with subprocess.Popen(
        [sys.executable, "-c", code, address, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(),
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == b"taken\n"
        assert workers[0].take(["0"]) is None
        process.kill()
        process.wait()
    assert workers[0].take(["0"]) is not None
    assert len(workers[0].workers()) == 1  # the dead one's row is gone


def test_a_silent_worker_of_another_machine_loses_its_piece_and_is_told_so(
    workers: tuple[DatabaseLeases, DatabaseLeases], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_claims, "BEAT_S", 0.2)
    monkeypatch.setattr(database_claims, "GRACE_S", 0.6)
    silent, other = workers
    on_another_host(silent)
    found = silent.take(["0"])
    assert found is not None
    silent._over.set()  # its heart stops
    assert other.take(["0"]) is None  # the only piece that is left; other's heart begins, and listens
    taken = _eventually(other, "0")
    assert taken
    with pytest.raises(LeaseLost, match="0 was taken over while this worker was silent"):
        found[1].verify()
    with pytest.raises(LeaseLost):
        found[1].confirm(3)
    found[1].release()  # which changes nothing of the other's
    assert [worker.piece for worker in other.workers()] == ["0"]
    assert silent.take(["2"]) is not None  # it goes on as another worker


def test_a_worker_that_beats_keeps_its_piece(
    workers: tuple[DatabaseLeases, DatabaseLeases], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_claims, "BEAT_S", 0.1)
    monkeypatch.setattr(database_claims, "GRACE_S", 0.4)
    living, other = workers
    on_another_host(living)
    assert living.take(["0"]) is not None and other.take(["1"]) is not None
    threading.Event().wait(1.5)
    assert other.take(["0"]) is None


def test_silence_counts_only_while_it_is_listened_for(
    workers: tuple[DatabaseLeases, DatabaseLeases], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_claims, "BEAT_S", 0.2)
    monkeypatch.setattr(database_claims, "GRACE_S", 0.6)
    silent, other = workers
    on_another_host(silent)
    assert silent.take(["0"]) is not None and other.take([]) is None
    for one in workers:  # as in an outage: no heart reaches the server
        one._over.set()
    threading.Event().wait(0.4)
    other._look()
    threading.Event().wait(1.0)
    other._look()  # the first look after it: nobody has had a chance to beat
    assert other.take(["0"]) is None


def test_who_could_not_enter_asks_again_whether_the_study_is_here(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    claims = DatabaseLeases(engine, "a", tmp_path, lambda: asked.append(1))
    begin = engine.begin

    def away() -> NoReturn:
        monkeypatch.setattr(engine, "begin", begin)
        raise sql.exc.OperationalError("insert", {}, Exception("server closed the connection"))

    monkeypatch.setattr(engine, "begin", away)
    with pytest.raises(sql.exc.OperationalError):
        claims.take([])
    assert claims.take([]) is None and len(asked) == 2 and len(claims.workers()) == 1
    assert claims.take(["0"]) is not None and len(asked) == 2
    claims.close()


def test_a_worker_that_has_a_piece_already_may_take_it_again(workers: tuple[DatabaseLeases, DatabaseLeases]) -> None:
    assert workers[0].take(["0"]) is not None
    assert workers[0].take(["0"]) is not None  # as where the answer to the first was lost with its connection


def test_a_row_that_somebody_forged_leads_to_no_other_folder(
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
                "host": database_claims.socket.gethostname(),
                "pid": 1,
                "began_s": 0,
            }
            row |= {"folder": str(folder), "beat_s": 1e12, "piece": str(number)}
            connection.execute(sql.insert(database_claims._WORKERS).values(row))
    assert workers[0].take(["0", "1"]) is None
    assert (folder / "file").exists() and len(list(folder.iterdir())) == 1


def _eventually(claims: Leases, piece: str) -> bool:
    for _ in range(100):
        if claims.take([piece]) is not None:
            return True
        threading.Event().wait(0.1)
    return False


@pytest.mark.parametrize("kind", ["database", "folder"])
def test_whoever_is_kept_out_is_told_and_waits(kind: str, engine: Engine, tmp_path: Path) -> None:
    def opened() -> Leases:
        return DatabaseLeases(engine, "a", tmp_path) if kind == "database" else FolderLeases(tmp_path)

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


def test_a_lock_whose_connection_was_lost_says_so(engine: Engine, tmp_path: Path) -> None:
    one = DatabaseLeases(engine, "a", tmp_path)
    with one.exclusive("claim") as check:
        check()
        with engine.connect() as other:
            lost = "select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory'"
            other.execute(sql.text(lost))
        with pytest.raises(sql.exc.OperationalError):
            check()


def test_who_is_stalled_in_the_middle_of_a_claim_holds_up_nobody_for_long(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_claims, "_STALLED_S", 0.5)
    stalled, other = (DatabaseLeases(engine, "a", tmp_path) for _ in range(2))
    with stalled.exclusive("claim", briefly=True) as check:
        with other.exclusive("claim", briefly=True):  # it waits until the server ends the first one
            pass
        with pytest.raises(sql.exc.DBAPIError) as raised:
            check()
    assert server_is_away(raised.value)  # so it claims anew
    with stalled.exclusive("claim") as check:  # what may last is not ended
        threading.Event().wait(1.0)
        check()


def test_how_a_worker_is_seen(workers: tuple[DatabaseLeases, DatabaseLeases]) -> None:
    first, second = workers
    assert first.workers() == []
    found = first.take(["controls/3"])
    assert found is not None
    found[1].confirm(7)
    found[1].verify()
    (seen,) = second.workers()
    assert (seen.piece, seen.epochs, seen.is_silent) == ("controls/3", 7, False) and 0 <= seen.silent_s < 5
    first.close()
    assert second.workers() == []


def test_a_worker_whose_heart_was_asked_to_end_amid_a_slow_answer_beats_again(
    workers: tuple[DatabaseLeases, DatabaseLeases], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_claims, "BEAT_S", 0.1)
    monkeypatch.setattr(database_claims, "_LAST_WORD_S", 0.1)
    worker, asked, answer = workers[0], threading.Event(), threading.Event()
    look = worker._look

    def slow() -> None:
        asked.set()
        answer.wait()

    monkeypatch.setattr(worker, "_look", slow)
    worker.take(["0"])
    assert asked.wait(10)
    worker.close()
    monkeypatch.setattr(worker, "_look", look)
    worker.take(["1"])
    taken_s = worker._confirmed_s
    answer.set()
    wait_for(lambda: worker._confirmed_s > taken_s)


def test_a_hold_is_as_old_as_the_server_says(workers: tuple[DatabaseLeases, DatabaseLeases], engine: Engine) -> None:
    holds = [worker.take([str(number)]) for number, worker in enumerate(workers)]
    with engine.connect() as connection:
        now_s = connection.execute(sql.text("select extract(epoch from clock_timestamp())")).scalar_one()
    first, second = (found[1].taken_ms for found in holds if found is not None)
    assert now_s * 1000 - 10_000 < first <= second <= now_s * 1000 + 1


def test_a_worker_that_is_known_without_its_piece_has_lost_it(
    workers: tuple[DatabaseLeases, DatabaseLeases],
) -> None:
    first, second = workers
    found = first.take(["0"])
    assert found is not None
    first.release("0")  # a word that was late, from when it had the piece before
    assert second.take(["0"]) is not None
    with pytest.raises(LeaseLost):
        found[1].verify()
    found[1].release()
    assert first.take(["1"]) is not None and sorted(worker.piece or "" for worker in first.workers()) == ["0", "1"]
