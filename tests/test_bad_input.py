"""What a person gets wrong, or what happens to them: one clear line, a non-zero exit, and nothing harmed."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import sqlite3
from pathlib import Path

import mlflow
import optuna
import pytest
import torch
from conftest import EXAMPLE, load, numbers, search
from safetensors.torch import load as load_tensors
from safetensors.torch import load_file

pytestmark = pytest.mark.slow

FAILING_STUDENTS = (
    EXAMPLE.replace(
        "        return perceptron(width)\n",
        """\
        student = perceptron(width)
        if width == 2:
            student.append(NotANumber())
        if width == 3:
            student.append(Greedy())
        return student
""",
    )
    + """

class NotANumber(nn.Module):
    def forward(self, logits):
        return logits * (float("nan") if self.training else 1)


class Greedy(nn.Module):
    def forward(self, logits):
        if self.training:
            torch.empty(2**60)
        return logits
"""
)


RAISING = """if torch.is_grad_enabled():  # not when students are looked at before the search
            raise KeyError('a bug')"""


def only_line(output: str) -> str:
    """The error of an output that must hold one line about it, and no traceback."""
    lines = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in output, output
    return lines[0]


def refused(folder: Path, *arguments: str) -> str:
    return only_line(search(folder, *arguments, expect=2))


def test_a_space_file_with_an_error_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import torch\n\nSPACE = torch.nothing()\n")
    error = refused(tmp_path, "--space", "mine.py")
    assert error.startswith("error: space file mine.py, line 3: AttributeError: module 'torch' has no attribute")
    assert not (tmp_path / "optuna.db").exists()


@pytest.mark.parametrize(
    ("code", "broken", "what", "error"),
    [
        ("return perceptron(width)", "return perceptron[width]", "student(width=4)", "TypeError: 'function' object"),
        ("return perceptron(256)", "return perceptron[256]", "teacher", "TypeError: 'function' object"),
        ("splits = stratified_splits(", "splits = stratify(", "data", "NameError: name 'stratify' is not defined"),
    ],
)
def test_what_cannot_be_made_is_told_with_its_line_before_the_search(
    code: str, broken: str, what: str, error: str, tmp_path: Path
) -> None:
    text = EXAMPLE.replace(code, broken)
    (tmp_path / "mine.py").write_text(text)
    (line,) = (number for number, line in enumerate(text.splitlines(), 1) if broken in line)
    found = refused(tmp_path, "--space", "mine.py")
    assert found.startswith(f"error: the task's {what} fails in mine.py, line {line}: {error}")
    assert found.endswith("python -m harness doctor --space mine.py")


def test_class_names_that_do_not_name_each_class_are_refused(tmp_path: Path) -> None:
    named = EXAMPLE.replace("BreastCancer(Task):\n", 'BreastCancer(Task):\n    class_names = ("malignant",)\n')
    (tmp_path / "mine.py").write_text(named)
    error = refused(tmp_path, "--space", "mine.py")
    assert error == (
        "error: the task's class_names must name each of its 2 classes, but name 1; give each a name, in their order, "
        "or leave class_names out."
    )


def test_a_study_is_not_resumed_as_another(finished: Path, tmp_path: Path) -> None:
    before, where = numbers(finished, "cancer"), finished.resolve()
    finished = Path(shutil.copytree(finished, tmp_path / "copy"))
    same = ("--space", "cancer.py", "--epochs", "6")
    error = refused(finished, *same, "--objectives", "accuracy,macs")
    assert "'cancer' was created with --objectives accuracy,latency_p50_ms,parameters " in error
    assert "cannot be resumed with accuracy,macs; use --study to name a new one" in error
    assert "was created with --epochs 6 and cannot be resumed with 7" in refused(finished, *same[:2], "--epochs", "7")
    assert "was created with --seed 0 and cannot be resumed with 1" in refused(finished, *same, "--seed", "1")
    error = refused(finished, "--study", "cancer", "--epochs", "6")
    assert f"was created with --space {where}/cancer.py and cannot be resumed with digits;" in error
    (finished / "wider").mkdir(exist_ok=True)
    (finished / "wider" / "cancer.py").write_text(EXAMPLE.replace("IntDistribution(1, 16", "IntDistribution(1, 17"))
    error = refused(finished, "--space", "wider/cancer.py", "--epochs", "6")
    assert "width: 1-16 log" in error and "width: 1-17 log" in error
    (finished / "wider" / "cancer.py").write_text(EXAMPLE.replace("perceptron(256)", "perceptron(128)"))
    error = refused(finished, "--space", "wider/cancer.py", "--epochs", "6", "--trials", "9")
    assert "was begun with other code: cancer.py has `return perceptron(128)` where `return perceptron(256)` " in error
    edited = EXAMPLE.replace("return perceptron(width)", "return nn.Sequential(perceptron(width), nn.Tanh())")
    (finished / "wider" / "cancer.py").write_text(edited)
    error = refused(finished, "--space", "wider/cancer.py", "--epochs", "6", "--trials", "9")
    assert "study 'cancer' was begun with other code: cancer.py has" in error and "--study to name a new one" in error
    assert numbers(finished, "cancer") == before


def test_a_value_outside_its_range_and_an_unknown_objective_are_refused(example: Path) -> None:
    space = ("--space", "cancer.py")
    assert "--fix alpha must lie in [0.0, 1.0], but got 1.5" in refused(example, *space, "--fix", "alpha=1.5")
    assert "--fix must name a parameter of the space (width," in refused(example, *space, "--fix", "beta=1")
    error = refused(example, *space, "--objectives", "accuracy,speed")
    assert "--objectives must name some of accuracy," in error and "but got 'speed'" in error
    error = refused(example, *space, "--accelerator", "gpu2")
    assert "--accelerator must be auto or one of what this machine has (cpu), but got 'gpu2'" in error
    assert "study " not in search(example, *space, "--accelerator", "gpu2", expect=2)  # the error stands alone
    assert optuna.get_all_study_names(f"sqlite:///{example}/optuna.db") == []


def test_a_budget_that_no_student_meets_names_the_cheapest(example: Path) -> None:
    error = refused(example, "--space", "cancer.py", "--epochs", "1", "--max", "parameters=90")
    assert "none is within parameters=90; the cheapest, width=1, has parameters 95." in error
    assert not load(example, "cancer").trials
    tracked = mlflow.MlflowClient(f"sqlite:///{example}/mlflow.db")
    experiment = tracked.get_experiment_by_name("kd-cancer")
    assert experiment is not None
    found = tracked.search_runs([experiment.experiment_id])
    assert [(run.data.tags["kd.role"], run.info.status) for run in found] == [("teacher", "FINISHED")]
    # What failed at its first start binds nobody: the corrected command is taken.
    output = search(example, "--space", "cancer.py", "--epochs", "1", "--trials", "1", "--max", "parameters=95")
    assert "1 trials of cancer, front, parameters at most 95" in output and len(load(example, "cancer").trials) == 1
    error = refused(example, "--space", "cancer.py", "--max", "speed=2")
    assert "error: --max must name a cost (parameters, trainable_parameters, macs, size_mb, latency_p50_ms, " in error
    assert "but got 'speed'." in error
    assert "must give macs a positive number, but got 'macs=0'" in refused(example, "--max", "macs=0")


def test_digits_do_not_pass_over_a_folder_that_they_would_not_read(tmp_path: Path) -> None:
    error = refused(tmp_path, "--data-dir", str(tmp_path))
    assert "digits ship with scikit-learn and are read from nowhere else, but got --data-dir" in error


def test_an_unreachable_storage_or_tracking_server_is_said_without_its_password(example: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    space = ("--space", "cancer.py", "--trials", "1")
    error = refused(example, *space, "--storage", f"postgresql+psycopg://me:s3cret@127.0.0.1:{port}/kd")
    assert f"--storage postgresql+psycopg://me:***@127.0.0.1:{port}/kd can't be used" in error
    assert "s3cret" not in (example / "output.txt").read_text()
    error = refused(example, *space, "--tracking-uri", f"http://me:s3cret@127.0.0.1:{port}")
    assert "--tracking-uri must be the address of a tracking store that answers, but MLflow at" in error
    assert f"http://me:***@127.0.0.1:{port} does not: " in error
    assert "s3cret" not in (example / "output.txt").read_text()
    assert "--storage must be sqlite:///FILE (for one machine)" in refused(example, *space, "--storage", "nonsense://")
    assert "can't be used" in refused(example, *space, "--storage", "sqlite:////nowhere/at/all.db")


def test_fashion_mnist_without_its_files_says_what_to_put_where(tmp_path: Path) -> None:
    error = refused(tmp_path, "--space", "fashion-mnist", "--data-dir", str(tmp_path))
    assert "expected train-images-idx3-ubyte or train-images-idx3-ubyte.gz in" in error and "--data-dir" in error


def test_a_teacher_that_does_not_fit_is_refused(finished: Path, example: Path) -> None:
    (example / "cancer.py").write_text(EXAMPLE.replace("perceptron(256)", "perceptron(128)"))
    (kept,) = (finished / "mlruns" / "cache" / "teachers").glob("*/teacher.safetensors")
    error = refused(example, "--space", "cancer.py", "--teacher", str(kept))
    assert "must fit the task's teacher, whose '1.weight' has shape (128, 30)" in error and "(256, 30)" in error
    (example / "noise.ckpt").write_bytes(b"noise")
    assert "can't be read" in refused(example, "--space", "cancer.py", "--teacher", "noise.ckpt")
    assert "there is no file 'none.ckpt'" in refused(example, "--space", "cancer.py", "--teacher", "none.ckpt")


def test_what_was_refused_is_not_what_the_study_goes_on_with(finished: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "copy"))
    before = load(folder, "cancer").user_attrs["kd.sources"]
    (folder / "noise.ckpt").write_bytes(b"noise")
    more = ("--space", "cancer.py", "--epochs", "6", "--trials", "9")
    refused(folder, *more, "--teacher", "noise.ckpt")
    assert load(folder, "cancer").user_attrs["kd.sources"] == before
    search(folder, *more)
    after = {**before, "trials": 9, "space_file": str((folder / "cancer.py").resolve())}
    assert load(folder, "cancer").user_attrs["kd.sources"] == after


def test_trials_that_fail_by_their_own_doing_are_recorded_and_the_search_goes_on(tmp_path: Path) -> None:
    (tmp_path / "failing.py").write_text(FAILING_STUDENTS)
    command = ("--space", "failing.py", "--trials", "24", "--epochs", "1", "--sampler", "random")
    output = search(tmp_path, *command)
    reasons: dict[int, set[str]] = {2: set(), 3: set()}
    for trial in load(tmp_path, "failing").trials:
        failing = trial.params["width"] in reasons
        assert (trial.state.name == "FAIL") == failing
        if failing:
            reasons[trial.params["width"]].add(trial.user_attrs["reason"].split(":")[0])
    assert reasons == {2: {"train/loss is nan in epoch 0"}, 3: {"out of memory"}}
    assert "trials failed" in output
    from mlflow import MlflowClient

    failed = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").search_runs(["1"], "tags.kd.state = 'FAIL'")
    assert {run.info.status for run in failed} == {"FAILED"}
    assert all(run.data.tags["kd.reason"] for run in failed)
    assert "is finished: 24 trials" in search(tmp_path, *command)  # they count, and are not tried again


def test_a_bug_in_a_task_stops_the_search_with_its_traceback_kept(tmp_path: Path) -> None:
    bug = FAILING_STUDENTS.replace("if self.training:\n            torch.empty(2**60)", RAISING).replace(
        "width == 2", "width == 0"
    )
    (tmp_path / "buggy.py").write_text(bug)
    output = search(tmp_path, "--space", "buggy.py", "--trials", "5", "--epochs", "1", "--fix", "width=3", expect=2)
    assert "trial 0 failed: KeyError: 'a bug' (traceback: mlruns/trials/buggy/0/failure.txt)" in only_line(output)
    assert "raise KeyError('a bug')" in (tmp_path / "mlruns/trials/buggy/0/failure.txt").read_text()


@pytest.mark.parametrize(
    ("pattern", "word"),
    [
        ("teachers/*/teacher.safetensors", "the kept teacher"),
        ("teacher_outputs/*.safetensors", "the kept teacher outputs"),
        ("costs/*.json", "the kept cost table"),
    ],
)
def test_a_damaged_cache_is_said_and_made_again(example: Path, finished: Path, pattern: str, word: str) -> None:
    shutil.copytree(finished / "mlruns" / "cache", example / "mlruns" / "cache")
    (kept,) = (example / "mlruns" / "cache").glob(pattern)
    whole = kept.read_bytes()
    tensors = load_tensors(whole) if kept.suffix == ".safetensors" else {}
    kept.write_bytes(whole[:-7] + bytes(7) if kept.suffix == ".safetensors" else whole[:-7])
    output = search(example, "--space", "cancer.py", "--trials", "1", "--epochs", "6")
    assert word in output and "damaged" in output
    assert numbers(example, "cancer")[0] == numbers(finished, "cancer")[0]
    again = load_file(kept) if tensors else {}
    assert all(torch.equal(again[name], value) for name, value in tensors.items())  # the same bits, made again


def test_methods_that_do_not_fit_are_refused_before_a_teacher_is_made(tmp_path: Path) -> None:
    error = refused(tmp_path, "--space", "digits-methods", "--teachers", "2", "--trials", "1")
    assert "one teacher must be left where layers teach" in error and error.endswith("--fix method=soft_target.")
    flat = 'distillation={"temperature": FloatDistribution(1, 10, log=True), "alpha": FloatDistribution(0, 1)},'
    weights = '"target_weight": FloatDistribution(1, 2), "non_target_weight": FloatDistribution(1, 2)'
    decoupled = f'distillation={{"decoupled": {{"temperature": FloatDistribution(1, 10), {weights}}}}},'
    assert EXAMPLE.count(flat) == 1
    (tmp_path / "cancer.py").write_text(EXAMPLE.replace(flat, decoupled))
    error = refused(tmp_path, "--space", "cancer.py", "--trials", "1")
    assert "method 'decoupled' can't be searched: it needs 3 classes or more, but the task has 2." in error
    assert not list((tmp_path / "mlruns").glob("cache/teachers/**/*.safetensors"))


def id_of_the_study(folder: Path) -> str:
    """Return the id, and leave no connection open, whose log would stay beside a database that is renamed."""
    with contextlib.closing(sqlite3.connect(folder / "optuna.db")) as database:
        (found,) = database.execute("select value_json from study_user_attributes where key = 'kd.id'").fetchone()
    return str(json.loads(found))


def test_a_folder_of_a_namesake_in_another_storage_is_put_aside(example: Path) -> None:
    command = ("--space", "cancer.py", "--trials", "1", "--epochs", "1")
    search(example, *command)
    first = id_of_the_study(example)
    (example / "optuna.db").rename(example / "older.db")
    search(example, *command)
    second = id_of_the_study(example)
    assert first != second
    assert (example / "mlruns" / "trials" / f"cancer.{first[:8]}" / "0" / "student.safetensors").exists()
    assert (example / "mlruns" / "trials" / "cancer" / "0" / "student.safetensors").exists()
    (example / "optuna.db").rename(example / "newer.db")
    (example / "older.db").rename(example / "optuna.db")
    assert "is finished: 1 trials" in search(example, *command)
    assert (example / "mlruns" / "trials" / f"cancer.{second[:8]}" / "0" / "student.safetensors").exists()
    assert (example / "mlruns" / "trials" / "cancer" / "0" / "student.safetensors").exists()
