"""The command with several teachers, with a student as a teacher, and with recipes that are asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import EXAMPLE, load, search
from mlflow import MlflowClient
from test_bad_input import refused

from harness.recipes import RECIPES

pytestmark = pytest.mark.slow

CANCER = ("--space", "cancer.py", "--epochs", "1")


def test_several_teachers_are_trained_and_their_study_says_all_their_digests(example: Path) -> None:
    command = (*CANCER, "--trials", "2", "--teachers", "2", "--recipe", "hinton", "--min", "none")
    output = search(example, *command)
    assert "teacher 1 trained in" in output and "teacher 2 trained in" in output and "ensemble  accuracy" in output
    client = MlflowClient(f"sqlite:///{example}/mlflow.db")
    teachers = client.search_runs(["1"], "tags.kd.role = 'teacher'")
    digests = sorted(run.data.tags["kd.teacher"] for run in teachers)
    assert len(digests) == 2 and {run.info.status for run in teachers} == {"FINISHED"}
    (parent,) = client.search_runs(["1"], "tags.kd.role = 'study'")
    assert parent.data.tags["kd.teacher"] == f"probabilities of {digests[0]}, {digests[1]}"
    assert f"The teacher is the mean of the probabilities of {digests[0]}, {digests[1]};" in output
    first = load(example, "cancer").trials[0]
    assert first.user_attrs["recipe"] == "hinton" and RECIPES["hinton"].items() <= first.params.items()
    error = refused(example, *CANCER, "--trials", "3", "--teachers", "2", "--ensemble", "logits", "--min", "none")
    assert "study 'cancer' was begun with other teacher (probabilities of " in error
    assert "is finished: 2 trials" in search(example, *command)


def test_a_student_of_one_study_teaches_the_next(finished: Path, example: Path) -> None:
    trial = load(finished, "cancer").trials[0]
    student = finished / "mlruns" / "trials" / "cancer" / "0" / "student.safetensors"
    chain = (*CANCER, "--trials", "1", "--fix", "width=1", "--teacher", str(student))
    output = search(example, *chain, "--study", "chain")
    assert "trained in" not in output
    teacher = load(example, "chain").user_attrs["kd.teacher"]
    for name in ("accuracy", "ece", "parameters", "macs"):
        assert teacher[name] == pytest.approx(trial.user_attrs["metrics"][name])
    # Beside a teacher of another size, both are members of one ensemble.
    (large,) = (finished / "mlruns" / "cache" / "teachers").glob("*/teacher.safetensors")
    search(example, *chain, "--teacher", str(large), "--study", "both")
    both = load(example, "both").user_attrs["kd.teacher"]
    assert both["parameters"] == teacher["parameters"] + load(finished, "cancer").user_attrs["kd.teacher"]["parameters"]
    (example / "other.py").write_text(EXAMPLE)
    error = refused(example, "--space", "other.py", "--teacher", str(student))
    assert "must be a student of the space 'other' to teach there, but is one of 'cancer'" in error


def test_a_recipe_that_is_out_of_reach_makes_no_study(example: Path) -> None:
    error = refused(example, *CANCER, "--recipe", "hinton", "--fix", "temperature=5")
    assert error == ("error: --recipe hinton can't be tried: its temperature is 2, and the space has it fixed at 5.")
    assert not (example / "optuna.db").exists()


def test_no_recipe_is_tried_where_none_is_wanted(example: Path) -> None:
    search(example, *CANCER, "--trials", "3", "--recipe", "none", "--recipe", "deit")
    assert [trial.user_attrs.get("recipe") for trial in load(example, "cancer").trials] == ["deit", None, None]
