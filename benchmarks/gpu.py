"""Trials on a GPU: a stored beside a live teacher, and bfloat16 beside float32; one table.

    python benchmarks/gpu.py                    # on the GPU
    python benchmarks/gpu.py --accelerator cpu --samples 2000 --epochs 1 --runs 1   # tries the script

A trial is one student on Fashion-MNIST, trained and scored. The teacher has drawn weights: it takes as long as a
trained one. The first trial of each row warms the device up, and is not counted.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import nn

from harness.space import Configuration, SearchSpace
from harness.teachers.outputs import run_teacher
from harness.training.fit import device_of
from harness.trials.trial import TrainingSpec, ordered_logits, train_student
from lightning_modules.data import TensorDataModule
from lightning_modules.data.live import LiveTeacher
from lightning_modules.training import Training
from lightning_modules.training.precision import used_precision
from search_spaces.fashion_mnist import SPACE, FashionMNIST


class Half(FashionMNIST):
    """The same, trained in bfloat16."""

    training: ClassVar[Training] = Training(precision="bf16-mixed")


def trial_s(space: SearchSpace, data: TensorDataModule, width: int, accelerator: str) -> float:
    """Return the seconds that it takes to train a student and to score it."""
    configuration = Configuration({"width": width}, {"temperature": 4.0, "alpha": 0.3}, {"learning_rate": 0.01})
    prepared: Any = SimpleNamespace(data=data, classes=10)
    spec = TrainingSpec(configuration=configuration, seed=0, order_seed=0)
    started_s = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        student = train_student(spec, space, prepared, folder=Path(folder), accelerator=accelerator)
        ordered_logits(student.to(data.device), data, "val").cpu()  # waits for the device
    return time.perf_counter() - started_s


def asked(data: TensorDataModule, teacher: nn.Module, *, live: bool) -> float:
    """Let a teacher teach, by outputs that are stored or live, and return the seconds that storing took."""
    started_s = time.perf_counter()
    outputs = run_teacher(teacher, data, splits=("val",) if live else ("train", "val"))
    data.live = LiveTeacher([teacher], average=lambda logits: logits[0]) if live else None
    data.attach(outputs)
    return time.perf_counter() - started_s


def main() -> None:
    """Time each kind of trial, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accelerator", default="gpu")
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--width", type=int, default=24)
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    device = device_of(given.accelerator)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    data = SPACE.task.data(None)
    data.splits = {split: part.few(given.samples) for split, part in data.splits.items()}
    data.move_to(device)
    teacher = SPACE.task.teacher().to(device).eval().requires_grad_(False)
    print(f"{name}, torch {torch.__version__}, width {given.width}, {given.epochs} epochs, median of {given.runs}\n")
    print("| teacher | precision | storing s | trial s | beside the first |\n|---|---|---|---|---|")
    first_s = 0.0
    for live in (False, True):
        storing_s = asked(data, teacher, live=live)
        for task in (SPACE.task, Half()):
            space = replace(SPACE, task=task, epochs=given.epochs)
            times_s = [trial_s(space, data, given.width, given.accelerator) for _ in range(given.runs + 1)][1:]
            found_s = statistics.median(times_s)
            first_s = first_s or found_s
            cells = ("live" if live else "stored", used_precision(task.training.precision, device), f"{storing_s:.1f}")
            print(f"| {' | '.join(cells)} | {found_s:.2f} | {found_s / first_s:.2f} x |", flush=True)


if __name__ == "__main__":
    main()
