"""A search that is told to stop while its database is away: it stops in time, and everything can be gone on with."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import EXAMPLE, epochs_logged, search, wait_for
from servers import Postgres
from test_storm import FLAGS, begin, check_curves, reached
from test_workers import workers_of

pytestmark = [pytest.mark.slow, pytest.mark.service]


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
    search(folder, *FLAGS, "--trials", "6", "--workers", "2")
    return reached(f"sqlite:///{folder}/optuna.db")


def took_s(folder: Path, name: str, number: int, away: Callable[[], None], *arguments: str) -> float:
    """How long a search takes to end after a signal that it gets when its database has gone away."""
    process = begin(folder, name, "--trials", "6", *arguments)
    try:
        begun = len(reached_so_far(folder))
        wait_for(lambda: len(reached_so_far(folder)) > begun)
        crew = workers_of(process)
        away()
        wait_for(lambda: not any(map(_computes, (process.pid, *crew))))
        if crew:
            os.kill(crew[0], signal.SIGTERM)  # one of them alone is replaced
            wait_for(lambda: len(set(workers_of(process)) - set(crew)) == 1)
        began_s = time.monotonic()
        process.send_signal(number)
        assert process.wait(60) == 128 + number
        return time.monotonic() - began_s
    finally:
        process.kill()
        process.wait()
        print((folder / f"{name}.txt").read_text())


def reached_so_far(folder: Path) -> list[int]:
    """Trials that have begun."""
    return [number for number in range(6) if epochs_logged(folder, "cancer", number)]


@pytest.mark.parametrize(("how", "workers", "number"), [("gone", "2", signal.SIGINT), ("hung", "1", signal.SIGTERM)])
def test_a_search_that_is_told_to_stop_without_its_database_stops_in_time(
    example: Path, own_postgres: Postgres, undisturbed: dict[int, Any], how: str, workers: str, number: int
) -> None:
    server, storage = own_postgres, own_postgres.new_database("stopped")
    away, back = (server.stop, server.start) if how == "gone" else (server.pause, server.go_on)
    try:
        ended_s = took_s(example, "first", number, away, "--workers", workers, "--storage", storage)
    finally:
        back()
    assert ended_s < 15  # on a quiet machine, 2 s
    last = begin(example, "last", "--trials", "6", "--workers", "2", "--storage", storage)
    try:
        assert last.wait(120) == 0, (example / "last.txt").read_text()
    finally:
        last.kill()
        last.wait()
    assert reached(storage) == undisturbed
    check_curves(example, 6)


def _computes(pid: int) -> bool:
    """Whether a process has something to compute for a moment."""

    def used() -> int:
        return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]))

    before = used()
    time.sleep(0.5)
    return used() - before > 1
