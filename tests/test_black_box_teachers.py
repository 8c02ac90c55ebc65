"""The command with teachers that are no PyTorch network: the examples, mixed ensembles, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT, engine, environment, load, search
from forked import Forked
from mlflow import MlflowClient
from test_bad_input import refused

pytestmark = pytest.mark.slow

TREES, ANSWERS, KERAS = (
    ROOT / "examples" / f"{name}.py" for name in ("trees_teach_a_perceptron", "outputs_in_a_file", "keras_teaches")
)
TURNED = '''
"""Digits, for a teacher in a file that knows pictures with their channels last."""

from dataclasses import replace

from search_spaces.digits import SPACE as DIGITS
from search_spaces.digits import Digits


class ChannelsLast(Digits):
    def teacher_inputs(self, inputs):
        return inputs.permute(0, 2, 3, 1).numpy()


SPACE = replace(DIGITS, task=ChannelsLast())
'''
SMALL = ("--epochs", "2", "--min", "none", "--controls", "none", "--fix", "width=8", "--recipe", "none")
OF_THE_TEACHER = ("compression", "speedup")


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of outputs, as the example writes it."""
    file = tmp_path_factory.mktemp("answers") / "answers.parquet"
    subprocess.run([sys.executable, ANSWERS, file], env=environment(), check=True)
    return file


@pytest.mark.parametrize("file", [TREES, ANSWERS, KERAS])
def test_the_examples_are_short(file: Path) -> None:
    assert len(file.read_text().splitlines()) < 60


def test_trees_teach_and_are_not_fitted_again(tmp_path: Path) -> None:
    command = ("--space", str(TREES), "--study", "trees", *SMALL)
    first = search(tmp_path, *command, "--trials", "1")
    fitted = "HistGradientBoostingClassifier is fitted on 1,077 training rows; what it says of these is out of fold"
    assert fitted in first and "1 architecture and the teacher on" in first
    compared = "the latency of the teacher is that of scikit-learn as Python calls it, and students' that of eager"
    assert first.count(compared) == 2  # at the start, and beneath the result
    again = search(tmp_path, *command, "--trials", "2")
    assert "is fitted" not in again and "2/2 done" in again
    study = load(tmp_path, "trees")
    teacher = study.user_attrs["kd.teacher"]
    assert teacher["accuracy"] > 0.9 and teacher["latency_p50_ms"] > 0 and not {"parameters", "macs"} & teacher.keys()
    metrics = study.trials[0].user_attrs["metrics"]
    assert metrics["speedup"] > 1 and "compression" not in metrics
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (run,) = client.search_runs(["1"], "tags.kd.role = 'teacher'")
    assert run.info.status == "FINISHED" and run.data.metrics["accuracy"] == pytest.approx(teacher["accuracy"])


def test_a_file_of_outputs_teaches_and_nothing_is_compared_with_costs_that_nobody_knows(
    tmp_path: Path, answers: Path
) -> None:
    command = ("--space", str(ANSWERS), "--study", "answers", *SMALL)
    output = search(tmp_path, *command, "--teacher", str(answers), "--trials", "2")
    assert "its costs are not known" in output and "1 architecture on" in output
    assert "faster" not in output and "smaller" not in output and "nan" not in output.lower()
    study = load(tmp_path, "answers")
    held = {"latency_p50_ms", "parameters", "macs", "size_mb", *OF_THE_TEACHER}
    assert not held & study.user_attrs["kd.teacher"].keys()
    for trial in study.trials:
        assert not set(OF_THE_TEACHER) & trial.user_attrs["metrics"].keys()
    trials = pd.read_csv(tmp_path / "mlruns" / "trials" / "answers" / "report" / "trials.csv")
    assert not set(OF_THE_TEACHER) & set(trials.columns) or trials[list(OF_THE_TEACHER)].isna().all(axis=None)
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    for run in client.search_runs(["1"]):
        assert not set(OF_THE_TEACHER) & run.data.metrics.keys()
    # Other answers are another teacher.
    other = pd.read_parquet(answers)
    other.loc[0, other.columns[1:]] = 0.1
    other.to_parquet(tmp_path / "other.parquet")
    error = refused(tmp_path, *command, "--teacher", "other.parquet", "--trials", "3")
    assert "study 'answers' was begun with other teacher" in error
    # What is confirmed is asked of the test split.
    confirm = Forked(
        "harness", "confirm", "--study", "answers", "--space", str(ANSWERS), "--seeds", "2", "--workers", "1",
        "--controls", "plain", output=tmp_path / "confirm.txt", env=environment(),
    )  # fmt: skip
    assert confirm.wait(600) == 0, (tmp_path / "confirm.txt").read_text()
    assert "The teacher's accuracy there is 0.9" in (tmp_path / "confirm.txt").read_text()


ASKING = """
import torch
from harness.teachers import FunctionTeacher


def ask(inputs):
    with open("asked.txt", "a") as file:
        file.write(f"{len(inputs)}\\n")
    return torch.nn.functional.one_hot((inputs.sum(1) % 10).long(), 10) * 0.9 + 0.01


class FromAFile(Task):
"""


