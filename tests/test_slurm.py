"""A study on a real Slurm cluster of two nodes: an array, requeued, cut, preempted, its node lost."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import PATIENCE_S, README, ROOT, epochs_logged, epochs_of_checkpoint, wait_for
from forked import Forked
from servers import Postgres
from slurm_cluster import INSTALL, Cluster, missing
from test_storm import reached

from harness.tracking.spool import read_events

pytestmark = [pytest.mark.slow, pytest.mark.service]

LAUNCH = ("--space", "cancer.py", "--no-controls", "--pruner", "none", "--sampler", "random", "--launcher", "slurm")
LONG = 250  # epochs of a trial that is still running when it is looked at


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    if lacking := missing():
        reason = f"Slurm is not installed, {', '.join(lacking)} is missing: {INSTALL}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    # Of a short name: a socket's path has at most 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="kd-slurm-"))
    try:
        with Cluster(folder) as cluster:
            yield cluster
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def quiet(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster, with nothing on it before and after."""
    yield cluster
    cluster.cancel_all()


def start(cluster: Cluster, folder: Path, *arguments: str) -> Forked:
    return Forked(ROOT / "search.py", *LAUNCH, *arguments, output=folder / "output.txt", env=cluster.environment)


def ended(process: Forked, folder: Path, *, code: int = 0) -> str:
    """What a launcher printed that must end so."""
    try:
        found = process.wait(PATIENCE_S)
    finally:
        process.kill()
        process.wait()
    output = (folder / "output.txt").read_text()
    assert found == code, output + logs(folder)
    return output


def logs(folder: Path) -> str:
    return "".join(path.read_text() for path in sorted(folder.glob("mlruns/slurm/cancer/*_log.out")))


def is_whole(folder: Path, trials: int, epochs: int, storage: str = "") -> bool:
    """Whether so many trials were trained to the end, each once, without a gap or a repeat in its curve."""
    states = [state for state, _, _ in reached(storage or f"sqlite:///{folder}/optuna.db").values()]
    assert states == ["COMPLETE"] * trials
    for number in range(trials):
        events = read_events(folder / "mlruns" / "trials" / "cancer" / str(number) / "spool.jsonl")
        steps = [event["step"] for event in events if event["event"] == "metrics" and event["step"] is not None]
        assert steps == list(range(epochs)), number
    return True


def test_an_array_over_two_nodes_finishes_exactly_the_trials_asked_for(
    quiet: Cluster, example: Path, postgres: Postgres
) -> None:
    storage = postgres.new_database("array")
    flags = ("--trials", "12", "--epochs", "30", "--time", "10", "--storage", storage)
    process = start(quiet, example, "--nodes", "2", *flags)
    nodes = wait_for(lambda: len(jobs := quiet.jobs("running")) == 2 and set(jobs.values()))
    output = ended(process, example)
    assert nodes == {"n1", "n2"} and is_whole(example, 12, 30, storage)
    assert re.search(r"^slurm     job \d+, an array of 2$", output, re.MULTILINE)
    assert "12/12 trials" in output and "the Pareto front of accuracy ↑" in output and "tables and plots" in output
    told = re.findall(r"^trial (\d+) ", logs(example), re.MULTILINE)
    assert sorted(map(int, told)) == list(range(12))  # each by one worker, and every one
    assert not quiet.jobs()


def test_a_worker_that_is_requeued_and_one_that_loses_its_node_go_on(
    quiet: Cluster, lasting: Path, postgres: Postgres
) -> None:
    storage = postgres.new_database("requeued")
    flags = ("--trials", "2", "--epochs", str(LONG), "--time", "10", "--storage", storage)
    process = start(quiet, lasting, "--nodes", "2", *flags)
    wait_for(lambda: all(epochs_logged(lasting, "cancer", number) > 3 for number in (0, 1)))
    first, second = sorted(quiet.jobs("running"))
    quiet.run("scontrol", "requeue", first)
    wait_for(lambda: "stopped with 0 of 2 trials finished" in logs(lasting))
    node = quiet.jobs()[second]
    quiet.run("scontrol", "update", f"nodename={node}", "state=down", "reason=lost")
    wait_for(lambda: second not in quiet.jobs("running"))
    quiet.resume()
    ended(process, lasting)
    assert is_whole(lasting, 2, LONG, storage) and "was interrupted; it resumes after epoch" in logs(lasting)


