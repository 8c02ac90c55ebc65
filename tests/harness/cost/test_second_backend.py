"""A cost backend is one file: a second one, dropped into its folder, stands wherever metrics do."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT, ended, environment, load
from forked import Forked
from mlflow import MlflowClient

BACKEND = '''\
"""TorchScript: latency of a network as it is traced, without Python."""

from __future__ import annotations

from dataclasses import replace

from harness.core.metric import Metric
from harness.cost.base import Conditions


class TorchScript:
    name = "torch_script"
    version = 1
    metrics = (
        Metric("script_latency_p50_ms", "minimize", unit="ms", label="TorchScript p50", is_timed=True),
    )

    def conditions(self, device):
        from harness.cost.latency import device_name

        return Conditions(device_name(device), throughput_batch=1, runtime="TorchScript")

    def fit_conditions(self, conditions, networks, inputs, *, rounds, limit_s):
        return conditions

    def measure(self, networks, inputs, *, conditions, rounds, limit_s, on_round, least):
        import numpy as np
        import torch

        from harness.cost.latency import measure_rounds

        rounds.choose_batch(1)
        traced = {name: torch.jit.trace(network.eval(), inputs(1)) for name, network in networks.items()}
        measure_rounds(
            traced,
            inputs,
            rounds,
            latency_batch=1,
            threads=conditions.threads,
            limit_s=limit_s,
            on_round=on_round,
            least=least,
        )
        return {
            name: {"script_latency_p50_ms": float(np.median(np.concatenate(rounds.calls[name]))) * 1e3}
            for name in networks
        }


BACKEND = TorchScript()
'''
NAME = "script_latency_p50_ms"

Search = Callable[..., str]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the program with one file more."""
    folder = tmp_path_factory.mktemp("program")
    shutil.copy(ROOT / "search.py", folder)
    for layer in ("harness", "lightning_modules", "search_spaces"):
        shutil.copytree(ROOT / layer, folder / layer, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "harness" / "cost" / "backends" / "torch_script.py").write_text(BACKEND)
    return folder


@pytest.fixture
def search(program: Path, example: Path) -> Search:
    """Searches the README's example with that program."""

    def run(*arguments: str, expect: int = 0) -> str:
        fixed = ("--space", "cancer.py", "--epochs", "1", "--workers", "1", "--min", "none", "--no-controls")
        output = example / "output.txt"
        process = Forked(program / "search.py", *fixed, *arguments, output=output, env=_environment(program))
        return ended(process, output, expect=expect)

    return run


def test_its_metric_stands_in_the_help_which_imports_no_torch(program: Path) -> None:
    code = (
        "import sys; sys.argv = ['search.py', '--help']\n"
        "import search, harness.cli.search\n"
        "try: harness.cli.search.parse_search()\n"
        "except SystemExit: assert 'torch' not in sys.modules\n"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code],
        cwd=program,
        env=_environment(program),
        capture_output=True,
        text=True,
        check=True,
    )
    words = " ".join(shown.stdout.split())
    assert re.search(rf"what spans the front \(.*; also [^)]*{NAME}", words)
    assert re.search(rf"may be repeated \([^)]*{NAME}", words)


@pytest.mark.slow
def test_its_metric_is_a_cost_an_objective_and_a_column(search: Search, example: Path) -> None:
    output = search("--trials", "2", "--objectives", f"accuracy,{NAME}")
    assert f"the Pareto front of accuracy ↑, {NAME} ↓" in output
    assert re.search(r"torch \S+ eager, p50 of .*; .* TorchScript, p50 of", output)

    study = load(example, "cancer")
    table = json.loads(study.user_attrs["kd.costs"])
    assert table["conditions"].keys() == {"torch_eager", "torch_script"}
    students = table["students"]
    assert len(students) == 16 and table["teacher"][NAME] > 0
    for trial in study.trials:
        costs = students[json.dumps({"width": trial.params["width"]})]
        assert trial.values[1] == trial.user_attrs["metrics"][NAME] == costs[NAME] > 0
        assert trial.user_attrs["metrics"]["latency_p50_ms"] == costs["latency_p50_ms"]

    report = example / "mlruns" / "trials" / "cancer" / "report"
    with (report / "trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row[NAME]) for row in rows] == pytest.approx([trial.values[1] for trial in study.trials])
    assert '"text":"TorchScript p50 (ms)"' in (report / "front.html").read_text()
    client = MlflowClient(f"sqlite:///{example}/mlflow.db")
    experiment = client.get_experiment_by_name("kd-cancer")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.kd.role = 'trial'")
    assert sorted(run.data.metrics[NAME] for run in runs) == pytest.approx(sorted(t.values[1] for t in study.trials))


@pytest.mark.slow
def test_its_metric_is_a_budget(search: Search, example: Path) -> None:
    said = search("--trials", "1", "--max", f"{NAME}=0.000001", expect=2)
    assert f"--max must leave a student to be trained, but none is within {NAME}=1e-06" in said
    search("--trials", "1", "--study", "s", "--max", f"{NAME}=1000")
    assert load(example, "s").trials[0].user_attrs["metrics"][NAME] <= 1000


def _environment(program: Path) -> dict[str, str]:
    return {**environment(), "PYTHONPATH": str(program), "COLUMNS": "160"}
