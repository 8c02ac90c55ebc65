"""``python -m harness confirm`` on a real study: once on the test split, resumed, in the report and in MLflow."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import EXAMPLE, ended, environment, load, search, wait_for
from forked import Forked
from mlflow import MlflowClient

pytestmark = pytest.mark.slow

PREFIX = "kd.retrained.confirm/"


def begun(folder: Path, *arguments: str) -> Forked:
    """The command, started in ``folder`` with one worker."""
    arguments = arguments if "--space" in arguments else ("--space", "cancer.py", *arguments)
    command = ("harness", "confirm", "--study", "cancer", "--workers", "1", *arguments)
    return Forked(*command, output=folder / "confirm.txt", env=environment())


def confirm(folder: Path, *arguments: str, expect: int = 0) -> str:
    return ended(begun(folder, *arguments), folder / "confirm.txt", expect=expect)


def results(folder: Path) -> dict[str, Any]:
    """The test scores of each run so far."""
    attrs = load(folder, "cancer").user_attrs
    return {name: value["metrics"]["test/accuracy"] for name, value in attrs.items() if name.startswith(PREFIX)}


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("searched")
    (folder / "cancer.py").write_text(EXAMPLE)
    search(folder, "--space", "cancer.py", "--trials", "3", "--epochs", "40")
    return folder


@pytest.fixture
def study(searched: Path, tmp_path: Path) -> Path:
    """A copy of the study, for what changes it."""
    return Path(shutil.copytree(searched, tmp_path / "copy"))


def test_picks_are_confirmed_in_the_report_and_in_mlflow_and_go_on_after_a_kill(study: Path) -> None:
    assert results(study) == {} and "kd.teacher_on_test" not in load(study, "cancer").user_attrs
    # Enough seeds that some are left when the kill comes.
    seeds = ("--seeds", "8")
    process = begun(study, *seeds)
    wait_for(lambda: len(results(study)) >= 1)
    process.kill()
    process.wait()
    before = results(study)
    output = confirm(study, *seeds)
    after = results(study)
    assert before.items() <= after.items() and len(after) > len(before)
    assert "Confirmed on the test split" in output
    assert "is confirmed with 8 seeds" in confirm(study, *seeds) and results(study) == after
    report = study / "mlruns" / "trials" / "cancer" / "report"
    table = pd.read_csv(report / "confirm.csv")
    assert set(table["verdict"]) <= {"gain", "no gain", "loss", "labels alone"}
    for _, row in table.iterrows():
        scores = [after[f"{PREFIX}{row['trial']}/student-{place}"] for place in range(8)]
        assert row["student"] == pytest.approx(sum(scores) / 8)
    assert "### Confirmed" in (report / "summary.md").read_text()
    client = MlflowClient(f"sqlite:///{study}/mlflow.db")
    runs = client.search_runs(["1"], "tags.kd.role = 'confirm'")
    assert len(runs) == len(after) and {run.info.status for run in runs} == {"FINISHED"}
    assert all("test/accuracy" in run.data.metrics and "accuracy" not in run.data.metrics for run in runs)
    # No trial has a word of the test split.
    trials = client.search_runs(["1"], "tags.kd.role = 'trial'")
    assert trials and not any(name.startswith("test") for run in trials for name in run.data.metrics)


def test_a_file_that_the_storage_names_is_not_run(study: Path) -> None:
    (study / "theirs.py").write_text(f"{EXAMPLE}\nopen('theirs.txt', 'w').close()\n")
    loaded = load(study, "cancer")
    theirs = str(study / "theirs.py")
    loaded.set_user_attr("kd.sources", {**loaded.user_attrs["kd.sources"], "space_file": theirs})
    command = ("harness", "confirm", "--study", "cancer", "--seeds", "2")
    process = Forked(*command, output=study / "confirm.txt", env=environment())
    assert f"by the storage it was {theirs}: see that it is yours." in ended(process, study / "confirm.txt", expect=2)
    assert not (study / "theirs.txt").exists()
    (study / "cancer.py").rename(study / "moved.py")
    shutil.rmtree(study / "mlruns" / "cache" / "teacher_outputs")
    assert "Two seeds say little" in confirm(study, "--seeds", "2", "--space", "moved.py")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(("--seeds", "1"), "must be a whole number of at least 2"), (("--study", "none"), "must hold study 'none'")],
)
def test_a_mistake_is_one_line(study: Path, arguments: tuple[str, ...], said: str) -> None:
    output = confirm(study, *arguments, expect=2)
    assert said in output and len(output.splitlines()) == 1


def test_it_works_only_where_the_studys_folder_is(study: Path) -> None:
    output = confirm(study, "--runs-dir", "elsewhere", expect=2)
    assert "was searched with another --runs-dir" in output


def test_a_space_that_is_another_one_by_now_is_refused(study: Path) -> None:
    (study / "other.py").write_text(EXAMPLE.replace("IntDistribution(1, 16", "IntDistribution(1, 8"))
    output = confirm(study, "--space", "other.py", expect=2)
    assert "must declare the space that study 'cancer' was created with" in output
