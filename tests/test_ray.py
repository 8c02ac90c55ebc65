"""A study on a real Ray cluster of several nodes on this host."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import PATIENCE_S, ROOT, environment, epochs_logged, load, wait_for
from forked import Forked

from harness.tracking.spool import read_events

pytestmark = [pytest.mark.slow, pytest.mark.service]

LAUNCH = ("--space", "cancer.py", "--no-controls", "--pruner", "none", "--sampler", "random", "--launcher", "ray")
LONG = 120  # epochs of a trial that is still running when its node is lost


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head without room for workers."""
    try:
        from ray.cluster_utils import Cluster
    except ImportError:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip("Ray is not installed: pip install -e '.[ray]'")
    for name, value in environment().items():  # its nodes inherit it
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RAY_health_check_period_ms", "1000")  # or a node that is lost is looked for half a minute
    monkeypatch.setenv("RAY_health_check_failure_threshold", "3")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        yield cluster
    finally:
        cluster.shutdown()


def start(folder: Path, *arguments: str) -> Forked:
    return Forked(ROOT / "search.py", *LAUNCH, *arguments, output=folder / "output.txt", env=environment())


def ended(process: Forked, folder: Path, *, code: int = 0) -> str:
    try:
        found = process.wait(PATIENCE_S)
    finally:
        process.kill()
        process.wait()
    output = (folder / "output.txt").read_text()
    assert found == code, output + logs(folder)
    return output


def logs(folder: Path) -> str:
    return "".join(path.read_text() for path in sorted(folder.glob("mlruns/ray/*/worker-*.log")))


def test_a_worker_that_is_lost_with_its_node_goes_on_on_another(cluster: Any, lasting: Path) -> None:
    lost = cluster.add_node(num_cpus=1)
    process = start(lasting, "--ray-address", cluster.address, "--trials", "2", "--epochs", str(LONG))
    wait_for(lambda: epochs_logged(lasting, "cancer", 0) > 3)
    cluster.remove_node(lost, allow_graceful=False)
    cluster.add_node(num_cpus=1)  # after it: a node takes seconds to start, and the trial would be over
    output = ended(process, lasting)
    assert [trial.state.name for trial in load(lasting, "cancer").trials] == ["COMPLETE"] * 2
    for number in (0, 1):
        events = read_events(lasting / "mlruns" / "trials" / "cancer" / str(number) / "spool.jsonl")
        steps = [event["step"] for event in events if event["event"] == "metrics" and event["step"] is not None]
        assert steps == list(range(LONG))
    assert "trial 0 was interrupted; it resumes after epoch" in logs(lasting)
    assert re.search(r"^ray       kd-cancer-\w+, a task$", output, re.MULTILINE) and "2/2 trials" in output
    assert f"logs      {lasting}/mlruns/ray/kd-cancer-" in output and "the Pareto front of accuracy ↑" in output


def test_detached_workers_go_on_alone_and_are_cancelled_by_the_command_that_is_shown(
    cluster: Any, lasting: Path
) -> None:
    cluster.add_node(num_cpus=2)
    process = start(
        lasting, "--ray-address", cluster.address, "--workers", "2", "--trials", "2", "--epochs", "2000", "--detach"
    )
    output = ended(process, lasting)
    assert re.search(r"^status    \S*python -m harness status --study cancer$", output, re.MULTILINE)
    wait_for(lambda: all(epochs_logged(lasting, "cancer", number) > 3 for number in (0, 1)))
    (code,) = re.findall(r'^cancel    python -c "(.*)"$', output, re.MULTILINE)
    subprocess.run([sys.executable, "-c", code], env=environment(), check=True, capture_output=True, timeout=60)
    wait_for(lambda: logs(lasting).count("stopped with 0 of 2 trials finished and ") == 2)
    assert "Traceback" not in logs(lasting)


def test_ctrl_c_cancels_the_tasks(cluster: Any, lasting: Path) -> None:
    cluster.add_node(num_cpus=1)
    process = start(lasting, "--ray-address", cluster.address, "--trials", "1", "--epochs", "2000")
    wait_for(lambda: epochs_logged(lasting, "cancer", 0) > 3)
    process.send_signal(signal.SIGINT)
    output = ended(process, lasting, code=130)
    assert re.search(r"cancelled kd-cancer-\w+, a task; nothing is lost, and the same command goes on", output)
    wait_for(lambda: "stopped with 0 of 1 trials finished and 1 more begun, which go on" in logs(lasting))


def test_a_cluster_that_is_none_is_said(cluster: Any, example: Path) -> None:
    output = ended(start(example, "--ray-address", "127.0.0.1:1"), example, code=2)
    assert output.splitlines()[-1].startswith("error: --ray-address must be a Ray cluster that runs, but 127.0.0.1:1 ")
