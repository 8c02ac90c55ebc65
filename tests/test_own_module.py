"""A search of students that train themselves: controlled, logged, killed and resumed, confirmed, taught by one."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import PATIENCE_S, ROOT, engine, environment, epochs_of_checkpoint, load, numbers, search, start
from mlflow import MlflowClient
from safetensors.torch import load_file

from harness import load_study

pytestmark = pytest.mark.slow

FILE = ROOT / "examples" / "own_module.py"
TEACHER = "nn.Linear(64, 512), nn.Dropout(0.3), nn.ReLU(), nn.Linear(512, 10)"
HEAD = '''import os
import signal
from pathlib import Path

import numpy as np

calls = 0


def die():
    """Kill the process in the middle of the fourth epoch of the first trial, once."""
    global calls
    calls += 1
    if calls == CALLS and not Path(__file__).with_name("died").exists():
        Path(__file__).with_name("died").touch()
        os.kill(os.getpid(), signal.SIGKILL)


class Perceptron('''
STEP = "        logits = self(batch.inputs)\n"
OWN_STEP = STEP + "        die()\n        logits = logits + 0.01 * np.random.rand() + 0.01 * torch.rand_like(logits)\n"
FLAGS = ("--space", "own.py", "--pruner", "none", "--sampler", "random", "--epochs", "6")
BATCHES = 17  # 1,077 samples in batches of 64
PROBED = 10  # steps of the trainings of few samples: 2 epochs, the last of them again, and those of a control
ALONE = """        if self.weights["alpha"] == 1:
            return nn.functional.cross_entropy(logits, batch.target)
"""


def written(folder: Path, *edits: tuple[str, str], calls: int = 0) -> None:
    """The example, with draws from NumPy and torch in its steps, a teacher for it, and a kill at a step."""
    text = FILE.read_text()
    edits = (("class Perceptron(", HEAD.replace("CALLS", str(calls))), (STEP, OWN_STEP), *edits)
    for old, new in edits:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    (folder / "own.py").write_text(text)


def events(folder: Path, run: str) -> list[dict[str, Any]]:
    spool = folder / "mlruns" / "trials" / "own" / run / "spool.jsonl"
    return [json.loads(line) for line in spool.read_text().splitlines()]


def students(folder: Path, number: int) -> dict[str, torch.Tensor]:
    return load_file(folder / f"mlruns/trials/own/{number}/student.safetensors")


def command(folder: Path, *arguments: str, expect: int = 0) -> str:
    return " ".join(engine(folder, *arguments, expect=expect).split())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole search with controls."""
    folder = tmp_path_factory.mktemp("undisturbed")
    written(folder)
    (folder / "said.txt").write_text(search(folder, *FLAGS, "--trials", "4", "--min", "none"))
    return folder


def test_the_example_is_short() -> None:
    assert len(FILE.read_text().splitlines()) < 60


def test_a_search_says_how_students_are_trained_and_trains_their_controls(undisturbed: Path) -> None:
    output = " ".join((undisturbed / "said.txt").read_text().split())
    assert "training by module() itself, with SGD" in output and "4/4 done" in output
    assert "trainings on labels alone" in output and "no control possible" not in output
    assert "will not be used" not in output
    folders = (undisturbed / "mlruns/trials/own").glob("controls/[0-9]*")
    numbers_of = [path.name for path in folders]
    assert numbers_of
    for number in numbers_of:
        trial, control = (events(undisturbed, run) for run in (number, f"controls/{number}"))
        params = [next(event["params"] for event in each if "params" in event) for each in (trial, control)]
        assert params[1] == {**params[0], "alpha": "1.0"}
        assert control[-1]["state"] == "COMPLETE"


def test_each_run_has_the_curves_that_have_a_meaning(undisturbed: Path) -> None:
    client = MlflowClient(f"sqlite:///{undisturbed}/mlflow.db")
    runs = client.search_runs(["1"], "tags.kd.role = 'trial'")
    assert len(runs) == 4 and {run.info.status for run in runs} == {"FINISHED"}
    for run in runs:
        curves = {name for name in run.data.metrics if name.startswith(("train/", "val/"))}
        assert curves == {"train/loss", "train/accuracy", "val/accuracy", "val/agreement"}
        curve = client.get_metric_history(run.info.run_id, "val/accuracy")
        assert sorted(point.step for point in curve) == [0, 1, 2, 3, 4, 5]
        assert curve[-1].value == pytest.approx(run.data.metrics["accuracy"])