def test_a_function_is_asked_once_for_every_sample(tmp_path: Path) -> None:
    text = ANSWERS.read_text().replace("class FromAFile(Task):\n", ASKING.lstrip())
    given = 'return FunctionTeacher(ask, digest="by the sum, 1", kind="probabilities")'
    (line,) = (line for line in text.splitlines() if line.strip().startswith("raise ValueError("))
    (tmp_path / "asking.py").write_text(text.replace(line, f"        {given}"))
    command = ("--space", "asking.py", *SMALL)
    output = search(tmp_path, *command, "--trials", "1")
    assert "its costs are not known" in output
    search(tmp_path, *command, "--trials", "2")
    assert sum(map(int, (tmp_path / "asked.txt").read_text().split())) == 1_077 + 360
    renamed = (tmp_path / "asking.py").read_text().replace("by the sum, 1", "by the sum, 2")
    (tmp_path / "asking.py").write_text(renamed)
    search(tmp_path, *command, "--trials", "3", "--accept-changes")  # by another name, it is another teacher
    assert sum(map(int, (tmp_path / "asked.txt").read_text().split())) == 2 * (1_077 + 360)


def test_a_space_too_large_to_be_measured_beforehand_needs_no_teacher_with_costs(tmp_path: Path, answers: Path) -> None:
    text, narrow = ANSWERS.read_text(), "IntDistribution(4, 64, log=True)"
    assert narrow in text
    (tmp_path / "wide.py").write_text(text.replace(narrow, "IntDistribution(4, 600, log=True)"))
    command = ("--epochs", "1", "--min", "none", "--controls", "none", "--trials", "1", "--max", "parameters=9000")
    output = search(tmp_path, "--space", "wide.py", "--teacher", str(answers), *command)
    assert "students: p50 of at least 5 rounds" in output and "teacher: ;" not in output and "1/1 done" in output


def test_a_keras_network_teaches(tmp_path: Path) -> None:
    if find_spec("tensorflow") is None:
        pytest.skip("pip install 'tensorflow>=2.19'")
    run = {"cwd": tmp_path, "env": environment(), "check": True, "capture_output": True, "text": True}
    subprocess.run([sys.executable, KERAS, "digits.keras"], **run)  # type: ignore[call-overload]
    command = ("--space", str(KERAS), "--study", "keras", "--trials", "2", "--workers", "2", *SMALL)
    output = search(tmp_path, *command, "--max", "parameters=4000")
    assert "digits.keras answers with probabilities: their logarithms are stored as its logits" in output
    assert "2/2 done" in output and load(tmp_path, "keras").user_attrs["kd.teacher"]["parameters"] == 5930
    assert "its channels are last" in refused(tmp_path, "--teacher", "digits.keras", "--study", "flat")
    (tmp_path / "turned.py").write_text(TURNED)
    flags = ("--study", "turned", "--trials", "1", *SMALL, "--max", "parameters=4000")
    output = search(tmp_path, "--space", "turned.py", "--teacher", "digits.keras", *flags)
    same, turned = (load(tmp_path, name).user_attrs["kd.teacher"] for name in ("keras", "turned"))
    assert "1/1 done" in output and turned["accuracy"] == same["accuracy"]


def test_a_mixed_ensemble_has_no_costs_that_one_of_it_lacks(tmp_path: Path, answers: Path) -> None:
    reversed_rows = pd.read_parquet(answers)[::-1]
    names = [name for name in reversed_rows.columns if name != "id"]
    reversed_rows[names] = reversed_rows[names] * 0.9 + 0.01
    reversed_rows.to_csv(tmp_path / "others.csv", index=False)
    command = ("--space", str(ANSWERS), "--study", "both", *SMALL, "--trials", "1", "--teacher", str(answers))
    output = search(tmp_path, *command, "--teacher", "others.csv")
    assert "ensemble  accuracy 0.9" in output and output.count("its costs are not known") == 3
    error = refused(tmp_path, *command, "--teacher", str(answers), "--study", "twice")
    assert "--teacher must name teachers that differ" in error


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--objectives", "accuracy,speedup"), "there is no speedup of a teacher that has no known latency"),
        (("--objectives", "accuracy,compression"), "there is no compression of a teacher that has no parameters"),
    ],
)
def test_what_is_not_known_is_no_objective(tmp_path: Path, answers: Path, more: tuple[str, ...], told: str) -> None:
    assert told in refused(tmp_path, "--space", str(ANSWERS), "--teacher", str(answers), *SMALL, *more)


def test_a_checkpoint_fills_no_teacher_that_is_no_network(tmp_path: Path) -> None:
    (tmp_path / "some.pt").write_text("")
    error = refused(tmp_path, "--space", str(TREES), "--teacher", "some.pt", *SMALL)
    assert "must be of a network that teacher() builds, but that gives a SklearnTeacher" in error


@pytest.mark.parametrize(
    ("space", "estimator", "told"),
    [
        ("diabetes", "HistGradientBoostingRegressor(max_iter=20)", "errs by "),
        ("digit_traits", "RandomForestClassifier(20)", "right labels"),
    ],
)
def test_trees_teach_numbers_and_several_labels(tmp_path: Path, space: str, estimator: str, told: str) -> None:
    text = (ROOT / "search_spaces" / f"{space}.py").read_text()
    start, end = text.index("    def teacher"), text.index("    def student")
    teacher = f"    def teacher(self) -> Any:\n        return SklearnTeacher({estimator})\n\n"
    name = estimator.partition("(")[0]
    imports = f"from sklearn.ensemble import {name}\nfrom harness.teachers import SklearnTeacher\n"
    head, marker, rest = (text[:start] + teacher + text[end:]).partition("import torch\n")
    (tmp_path / "trees.py").write_text(head + imports + marker + rest)
    small = ("--epochs", "2", "--min", "none", "--controls", "none", "--trials", "1")
    output = search(tmp_path, "--space", "trees.py", "--study", "trees", *small)
    assert "what it says of these is out of fold, 5 folds;" in output and "1/1 done" in output and told in output
    assert "FAILED" not in engine(tmp_path, "doctor", "--space", "trees.py")
