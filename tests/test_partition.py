"""Network partitions between machines and the study's database, while the machines train on and others take over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT, environment, wait_for
from forked import Forked
from partition import Network
from servers import MlflowServer, Postgres
from test_apart import check_runs
from test_storm import FLAGS, reached

from harness.tracking.spool import curves

pytestmark = [pytest.mark.slow, pytest.mark.service]

EPOCHS = 500  # a trial lasts longer than the grace
SHORT_GRACE = (
    f"import sys, runpy\nsys.path.insert(0, {str(ROOT)!r})\n"
    "import harness.storage.leases as leases\nleases.HEARTBEAT_S, leases.GRACE_S = 1.0, 14.0\n"
    "sys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name='__main__')\n"
)
"""A script that runs a search with more frequent heartbeats and a shorter grace."""


@pytest.fixture
def networks(postgres: Postgres) -> Iterator[dict[str, Network]]:
    """The networks between three machines and a database."""
    database = postgres.new_database("partition")
    made = {name: Network(database) for name in ("one", "two", "three")}
    yield made
    for network in made.values():
        network.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MlflowServer]:
    made = MlflowServer(tmp_path / "server")
    made.start()
    yield made
    made.stop()


def begin(folder: Path, server: MlflowServer, name: str, *arguments: str) -> Forked:
    """A search as another machine runs it, with a folder of its own; its output is in ``folder/<name>.txt``."""
    flags = (
        "--trials",
        "2",
        "--workers",
        "1",
        "--epochs",
        str(EPOCHS),
        "--tracking-uri",
        server.address,
        "--runs-dir",
        name,
    )
    script = folder / f"{name}.py"
    script.write_text(SHORT_GRACE)
    command = (script, str(ROOT / "search.py"), *FLAGS, *flags, *arguments)
    return Forked(*command, output=folder / f"{name}.txt", env=environment())


def trained(folder: Path, name: str, number: int) -> dict[int, float]:
    """The losses of a trial, as a machine has seen them."""
    return curves(folder / name / "trials" / "cancer" / str(number)).get("train/loss", {})


def test_partitioned_machines_lose_their_leases_and_stop_when_they_reconnect(
    lasting: Path, postgres: Postgres, server: MlflowServer, networks: dict[str, Network]
) -> None:
    searches = {name: begin(lasting, server, name, "--storage", networks[name].address) for name in networks}

    def holders() -> list[str]:
        found = [[name for name in searches if len(trained(lasting, name, number)) >= 5] for number in (0, 1)]
        return [names[0] for names in found if names]

    def said(name: str) -> str:
        return (lasting / f"{name}.txt").read_text()

    try:
        wait_for(lambda: len(set(holders())) == 2)
        first, second = holders()
        (heir,) = searches.keys() - {first, second}
        wait_for(lambda: "2 of the last trials are run elsewhere" in said(heir))
        networks[first].reset()
        networks[second].black_hole()
        alone = len(trained(lasting, first, 0))
        wait_for(lambda: len(trained(lasting, first, 0)) > alone)  # it trains on
        # The heir takes up either trial first, and trains it to its end before it takes up the other.
        wait_for(lambda: len(trained(lasting, heir, 0)) >= 20)
        networks[first].mend()
        wait_for(lambda: max(len(trained(lasting, other, 1)) for other in (first, heir)) >= 20)
        networks[second].mend()
        assert [search.wait(240) for search in searches.values()] == [0, 0, 0]
    finally:
        for search in searches.values():
            search.kill()
            search.wait()
        print(*map(said, searches), sep="\n")
    for number, name in enumerate((first, second)):
        assert f"trial {number} is interrupted: {number} was taken over while this worker was silent" in said(name)
        told = [trained(lasting, other, number) for other in searches if other != name]
        (inherited,) = filter(None, told)
        assert list(inherited) == list(range(EPOCHS))  # it began again, for they share no folder
        seen = trained(lasting, name, number)
        assert seen == {epoch: inherited[epoch] for epoch in range(len(seen))}
    assert [state for state, _, _ in reached(networks[heir].address).values()] == ["COMPLETE"] * 2
    check_runs(server, 2, EPOCHS)