def test_a_saved_student_answers_as_it_was_scored(undisturbed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(undisturbed)
    result = load_study("own", space="own.py")
    from harness.space import load_space

    val = load_space(Path("own.py")).task.data(None).splits["val"]
    for trial in load(undisturbed, "own").trials:
        student = result.student(trial.number)
        assert student.lr == trial.params["lr"]  # built with the trial's own parameters
        with torch.no_grad():
            found = float((student(val.inputs).argmax(-1) == val.labels).double().mean())
        assert found == pytest.approx(trial.user_attrs["metrics"]["accuracy"])
        assert trial.user_attrs["metrics"]["parameters"] == 75 * trial.params["width"] + 10


def test_a_search_that_is_killed_within_an_epoch_goes_on_to_the_same_bits(undisturbed: Path, tmp_path: Path) -> None:
    written(tmp_path, calls=PROBED + 3 * BATCHES + 3)
    killed = start(tmp_path, *FLAGS, "--trials", "2", "--no-controls")
    try:
        assert killed.wait(PATIENCE_S) in (-signal.SIGKILL, 128 + signal.SIGKILL), (tmp_path / "output.txt").read_text()
    finally:
        killed.kill()
        killed.wait()
    assert 1 <= epochs_of_checkpoint(tmp_path, "own", 0) <= 3
    assert "resumes after epoch" in search(tmp_path, *FLAGS, "--trials", "2", "--no-controls")
    assert numbers(tmp_path, "own") == numbers(undisturbed, "own")[:2]
    for number in range(2):
        one, other = students(tmp_path, number), students(undisturbed, number)
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    curves = [
        {event["step"]: event["values"] for event in events(folder, "0") if event.get("step") is not None}
        for folder in (tmp_path, undisturbed)
    ]
    assert curves[0] == curves[1]


def test_its_picks_are_confirmed_and_reported(undisturbed: Path) -> None:
    said = command(undisturbed, "confirm", "--study", "own", "--seeds", "2", "--space", "own.py")
    assert "Confirmed on the test split" in said and "control" in said
    assert "own: the Pareto front of accuracy" in command(undisturbed, "report", "--study", "own")


def test_a_student_that_trained_itself_teaches_another_one(undisturbed: Path) -> None:
    file = "mlruns/trials/own/0/student.safetensors"
    flags = ("--study", "taught", "--teacher", file, "--trials", "1", "--controls", "none")
    assert "1/1 done" in search(undisturbed, "--space", "own.py", "--epochs", "2", "--min", "none", *flags)
    reached = load(undisturbed, "own").trials[0].user_attrs["metrics"]["accuracy"]
    assert load(undisturbed, "taught").user_attrs["kd.teacher"]["accuracy"] == pytest.approx(reached)


def test_the_doctor_checks_a_step_of_its_training(undisturbed: Path, tmp_path: Path) -> None:
    found = command(undisturbed, "doctor", "--space", "own.py")
    assert "ok methods by module() itself, with SGD; the same when it is resumed; its control reads no" in found
    assert "ok training each of 3 parameters changes the trained student" in found
    assert "gradients, distillation, losses, last batch" in found and "FAILED" not in found
    written(tmp_path, ("batch.target, **self.weights)", "batch.target, **self.weights).detach()"))
    found = command(tmp_path, "doctor", "--space", "own.py", expect=1)
    assert re.search(r"FAILED methods .*a finite number with a gradient, but has no gradient → compute it from", found)
    written(tmp_path, ("self.parameters(), lr=self.lr", "self.net[3].parameters(), lr=self.lr"))
    found = command(tmp_path, "doctor", "--space", "own.py")
    assert "warning methods no optimizer of a student has net.1.weight, net.1.bias, which" in found


def test_a_module_whose_control_reads_the_teacher_claims_no_gain(tmp_path: Path) -> None:
    written(tmp_path, (ALONE, ""))
    output = " ".join(search(tmp_path, *FLAGS, "--trials", "3", "--epochs", "2", "--min", "none").split())
    assert "3/3 done" in output
    reason = "no control possible: module(alpha=1) reads batch.teacher['logits'] all the same; let module() take"
    assert output.count(f"controls {reason}") == 1
    assert f"No control possible: {reason.partition(': ')[2].partition(';')[0]}; no gain is claimed." in output
    assert not (tmp_path / "mlruns/trials/own/controls").exists()
    said = command(tmp_path, "confirm", "--study", "own", "--seeds", "2", "--space", "own.py")
    assert "no control possible" in said


def test_a_fault_of_a_module_is_one_line_before_anything_trains(tmp_path: Path) -> None:
    written(tmp_path, ('batch.teacher["logits"]', 'batch.teacher["features"]'))
    output = search(tmp_path, *FLAGS, "--trials", "1", expect=2)
    (error,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert "the task's module()'s training fails in own.py, line" in error and "KeyError: 'features'" in error
    assert "teacher   " not in output and not load(tmp_path, "own").trials


def test_other_code_of_a_module_is_another_study(undisturbed: Path, tmp_path: Path) -> None:
    written(tmp_path)
    flags = (*FLAGS, "--no-controls", "--min", "none", "--trials")
    assert "1/1 done" in search(tmp_path, *flags, "1")
    written(tmp_path, ("momentum=0.9)", "momentum=0.8)"))
    output = search(tmp_path, *flags, "2", expect=2)
    assert "own.py" in output and "--accept-changes" in output


SCRIPT = """
from dataclasses import replace

import harness
from own import SPACE as declared

result = harness.search(
    replace(declared), trials=3, epochs=2, study="live", controls="none", min="none", workers=2
)
print(len(result.trials), "trials of", type(result.student(0)).__name__)
"""


def test_a_space_in_no_file_is_searched_from_python_by_forks(tmp_path: Path) -> None:
    written(tmp_path)
    (tmp_path / "script.py").write_text(SCRIPT)
    several = {**environment(), "OMP_NUM_THREADS": "1"}
    found = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, env=several, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert "3 trials of Perceptron" in found.stdout


def test_samples_are_mixed_alike_for_a_module_and_its_control_and_no_teacher_is_there(tmp_path: Path) -> None:
    noted = """        kept = [batch.inputs.sum(), batch.target.sum(0).max(), *batch.target[0].topk(2).values]
        with open("seen.txt", "a") as file:
            line = f"{type(batch.teacher).__name__} {' '.join(f'{float(one):.5f}' for one in kept)}"
            file.write(line + chr(10))
"""
    accuracy = '        self.log("train/accuracy", (logits.argmax(-1) == batch.target).float().mean())\n'
    augment = "augment=Augment(noisy, views='fresh', mix=MixUp(0.4))"
    written(
        tmp_path,
        (
            "        return digits(batch_size=64)",
            f"        return TensorDataModule(**digits(batch_size=64).splits, {augment})",
        ),
        ("class Digits(Task):", "def noisy(x):\n    return x + torch.rand(1)\n\n\nclass Digits(Task):"),
        ("from harness import SearchSpace, Task", "from harness import SearchSpace, Task\n" + MIXING),
    )
    flags = (*FLAGS, "--epochs", "1", "--trials", "1", "--workers", "1", "--controls", "plain", "--min", "none")
    output = search(tmp_path, *flags, expect=2)
    assert "module()'s training, in whose batch.target are shares of classes, for samples are mixed, fails" in output
    file = tmp_path / "own.py"
    file.write_text(file.read_text().replace(accuracy, noted))
    output = search(tmp_path, *flags, "--fix", "alpha=0.5")
    assert "asked live about each batch" in output and "no control possible" not in output
    seen = [line.split(" ", 1) for line in (tmp_path / "seen.txt").read_text().splitlines()]
    of_student = [line for teacher, line in seen if teacher == "dict"][-BATCHES:]
    of_control = [line for teacher, line in seen if teacher == "HiddenTeacher"][-BATCHES:]
    assert len(of_student) == BATCHES and of_student == of_control
    assert any(not line.endswith(" 0.00000") for line in of_student)  # two classes share a sample


MIXING = "from lightning_modules.data import Augment, MixUp, TensorDataModule"
