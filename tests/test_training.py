"""A search of students that are not trained by the default: told, controlled, logged, killed and resumed."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import EXAMPLE, PATIENCE_S, epochs_of_checkpoint, load, numbers, search, start
from safetensors.torch import load_file

from harness.space import load_space
from harness.training.tensor_file import load_state

pytestmark = pytest.mark.slow

TRAINING = 'training={"learning_rate": FloatDistribution(1e-3, 1e-1, log=True)},'
OWN = """training={
        "learning_rate": FloatDistribution(1e-2, 3e-1, log=True),
        "batch_size": CategoricalDistribution([16, 48]),
        "label_smoothing": FloatDistribution(0, 0.2),
    },"""
SGD = """    training = Training(
        optimizer="sgd", momentum=0.8, schedule="cosine", warmup=0.1, clip_norm=1.0, ema_decay=0.9, accumulate=2
    )

    def data(self"""
HEAD = """import os
import signal
from pathlib import Path
from optuna.distributions import CategoricalDistribution
from lightning_modules.training import Training

calls = 0


def die(module, inputs):
    \"\"\"Kill the process in the middle of the fourth epoch of the first trial, once.\"\"\"
    global calls
    if module.training and torch.is_grad_enabled():
        calls += 1
        if calls == CALLS and not Path(__file__).with_name("died").exists():
            Path(__file__).with_name("died").touch()
            os.kill(os.getpid(), signal.SIGKILL)


def perceptron("""
STUDENT = "        return perceptron(width)"
HOOKED = """        network = perceptron(width)
        network.register_forward_pre_hook(die)
        return network"""
FLAGS = ("--space", "cancer.py", "--pruner", "none", "--sampler", "random", "--epochs", "6")
TRAIN_SAMPLES = 341


def written(folder: Path, calls: int = 0) -> None:
    """The README's example with a training of its own, whose process is killed at a call of a student in training."""
    text = EXAMPLE
    for old, new in (
        (TRAINING, OWN),
        ("    def data(self", SGD),
        ("def perceptron(", HEAD.replace("CALLS", str(calls))),
        (STUDENT, HOOKED),
    ):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    (folder / "cancer.py").write_text(text)


def events(folder: Path, run: str) -> list[dict[str, Any]]:
    spool = folder / "mlruns" / "trials" / "cancer" / run / "spool.jsonl"
    return [json.loads(line) for line in spool.read_text().splitlines()]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole search with controls."""
    folder = tmp_path_factory.mktemp("undisturbed")
    written(folder)
    (folder / "output-kept.txt").write_text(search(folder, *FLAGS, "--trials", "4", "--min", "none"))
    return folder


def test_a_search_says_how_students_are_trained(undisturbed: Path) -> None:
    output = " ".join((undisturbed / "output-kept.txt").read_text().split())
    assert "4/4 done" in output and "trainings on labels alone" in output
    assert (
        "training optimizer sgd, momentum 0.8, schedule cosine, warmup 0.1, accumulate 2, clip_norm 1.0, ema_decay 0.9"
        "; searched: learning_rate, batch_size, label_smoothing" in output
    )
    assert "ema_decay 0.9 is not reached: it has grown to" in output  # 48 samples, two batches a step: 24 steps


def test_each_run_holds_what_was_searched_and_what_was_set(undisturbed: Path) -> None:
    runs = ["0", *(f"controls/{path.name}" for path in (undisturbed / "mlruns/trials/cancer/controls").glob("[0-9]*"))]
    assert len(runs) > 1
    for run in runs:
        params = next(event["params"] for event in events(undisturbed, run) if "params" in event)
        assert params["training.optimizer"] == "sgd" and params["training.ema_decay"] == "0.9"
        assert str(params["batch_size"]) in ("16", "48") and "label_smoothing" in params


def test_the_saved_student_is_the_averaged_one_that_was_validated(undisturbed: Path) -> None:
    space = load_space(undisturbed / "cancer.py")
    val = space.task.data(None).splits["val"]
    for trial in load(undisturbed, "cancer").trials:
        student = space.task.student(width=trial.params["width"])
        load_state(student, load_file(undisturbed / f"mlruns/trials/cancer/{trial.number}/student.safetensors"))
        with torch.no_grad():
            found = float((student.eval()(val.inputs).argmax(-1) == val.labels).double().mean())
        assert found == pytest.approx(trial.user_attrs["metrics"]["accuracy"])
        last = [event["values"] for event in events(undisturbed, str(trial.number)) if event.get("step") == 5]
        assert found == pytest.approx(last[0]["val/accuracy"])


def test_a_search_that_is_killed_within_an_epoch_goes_on_to_the_same_bits(undisturbed: Path, tmp_path: Path) -> None:
    batches = -(-TRAIN_SAMPLES // load(undisturbed, "cancer").trials[0].params["batch_size"])
    written(tmp_path, calls=3 * batches + 3)
    killed = start(tmp_path, *FLAGS, "--trials", "2", "--no-controls")
    try:
        assert killed.wait(PATIENCE_S) in (-signal.SIGKILL, 128 + signal.SIGKILL), (tmp_path / "output.txt").read_text()
    finally:
        killed.kill()
        killed.wait()
    assert 1 <= epochs_of_checkpoint(tmp_path, "cancer", 0) <= 3
    assert "resumes after epoch" in search(tmp_path, *FLAGS, "--trials", "2", "--no-controls")
    assert numbers(tmp_path, "cancer") == numbers(undisturbed, "cancer")[:2]
    for number in range(2):
        one, other = (
            load_file(f / f"mlruns/trials/cancer/{number}/student.safetensors") for f in (tmp_path, undisturbed)
        )
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