def test_a_worker_that_its_time_limit_cuts_is_requeued_after_its_own_end(quiet: Cluster, lasting: Path) -> None:
    process = start(quiet, lasting, "--trials", "1", "--epochs", "2000", "--time", "10", "--detach")
    output = ended(process, lasting)
    (number,) = re.findall(r"^slurm     job (\d+)$", output, re.MULTILINE)
    assert re.search(r"^status    \S*python -m harness status --study cancer$", output, re.MULTILINE)
    assert f"cancel    scancel {number}" in output
    wait_for(lambda: epochs_logged(lasting, "cancer", 0) > 3)
    quiet.run("scontrol", "update", f"jobid={number}", "timelimit=1")  # Slurm gives warning, when it looks next
    wait_for(lambda: "Requeued job" in logs(lasting))
    quiet.run("scontrol", "update", f"jobid={number}", "timelimit=10")
    log = logs(lasting)
    assert "stopped with 0 of 1 trials finished and 1 more begun, which go on from their last checkpoints" in log
    assert log.index("nothing is lost") < log.index("Calling checkpoint method")
    assert "Traceback" not in log, log[log.index("Traceback") :]
    cut = epochs_of_checkpoint(lasting, "cancer", 0)
    wait_for(lambda: f"trial 0 was interrupted; it resumes after epoch {cut} of 2000" in logs(lasting))
    quiet.run("scancel", number)


def test_a_worker_whose_place_is_wanted_goes_on_and_ctrl_c_cancels_it(quiet: Cluster, lasting: Path) -> None:
    process = start(quiet, lasting, "--trials", "1", "--epochs", "2000")
    wait_for(lambda: epochs_logged(lasting, "cancer", 0) > 3)
    quiet.run("sbatch", "--partition=urgent", "--nodes=2", "--output=/dev/null", "--wrap=sleep 1")
    wait_for(lambda: "trial 0 was interrupted; it resumes after epoch" in logs(lasting))
    process.send_signal(signal.SIGINT)
    output = ended(process, lasting, code=130)
    assert re.search(r"cancelled job \d+; nothing is lost, and the same command goes on", output)
    wait_for(lambda: not quiet.jobs())
    assert logs(lasting).count("stopped with 0 of 1 trials finished and 1 more begun, which go on") == 2


def test_a_worker_that_is_requeued_does_not_count_its_time_anew(quiet: Cluster, lasting: Path) -> None:
    ended(start(quiet, lasting, "--trials", "1", "--epochs", "2000", "--timeout", "1", "--detach"), lasting)
    wait_for(lambda: epochs_logged(lasting, "cancer", 0) > 3)
    (number,) = quiet.jobs("running")
    quiet.run("scontrol", "requeue", number)
    wait_for(lambda: not quiet.jobs())
    assert (
        "the time is up with 0 of 1 trials finished and 1 more begun, which go on from their last checkpoints"
        in logs(lasting)
    )
    assert "it resumes after epoch" not in logs(lasting)
    assert epochs_logged(lasting, "cancer", 0) < 2000


def test_the_readme_s_own_script_is_requeued_when_it_is_told_to_stop(quiet: Cluster, lasting: Path) -> None:
    script = re.search(r"```sh\n(#!/bin/bash\n.*?)```", README, re.DOTALL)
    assert script is not None
    command = f"{sys.executable} {ROOT / 'search.py'} {' '.join(LAUNCH[:-2])} --epochs 2000"
    text = script[1].replace("--array=1-16", "--array=1-1").replace("python search.py", command)
    (lasting / "script.sh").write_text(text)
    number = quiet.run(
        "sbatch", "--parsable", f"--chdir={lasting}", f"--output={lasting}/log", str(lasting / "script.sh")
    ).strip()
    wait_for(lambda: epochs_logged(lasting, "cancer", 0) > 3)
    quiet.run("scancel", "--signal=TERM", number)
    wait_for(lambda: "trial 0 was interrupted; it resumes after epoch" in (lasting / "log").read_text())
    quiet.run("scancel", number)
    wait_for(lambda: not quiet.jobs())  # cancelled, it does not come back


def test_what_slurm_refuses_is_said_in_its_own_words(quiet: Cluster, example: Path) -> None:
    output = ended(start(quiet, example, "--partition", "nowhere"), example, code=2)
    assert output.startswith("error: Slurm refuses the jobs: ") and output.count("\n") == 1
    assert "nvalid partition name specified" in output
    output = ended(start(quiet, example, "--slurm", "qoss=high"), example, code=2)
    assert output.startswith("error: Slurm refuses the jobs: ") and "qoss" in output


def test_workers_that_all_fail_are_told_with_their_logs_and_without_a_password(quiet: Cluster, example: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    storage = f"postgresql+psycopg://me:s3cret@127.0.0.1:{port}/kd"
    process = start(quiet, example, "--trials", "1", "--storage", storage)
    wait_for(lambda: quiet.jobs("running"))
    shown = quiet.run("scontrol", "show", "job")
    output = ended(process, example, code=2)
    assert f"0 of 1 trials finished: --storage postgresql+psycopg://me:***@127.0.0.1:{port}/kd can't be used" in output
    assert f"(logs: {example}/mlruns/slurm/cancer/" in output and "the same command goes on" in output
    assert "s3cret" not in output + shown
    files = [path.read_bytes() for path in example.glob("mlruns/**/*") if path.is_file()]
    assert len(files) > 3 and not any(b"s3cret" in content for content in files)
