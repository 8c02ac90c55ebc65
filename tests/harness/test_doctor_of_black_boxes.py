"""The doctor examines a teacher that is no PyTorch network as far as that has a meaning, and says what has none."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT
from rich.console import Console
from sklearn.datasets import load_digits

from harness.doctor import diagnose
from harness.doctor.check import Finding
from harness.screen.terminal import Terminal
from harness.settings import Settings

pytestmark = pytest.mark.slow

NO_NETWORK = "not checked, for the teacher is no PyTorch network: it is asked, and never trained by gradients"
TREES, ANSWERS = (ROOT / "examples" / f"{name}.py" for name in ("trees_teach_a_perceptron", "outputs_in_a_file"))


def findings(folder: Path, file: Path, *teachers: Path) -> dict[str, Finding]:
    settings = Settings(
        space_name="s", space_file=file, study="s", runs_dir=folder / "mlruns", accelerator="cpu", teachers=teachers
    )
    return {one.name: one for one in diagnose(settings, Terminal(Console(file=io.StringIO())))}


def test_an_estimator_is_fitted_to_the_sample_and_asked(tmp_path: Path) -> None:
    found = findings(tmp_path, TREES)
    assert not [one for one in found.values() if one.state == "FAILED"]
    assert found["teacher"].found.startswith("a SklearnTeacher, no PyTorch network; HistGradientBoostingClassifier is")
    assert found["teacher learns"].found == found["teacher in eval"].found == NO_NETWORK
    assert found["teacher steady"].state == found["stored outputs"].state == found["gradients"].state == "ok"
    assert not list(tmp_path.glob("**/*.skops"))  # nothing is written


def answers(folder: Path) -> pd.DataFrame:
    labels = load_digits(return_X_y=True)[1]
    names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    table = pd.get_dummies(labels).set_axis(list(names), axis=1) * 0.8 + 0.02
    return table.assign(id=[f"scan-{place}" for place in range(len(labels))])


def test_outputs_in_a_file_are_joined_and_not_asked_again(tmp_path: Path) -> None:
    answers(tmp_path).to_csv(tmp_path / "answers.csv", index=False)
    found = findings(tmp_path, ANSWERS, tmp_path / "answers.csv")
    assert not [one for one in found.values() if one.state == "FAILED"]
    once = "not checked, for all that is known of the teacher are its answers: it is not asked again"
    assert found["teacher steady"].found == found["stored outputs"].found == once
    assert found["teacher knows"].found.startswith("accuracy 1.0000 on 128 validation samples")
    assert found["gradients"].state == "ok"


def test_outputs_that_do_not_fit_fail_with_what_is_missing(tmp_path: Path) -> None:
    answers(tmp_path)[5:].to_csv(tmp_path / "answers.csv", index=False)
    found = findings(tmp_path, ANSWERS, tmp_path / "answers.csv")
    assert found["teacher"].state == "FAILED" and "no row for" in found["teacher"].found
    assert "'scan-" in found["teacher"].found
